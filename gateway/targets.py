"""What follows from how the targets are: who is told, and which sessions are to go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from twisted.logger import Logger

from gateway.contracts import Audit, Clock
from gateway.errors import NotRecorded
from gateway.health import Row, Sightings, Spot, Watch
from gateway.health.sightings import Sight
from gateway.live import Live, Session
from gateway.model import Grant, Resource, Snapshot, TargetKind
from gateway.routing import ServerKind, State

QUIET = 60.0  # seconds between two entries on one target that is only degraded

UP = frozenset({State.UP.value, State.DEGRADED.value})

Sample = tuple[str, Mapping[str, str], float]
Whom = Callable[[Grant], bool]
Place = tuple[str, str]
"""A resource, and the address of one of its targets."""
Reason = tuple[str, Whom]
"""Why sessions are to leave a place, and which of them."""

log = Logger()


class Targets:
    """Joins what is seen of the targets with the sessions there."""

    def __init__(self, live: Live, sightings: Sightings, audit: Audit, clock: Clock) -> None:
        self._live = live
        self._sightings = sightings
        self._audit = audit
        self._clock = clock
        self._told: dict[Spot, float] = {}
        self._snapshot = Snapshot()
        self._sweeping: asyncio.Task[None] | None = None
        self.watch: Watch | None = None
        sightings.changed = self._changed

    def adopt(self, snapshot: Snapshot) -> None:
        """The objects are other ones."""
        self._snapshot = snapshot
        if self.watch is not None:
            self.watch.keep(snapshot)
        for spot in [spot for spot in self._told if spot.resource not in snapshot.resources]:
            del self._told[spot]
        self._soon()

    def rows(self, resource: str | None = None) -> list[Row]:
        """Every target, or those of one resource."""
        found: Mapping[str, Resource] = self._snapshot.resources
        return [
            row
            for name, each in sorted(found.items())
            if resource in (None, name)
            for row in self._sightings.rows(each)
        ]

    def samples(self) -> Iterator[Sample]:
        """For machines that watch: a name, its labels, a value."""
        for row in self.rows():
            labels = {"resource": row.resource, "target": row.address}
            yield "target_up", labels, float(row.state in UP)
            yield "target_sessions", labels, float(row.sessions)
            if row.lag_seconds is not None:
                yield "target_lag_seconds", labels, row.lag_seconds
            if row.latency_ms is not None:
                yield "target_latency_seconds", labels, row.latency_ms / 1000

    async def sweep(self) -> None:
        """Ask sessions to leave where they cannot stay: again and again, while that holds."""
        reasons = {place: self._reason(*place) for place in self._live.places()}
        if any(reasons.values()):
            await self._live.leave(partial(_concerning, reasons))

    def refused_account(self, spot: Spot, account: str, why: str) -> None:
        """A target does not take an account any more: somebody has to mend it."""
        self._note("target.account-refused", spot, account=account, detail=why)

    def _reason(self, resource: str, address: str) -> Reason | None:
        known = self._snapshot.resources.get(resource)
        if known is None:
            return None  # and no session of it is allowed any more
        target = next((each for each in known.targets if str(each.address) == address), None)
        if target is None:
            return "is no target of this resource any more", _everybody
        if target.draining:
            return "is being drained", _everybody
        sight = self._sightings.sight(Spot(resource, target.address))
        if sight.health.lost:
            return f"is down: {sight.health.why}", _everybody
        deposed = self._sightings.seen(known)[target.address].deposed
        if deposed is not None:
            return deposed, _everybody
        return _misplaced(sight.kind) if sight.kind is not None else None

    def _changed(self, spot: Spot, before: Sight, after: Sight) -> None:
        was, health = before.health, after.health
        if was.state is not health.state:
            self._tell(spot, was.state, health.state, health.why)
            if health.state is State.DOWN and self.watch is not None:
                self.watch.hurry(spot)
        if None not in (before.kind, after.kind) and before.kind != after.kind:
            self._note("target.promoted" if after.kind == "primary" else "target.demoted", spot)
        if (before.kind, was.lost) != (after.kind, health.lost):
            self._soon()

    def _tell(self, spot: Spot, was: State, state: State, why: str) -> None:
        """Every fall and return; of lesser things not all, since they come and go."""
        now = self._clock()
        if State.DOWN not in (was, state):
            if state is not State.DEGRADED or now - self._told.get(spot, -QUIET) < QUIET:
                return
            self._told[spot] = now
        self._note("target.changed", spot, state=state.value, was=was.value, detail=why)

    def _note(self, event: str, spot: Spot, **facts: str) -> None:
        log.info("{spot}: {event} {facts}", spot=str(spot), event=event, facts=facts)
        try:
            self._audit.write(event, resource=spot.resource, target=str(spot.address), **facts)
        except NotRecorded as unwritable:
            log.error("Not recorded: {why}", why=unwritable.detail)

    def _soon(self) -> None:
        """One sweep for all that happens in one go."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.ensure_future(self._sweep_soon())

    async def _sweep_soon(self) -> None:
        await asyncio.sleep(0)
        await self.sweep()


def _concerning(reasons: Mapping[Place, Reason | None], session: Session) -> str | None:
    """The reason where the session is, if it is meant."""
    reason = reasons.get((session.info.resource, session.target))
    if reason is None:
        return None
    why, whom = reason
    return why if whom(session.grant) else None


def _everybody(grant: Grant) -> bool:
    return True


def _misplaced(kind: ServerKind) -> Reason:
    wanted = TargetKind.STANDBY if kind == "primary" else TargetKind.PRIMARY
    return f"is a {kind} now", lambda grant: grant.terms.targets is wanted
