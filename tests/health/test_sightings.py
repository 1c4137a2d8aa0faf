"""What is remembered of targets, and what routing, lists and listeners make of it."""

from __future__ import annotations

from gateway.health import Findings, Sightings, Spot
from gateway.health.sightings import Sight
from gateway.model import Address, Protocol, Resource, Target, TargetKind
from gateway.routing import State

A, B = Address("a", 5432), Address("b", 5432)
ORDERS = Resource("orders", Protocol.POSTGRESQL, (Target(A), Target(B, weight=2.0, zone="x")))
OTHER = Resource("other", Protocol.POSTGRESQL, (Target(A),))
HERE = Spot("orders", A)


class Watched(Sightings):
    """With a clock that tests turn, and all changes that were told of."""

    def __init__(self) -> None:
        self.now = 42.0
        self.told: list[tuple[Spot, State, State]] = []
        super().__init__(lambda: self.now, "x")
        self.changed = self._listen

    def _listen(self, spot: Spot, before: Sight, after: Sight) -> None:
        self.told.append((spot, before.health.state, after.health.state))

    def state(self, resource: Resource, address: Address) -> State:
        return self.seen(resource)[address].state


def primary(timeline: int = 1, **facts) -> Findings:
    return Findings(kind="primary", timeline=timeline, system="7", **facts)


def standby(**facts) -> Findings:
    return Findings(kind="standby", timeline=1, system="7", **facts)


def test_what_one_resource_finds_is_not_held_against_another() -> None:
    seen = Watched()
    seen.failed(HERE, "certificate verify failed")
    assert seen.state(ORDERS, A) is State.DOWN
    assert seen.state(OTHER, A) is State.UNKNOWN
    assert seen.told == [(HERE, State.UNKNOWN, State.DOWN)]


def test_what_a_server_carries_counts_for_all() -> None:
    seen = Watched()
    seen.opened(A)
    assert [seen.seen(each)[A].open_sessions for each in (ORDERS, OTHER)] == [1, 1]
    seen.closed(A)
    assert seen.seen(ORDERS)[A].open_sessions == 0


def test_sessions_and_probes_tell_one_story() -> None:
    seen = Watched()
    seen.connected(HERE, 0.25)
    seen.found(HERE, "standby")
    known = seen.seen(ORDERS)[A]
    assert (known.state, known.kind, known.latency, known.measured) == (
        State.UP, "standby", 0.25, 42.0,
    )  # fmt: skip
    seen.strained(HERE, "out of connections")
    assert seen.state(ORDERS, A) is State.DEGRADED
    seen.probed(ORDERS, A, standby(lag_seconds=0.5))
    known = seen.seen(ORDERS)[A]
    assert (known.state, known.lag_seconds) == (State.UP, 0.5)
    seen.probed(ORDERS, A, Findings(down="TCP: Connection refused", hard=True))
    seen.now += 7
    seen.probed(ORDERS, A, Findings(down="TCP: Connection refused", hard=True))
    known = seen.seen(ORDERS)[A]
    assert (known.state, known.why, known.since) == (State.DOWN, "TCP: Connection refused", 42.0)
    seen.probed(ORDERS, A, primary())
    known = seen.seen(ORDERS)[A]
    assert (known.state, known.kind, known.risen, known.lag_seconds) == (
        State.UP, "primary", 49.0, None,
    )  # fmt: skip


def test_who_was_slow_weighs_more_and_is_not_down() -> None:
    seen = Watched()
    seen.connected(HERE, 0.01)
    seen.slow(HERE, 2.0)
    known = seen.seen(ORDERS)[A]
    assert (known.state, known.latency) == (State.UP, 2.0)


def test_a_probe_that_could_not_ask_forgets_nothing() -> None:
    seen = Watched()
    seen.probed(ORDERS, A, standby(lag_seconds=0.5))
    seen.probed(ORDERS, A, Findings(strained="log-in: no"))
    known = seen.seen(ORDERS)[A]
    assert (known.kind, known.state, known.why) == ("standby", State.DEGRADED, "log-in: no")
    assert seen.rows(ORDERS)[0].timeline == 1


