"""Takes a session whose target is lost, or is to be left, to another one.

By the right that the session has now, through the same dialer as at its beginning, to the
same data, and only as the same session: see :mod:`gateway.pg.restore`. Few at once, so that
the death of one server is not the next one's.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

from attrs import define, field

from gateway.contracts import Audit
from gateway.errors import NotAllowed, Refused, Unreachable
from gateway.model import Denied, Grant
from gateway.pg.dial import PostgresDialer, Upstream
from gateway.pg.frames import Parameters
from gateway.pg.restore import Arrival, restore, uptime
from gateway.pg.state import Restoration
from gateway.pg.target_login import TargetRefused
from gateway.reach import FAILURES, words

PATIENCE = 15.0  # seconds in which a lost target is to be replaced: a promotion takes ten
PLANNED = 5.0  # seconds for leaving one that still works; its client waits meanwhile
RESTORING = 5.0  # seconds for one target to become the old session
MOST = 16  # sessions of a resource on their way at once: each is a fork and a SCRAM proof there
PAUSES = (0.1, 1.0)  # seconds between two rounds of the targets, at first and at most
RESTS = (1.0, 30.0)  # seconds until a session that found no place is asked to leave again
HASTE = 10.0  # seconds at a target; who is to go on sooner was not really taken there
MOST_HASTY = 5  # moves in a row after so short a stay: then it is the targets that are wrong

Renew = Callable[[Grant], Grant | Denied]


class Stranded(Refused):
    """No target took the session over."""


@define(eq=False)
class Stays:
    """How long a session was where, so that no two targets play ball with it.

    Times are the event loop's.
    """

    rests_until: float = -math.inf
    _rest: float = 0.0
    _since: float = -math.inf
    _hasty: int = 0

    def begin(self, now: float) -> None:
        self._since, self._rest = now, 0.0

    def rest(self, now: float) -> None:
        first, most = RESTS
        self._rest = min(most, 2 * self._rest or first)
        self.rests_until = now + self._rest

    def brake(self, now: float) -> float:
        """Seconds to wait before it goes on.

        :raises Stranded: it has been sent on too often
        """
        self._hasty = self._hasty + 1 if now - self._since < HASTE else 0
        if self._hasty > MOST_HASTY:
            raise Stranded("no target keeps it")
        first, most = PAUSES
        return min(most, first * 2**self._hasty) if self._hasty else 0.0


@define(eq=False)
class Movers:
    """What all sessions share. ``renew``: the right of a session as it is today."""

    dialer: PostgresDialer
    renew: Renew
    audit: Audit
    _turns: dict[str, asyncio.Semaphore] = field(factory=dict)

    def turn(self, resource: str) -> asyncio.Semaphore:
        """Each resource has its own: slow targets hold up nobody else's sessions."""
        return self._turns.setdefault(resource, asyncio.Semaphore(MOST))


@define(eq=False)
class Home:
    """Where one session is. ``parameters``: of its start-up message, by the grant."""

    _movers: Movers
    _grant: Grant
    _upstream: Upstream
    _parameters: Callable[[Grant], Parameters]
    _stays: Stays = field(init=False, factory=Stays)
    _system: str = field(init=False)
    _since: float = field(init=False)  # when it came to its target

    def __attrs_post_init__(self) -> None:
        self._system = self._upstream.system
        self._since = _now()

    @property
    def address(self) -> str:
        return self._upstream.address

    @property
    def _turn(self) -> asyncio.Semaphore:
        return self._movers.turn(self._grant.resource.name)

    @property
    def rests(self) -> bool:
        """It found no place elsewhere a moment ago, and need not be asked to leave yet."""
        return _now() < self._stays.rests_until

    async def cancel(self) -> None:
        await self._movers.dialer.cancel(self._grant, self._upstream)

    async def stands(self) -> bool:
        """Whether the target has been up since the session came, and takes others: what ended
        this one was meant for it alone.

        :raises NotAllowed, Stranded: as :meth:`another`
        """
        grant = self._renew()
        try:
            async with asyncio.timeout(PATIENCE), self._turn:
                return await self._uptime(grant) > _now() - self._since
        except TargetRefused as no:  # of this account, that database: not because it goes down
            return not no.said.sqlstate.startswith("57P")
        except FAILURES:
            return False

    async def _uptime(self, grant: Grant) -> float:
        dialer, target = self._movers.dialer, self._upstream.target
        visitor = await dialer.visit(grant, target, self._parameters(grant))
        try:
            async with asyncio.timeout(RESTORING):
                return await uptime(visitor)
        finally:
            visitor.abort()

    def leave(self) -> None:
        """The session is over."""
        self._upstream.release()

    def note(self, session_id: str, why: str, arrival: Arrival) -> dict[str, str]:
        """The move, for the transcript; the audit log has it.

        :raises NotRecorded: it cannot have it
        """
        facts = {"from": self.address, "to": arrival.upstream.address, "why": why}
        who = {"user": self._grant.identity.user, "resource": self._grant.resource.name}
        self._movers.audit.write("session.moved", session=session_id, **who, **facts)
        return facts

    def move_in(self, arrival: Arrival) -> None:
        self._upstream.release()
        self._upstream, self._since = arrival.upstream, _now()
        self._stays.begin(self._since)

    async def another(self, wanted: Restoration, lost: Callable[[], bool]) -> Arrival:
        """The session at another target; at the same one again only if *lost*.

        As long as *lost* is false there is one try.

        :raises NotAllowed: the session may not go on
        :raises Stranded: no target took it, and why
        """
        try:
            await asyncio.sleep(self._stays.brake(_now()))
            return await self._search(wanted, lost)
        except Stranded:
            self._stays.rest(_now())
            raise

    async def _search(self, wanted: Restoration, lost: Callable[[], bool]) -> Arrival:
        said = "no answer in time"
        pause, most = PAUSES
        began = _now()
        while True:
            left = began + (PATIENCE if lost() else PLANNED) - _now()
            try:
                async with asyncio.timeout(left), self._turn:
                    return await self._attempt(wanted, lost)
            except (NotAllowed, Stranded):
                raise
            except FAILURES as failed:
                said = words(failed) if left > 0 else said
            if not lost() or left <= pause:
                raise Stranded(said)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- guards nothing
            pause = min(2 * pause, most)

    async def _attempt(self, wanted: Restoration, lost: Callable[[], bool]) -> Arrival:
        grant = self._renew()
        upstream = await self._movers.dialer.dial(grant, self._parameters(grant))
        try:
            if upstream.address == self.address and not lost():
                raise Unreachable("no other target fits")
            async with asyncio.timeout(RESTORING):
                return await restore(upstream, wanted, self._system)
        except BaseException:
            upstream.abort()
            raise

    def _renew(self) -> Grant:
        """The right as it is today, to the database where the session is.

        :raises NotAllowed: there is none any more
        :raises Stranded: the resource is another one by now
        """
        renewed = self._movers.renew(self._grant)
        if isinstance(renewed, Denied):
            raise NotAllowed(renewed.reason)
        before, after = (dict(self._parameters(each)) for each in (self._grant, renewed))
        if before.get("database") != after.get("database"):
            raise Stranded(f"the database is {after.get('database')} by now")
        if not renewed.resource.move_idle_sessions:
            raise Stranded("sessions stay at their target by now")
        self._grant = renewed
        return renewed


def _now() -> float:
    return asyncio.get_running_loop().time()
