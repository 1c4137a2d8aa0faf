"""Takes a session whose target is lost, or is to be left, to another one.

By the right that the session has now, through the same dialer as at its beginning, and only
as the same session: see :mod:`gateway.pg.restore`. Few at once, so that the death of one
server is not the next one's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from attrs import define, field

from gateway.errors import NotAllowed, Refused, Unreachable
from gateway.model import Denied, Grant
from gateway.pg.dial import PostgresDialer, Upstream
from gateway.pg.frames import Parameters
from gateway.pg.restore import Arrival, restore
from gateway.pg.state import Restoration
from gateway.reach import FAILURES, words

PATIENCE = 15.0  # seconds in which a lost target is to be replaced: a promotion takes ten
PLANNED = 5.0  # seconds for leaving one that still works; its client waits meanwhile
RESTORING = 5.0  # seconds for one target to become the old session
MOST = 16  # sessions on their way at once: each is a fork and a SCRAM proof at its target
PAUSES = (0.1, 1.0)  # seconds between two rounds of the targets, at first and at most

Renew = Callable[[Grant], Grant | Denied]


class Stranded(Refused):
    """No target took the session over."""


@define(eq=False)
class Movers:
    """What all sessions share. ``renew``: the right of a session as it is today."""

    dialer: PostgresDialer
    renew: Renew
    turns: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(MOST))


@define(eq=False)
class Home:
    """Where one session is. ``parameters``: of its start-up message, by the grant."""

    _movers: Movers
    _grant: Grant
    _upstream: Upstream
    _parameters: Callable[[Grant], Parameters]

    @property
    def address(self) -> str:
        return self._upstream.address

    async def cancel(self) -> None:
        await self._movers.dialer.cancel(self._grant, self._upstream)

    async def stands(self) -> bool:
        """Whether the target takes sessions: what ended this one was meant for it alone."""
        parameters = self._parameters(self._grant)
        return await self._movers.dialer.admits(self._grant, self._upstream.target, parameters)

    def leave(self) -> None:
        """The session is over."""
        self._upstream.release()

    def move_in(self, arrival: Arrival) -> None:
        self._upstream.release()
        self._upstream = arrival.upstream

    async def another(self, wanted: Restoration, lost: Callable[[], bool]) -> Arrival:
        """The session at another target; at the same one again only if *lost*.

        As long as *lost* is false there is one try.

        :raises NotAllowed: the session may not go on
        :raises Stranded: no target took it, and why
        """
        said = "no answer in time"
        pause, most = PAUSES
        began = asyncio.get_running_loop().time()
        while True:
            left = began + (PATIENCE if lost() else PLANNED) - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(left), self._movers.turns:
                    return await self._attempt(wanted, lost)
            except NotAllowed:
                raise
            except FAILURES as failed:
                said = words(failed) if left > 0 else said
            if not lost() or left <= pause:
                raise Stranded(said)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- guards nothing
            pause = min(2 * pause, most)

    async def _attempt(self, wanted: Restoration, lost: Callable[[], bool]) -> Arrival:
        renewed = self._movers.renew(self._grant)
        if isinstance(renewed, Denied):
            raise NotAllowed(renewed.reason)
        self._grant = renewed
        upstream = await self._movers.dialer.dial(renewed, self._parameters(renewed))
        try:
            if upstream.address == self.address and not lost():
                raise Unreachable("no other target fits")
            async with asyncio.timeout(RESTORING):
                return await restore(upstream, wanted)
        except BaseException:
            upstream.abort()
            raise
