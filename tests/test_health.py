"""What sightings remember, and for how long."""

from __future__ import annotations

from gateway.health import Sightings
from gateway.model import Address
from gateway.routing import Seen

ONE, OTHER = Address("one", 5432), Address("other", 5432)


def test_a_success_clears_a_failure_and_keeps_the_rest() -> None:
    sightings = Sightings(lambda: 42.0)
    sightings.found(ONE, "standby")
    sightings.failed(ONE)
    assert sightings.seen()[ONE] == Seen("standby", failed_at=42.0)
    sightings.connected(ONE, 0.01)
    assert sightings.seen() == {ONE: Seen("standby", latency=0.01)}


def test_open_sessions_keep_a_target_from_being_forgotten() -> None:
    sightings = Sightings(lambda: 0.0)
    sightings.opened(ONE)
    sightings.failed(OTHER)
    sightings.keep(frozenset())
    assert sightings.seen() == {ONE: Seen(open_sessions=1)}
    sightings.closed(ONE)
    sightings.keep(frozenset())
    assert not sightings.seen()
