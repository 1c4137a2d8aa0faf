"""What was last seen of each target: by sessions that went there, and by probes.

How a target is, is remembered by resource: one that is described wrongly (another CA, say)
must not take the others' targets away. What a server carries counts for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from attrs import evolve, frozen

from gateway.contracts import Clock
from gateway.health import state
from gateway.health.findings import Findings, Looks, deposed, drained, lag_bytes, warnings
from gateway.health.state import Health
from gateway.model import Address, Resource, Target, TargetKind
from gateway.routing import Candidate, Seen, ServerKind, State, Wanted, order, peak


@frozen(order=True)
class Spot:
    """One target, as one resource has it."""

    resource: str
    address: Address

    def __str__(self) -> str:
        return f"{self.resource}/{self.address}"


_NEW = Health()


@frozen
class Sight:
    """What is remembered of a spot. ``look``: the last one that was answered. ``system``: whose
    data it has, None as long as nobody was told since it was last out of order."""

    health: Health = _NEW
    kind: ServerKind | None = None
    latency: float | None = None
    measured: float = 0.0
    look: Findings | None = None
    system: str | None = None


@frozen
class Row:
    """One target as people and programs see it; ``since`` in seconds since the epoch."""

    resource: str
    address: str
    kind: str | None
    state: str
    since: float | None
    why: str
    lag_seconds: float | None
    lag_bytes: int | None
    timeline: int | None
    sessions: int
    weight: float
    zone: str | None
    latency_ms: float | None


Changed = Callable[[Spot, Sight, Sight], None]
"""Told of a spot as it was, and as it is."""


class Sightings:
    """*clock* is the one that :func:`gateway.routing.order` is given; *zone* is our own."""

    def __init__(self, clock: Clock, zone: str | None = None) -> None:
        self._clock = clock
        self._zone = zone
        self._sights: dict[Spot, Sight] = {}
        self._open: Counter[Address] = Counter()
        self.changed: Changed = lambda spot, before, after: None

    # -- what routing asks

    def order(
        self, resource: Resource, kind: TargetKind, max_lag: float | None, seed: int
    ) -> tuple[Candidate, ...]:
        """The resource's targets, the best first: see :func:`gateway.routing.order`."""
        wanted = Wanted(kind, max_lag, self._zone)
        return order(resource.targets, wanted, self.seen(resource), self._clock(), seed)

    def seen(self, resource: Resource) -> Mapping[Address, Seen]:
        refused = deposed(self._looks(resource), drained(resource))
        addresses = (target.address for target in resource.targets)
        return {
            address: self._seen(Spot(resource.name, address), refused.get(address))
            for address in addresses
        }

    def _seen(self, spot: Spot, refused: str | None) -> Seen:
        sight = self.sight(spot)
        health, look = sight.health, sight.look
        return Seen(
            kind=sight.kind,
            state=health.state,
            why=health.why,
            since=health.since,
            open_sessions=self._open[spot.address],
            latency=sight.latency,
            measured=sight.measured,
            risen=health.risen,
            lag_seconds=look.lag_seconds if look is not None and sight.kind == "standby" else None,
            deposed=refused if sight.kind == "primary" else None,
        )

    def sight(self, spot: Spot) -> Sight:
        return self._sights.get(spot, Sight())

    # -- what sessions tell

    def opened(self, address: Address) -> None:
        """A session is being opened there; each is to be followed by one :meth:`closed`.

        Counted from the first try on: of a hundred that come at once, each sees the others.
        """
        self._open[address] += 1

    def closed(self, address: Address) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def connected(self, spot: Spot, latency: float) -> None:
        """A connection and log-in worked; *latency* in seconds."""
        self._measure(spot, latency, lambda was, now: state.worked(was, now))

    def slow(self, spot: Spot, latency: float) -> None:
        """There was no answer for so long, and it may be the session's own fault."""
        self._measure(spot, latency, lambda was, now: was)

    def failed(self, spot: Spot, why: str) -> None:
        """No session can be opened there."""
        was, now = self.sight(spot), self._clock()
        self._set(spot, evolve(was, health=state.failed(was.health, why, now), system=None))

    def strained(self, spot: Spot, why: str) -> None:
        """It works, and has no room for a session."""
        was, now = self.sight(spot), self._clock()
        self._set(spot, evolve(was, health=state.strained(was.health, why, now)))

    def found(self, spot: Spot, kind: ServerKind) -> None:
        """The target said which it is."""
        self._set(spot, evolve(self.sight(spot), kind=kind))

    def identified(self, spot: Spot, system: str) -> None:
        """It said whose data it has."""
        self._set(spot, evolve(self.sight(spot), system=system))

    # -- what probes tell

    def probed(self, resource: Resource, address: Address, findings: Findings) -> None:
        spot, now = Spot(resource.name, address), self._clock()
        was = self.sight(spot)
        if findings.down is not None:
            health = state.unanswered(was.health, findings.down, findings.hard, now)
            self._set(spot, evolve(was, health=health, system=None))  # another may come up there
            return
        look = findings if findings.kind is not None or was.look is None else was.look
        system = findings.system or was.system
        fresh = evolve(was, look=look, kind=findings.kind or was.kind, system=system)
        warning = findings.strained or self._warning(resource, spot, fresh)
        self._set(spot, evolve(fresh, health=state.answered(was.health, warning, now)))

    def _warning(self, resource: Resource, spot: Spot, fresh: Sight) -> str | None:
        """What is wrong with it beside the others."""
        looks = dict(self._looks(resource))
        if fresh.look is not None and any(
            spot.address == each.address for each in resource.targets
        ):
            looks[spot.address] = fresh.look
        return warnings(looks, drained(resource)).get(spot.address)

    def _looks(self, resource: Resource) -> Looks:
        """In the resource's own order. Also of targets that are down since: an overtaken
        primary does not become good by the loss of the one that overtook it."""
        found = (
            (target.address, self.sight(Spot(resource.name, target.address)).look)
            for target in resource.targets
        )
        return {address: look for address, look in found if look is not None}

    # -- what is left of it

    def rows(self, resource: Resource) -> list[Row]:
        looks, seen = self._looks(resource), self.seen(resource)
        return [_row(resource, target, seen[target.address], looks) for target in resource.targets]

    def keep(self, spots: Collection[Spot]) -> None:
        """Forget targets that no resource has any more."""
        for spot in self._sights.keys() - set(spots):
            del self._sights[spot]

    def _measure(
        self, spot: Spot, latency: float, change: Callable[[Health, float], Health]
    ) -> None:
        was, now = self.sight(spot), self._clock()
        smoothed = peak(Seen(latency=was.latency, measured=was.measured), latency, now)
        health = change(was.health, now)
        self._set(spot, evolve(was, health=health, latency=smoothed, measured=now))

    def _set(self, spot: Spot, after: Sight) -> None:
        before = self.sight(spot)
        self._sights[spot] = after
        self.changed(spot, before, after)


def _row(resource: Resource, target: Target, seen: Seen, looks: Looks) -> Row:
    look = looks.get(target.address)
    by_hand = ("drained by hand", State.DRAINING.value)
    why, named = by_hand if target.draining else (seen.deposed or seen.why, seen.state.value)
    if target.draining and seen.state in (State.DOWN, State.DEGRADED):
        why = f"{why}; {seen.state.value}: {seen.why}"
    return Row(
        resource=resource.name,
        address=str(target.address),
        kind=seen.kind,
        state=named,
        since=seen.since,
        why=why,
        lag_seconds=seen.lag_seconds,
        lag_bytes=lag_bytes(target.address, looks),
        timeline=look.timeline if look is not None else None,
        sessions=seen.open_sessions,
        weight=target.weight,
        zone=target.zone,
        latency_ms=None if seen.latency is None else round(seen.latency * 1000, 1),
    )