def test_split_brain() -> None:
    seen = Watched()
    seen.probed(ORDERS, A, primary(1))
    seen.probed(ORDERS, B, primary(2))
    seen.probed(ORDERS, A, primary(1))

    def first() -> list[tuple[Address, bool]]:
        order = seen.order(ORDERS, TargetKind.PRIMARY, None, 0)
        return [(each.target.address, each.closed is None) for each in order]

    assert first() == [(B, True), (A, False)]
    assert seen.state(ORDERS, A) is State.DEGRADED
    told = seen.order(ORDERS, TargetKind.ANY, None, 0)
    assert [(each.target.address, each.closed is None) for each in told] == first()
    seen.probed(ORDERS, B, Findings(down="TCP: Connection refused", hard=True))
    assert first() == [(B, False), (A, False)] or first() == [(A, False), (B, False)]
    seen.probed(ORDERS, A, standby())  # made anew from the other one
    assert seen.seen(ORDERS)[A].deposed is None


def test_one_that_is_drained_overtakes_nobody() -> None:
    """A replica that says anything must not take the primary away for good."""
    seen = Watched()
    seen.probed(ORDERS, A, primary(1))
    seen.probed(ORDERS, B, primary(9))
    seen.probed(ORDERS, A, primary(1))
    assert seen.seen(ORDERS)[A].deposed is not None
    chosen = Resource("orders", Protocol.POSTGRESQL, (Target(A), Target(B, draining=True)))
    assert seen.seen(chosen)[A].deposed is None
    seen.probed(chosen, A, primary(1))
    assert seen.state(chosen, A) is State.UP
    assert seen.seen(chosen)[B].deposed is None


def test_whose_data_it_has_is_kept_while_it_is_up() -> None:
    seen = Watched()
    assert seen.sight(HERE).system is None
    seen.identified(HERE, "7")
    seen.probed(ORDERS, A, Findings())
    seen.strained(HERE, "out of connections")
    assert seen.sight(HERE).system == "7"
    seen.probed(ORDERS, A, Findings(down="TCP: no answer in time"))
    assert seen.sight(HERE).system is None  # another may be what comes up there
    seen.probed(ORDERS, A, Findings())
    assert seen.sight(HERE).system is None
    seen.probed(ORDERS, A, primary(1))
    assert seen.sight(HERE).system == "7"
    seen.failed(HERE, "Connection refused")
    assert seen.sight(HERE).system is None


def test_rows() -> None:
    seen = Watched()
    seen.probed(ORDERS, A, primary(3, position=500))
    seen.probed(ORDERS, B, standby(position=420, lag_seconds=1.5))
    seen.connected(Spot("orders", B), 0.0123)
    seen.opened(B)
    one, other = seen.rows(ORDERS)
    assert (one.address, one.kind, one.state, one.since, one.timeline) == (
        "a:5432", "primary", "up", 42.0, 3,
    )  # fmt: skip
    assert (one.lag_seconds, one.lag_bytes, one.latency_ms, one.zone) == (None, None, None, None)
    assert (other.lag_seconds, other.lag_bytes, other.sessions) == (1.5, 80, 1)
    assert (other.weight, other.zone, other.latency_ms) == (2.0, "x", 12.3)


def test_what_is_drained_is_shown_so() -> None:
    seen = Watched()
    drained = Resource("orders", Protocol.POSTGRESQL, (Target(A, draining=True),))
    assert (seen.rows(drained)[0].state, seen.rows(drained)[0].why) == (
        "draining", "drained by hand",
    )  # fmt: skip
    seen.failed(HERE, "Connection refused")
    assert seen.rows(drained)[0].why == "drained by hand; down: Connection refused"


def test_what_no_resource_has_any_more_is_forgotten() -> None:
    seen = Watched()
    seen.failed(HERE, "no")
    seen.failed(Spot("other", A), "no")
    seen.keep([Spot("other", A)])
    assert seen.state(ORDERS, A) is State.UNKNOWN
    assert seen.state(OTHER, A) is State.DOWN
