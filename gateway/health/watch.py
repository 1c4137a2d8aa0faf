"""Who looks at the targets: each on its own clock, so that no two are asked in step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Protocol

from attrs import define, field
from twisted.logger import Logger

from gateway.health.findings import Findings
from gateway.health.sightings import Sightings, Spot
from gateway.health.state import Health
from gateway.model import Account, Resource, Snapshot, Target
from gateway.model import Protocol as Spoken
from gateway.routing import State

AT_ONCE = 100  # probes: each has a socket, and may have a thread that resolves a name
JITTER = 0.1  # of the interval, to either side
SOON = 0.25  # of the interval, within which a new target is looked at


class Probe(Protocol):
    """How one looks at the targets of a protocol. Never fails: what went wrong is found.

    *seconds* is how long it may take.
    """

    async def __call__(
        self, resource: Resource, target: Target, seconds: float, *, fresh: bool
    ) -> Findings:
        """As often as the clock says. *fresh*: what was found lately will not do."""
        ...

    async def look(
        self, resource: Resource, target: Target, account: Account | None, seconds: float
    ) -> Findings:
        """Thoroughly, once, and with an account to log in with, if any."""
        ...


log = Logger()


def pause(health: Health, random: Random) -> float:
    """Until the next look, in intervals: in doubt it is soon."""
    return JITTER if health.doubtful else random.uniform(1 - JITTER, 1 + JITTER)


@define(eq=False)
class _Watched:
    """A target under watch. ``wake``: look now."""

    resource: Resource
    target: Target
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(factory=asyncio.Event)


class Watch:
    """:param seconds: between two looks, and that one may take
    :param random: for the jitter
    """

    def __init__(
        self,
        probes: Mapping[Spoken, Probe],
        sightings: Sightings,
        seconds: tuple[float, float],
        random: Random,
    ) -> None:
        self._probes = probes
        self._sightings = sightings
        self._interval, self._timeout = seconds
        self._random = random
        self._watched: dict[Spot, _Watched] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def keep(self, snapshot: Snapshot) -> None:
        """Watch the targets of *snapshot*, as it describes them, and no others."""
        wanted = {
            Spot(resource.name, target.address): (resource, target)
            for resource in snapshot.resources.values()
            for target in resource.targets
        }
        for spot in self._watched.keys() - wanted.keys():
            self._forget(spot)
        self._sightings.keep(wanted.keys())
        for spot, (resource, target) in wanted.items():
            self._describe(spot, resource, target)

    def hurry(self, spot: Spot) -> None:
        """Look at once: somebody has found it out of order."""
        if spot in self._watched:
            self._watched[spot].wake.set()

    async def look(self, resource: Resource, target: Target, account: Account | None) -> Findings:
        """One look for a person, whatever comes of it."""
        async with self._room:
            probe = self._probes[resource.protocol]
            return await probe.look(resource, target, account, self._timeout)

    async def close(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for spot in list(self._watched):
            self._forget(spot)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _describe(self, spot: Spot, resource: Resource, target: Target) -> None:
        watched = self._watched.get(spot)
        if watched is None:
            self._watched[spot] = watched = _Watched(resource, target)
            watched.task = asyncio.ensure_future(self._follow(watched))
        else:
            watched.resource, watched.target = resource, target

    def _forget(self, spot: Spot) -> None:
        task = self._watched.pop(spot).task
        if task is not None:
            task.cancel()

    async def _follow(self, watched: _Watched) -> None:
        await self._pause(watched, self._random.uniform(0, SOON))
        while True:
            watched.wake.clear()
            resource, target = watched.resource, watched.target
            try:
                findings = await self._look(resource, target)
                self._sightings.probed(watched.resource, target.address, findings)
            except Exception:
                log.failure("A target cannot be looked at")
            spot = Spot(watched.resource.name, target.address)
            await self._pause(watched, pause(self._sightings.sight(spot).health, self._random))

    async def _look(self, resource: Resource, target: Target) -> Findings:
        health = self._sightings.sight(Spot(resource.name, target.address)).health
        fresh = health.doubtful or health.state not in (State.UP, State.DEGRADED)
        async with self._room:
            probe = self._probes[resource.protocol]
            return await probe(resource, target, self._timeout, fresh=fresh)

    async def _pause(self, watched: _Watched, intervals: float) -> None:
        try:
            async with asyncio.timeout(self._interval * intervals):
                await watched.wake.wait()
        except TimeoutError:
            pass
