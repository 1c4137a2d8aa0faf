"""Who looks when: each target on its own clock, at once when called."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from attrs import evolve

from gateway.health import Findings, Sightings, Spot, Watch
from gateway.health.state import Health
from gateway.health.watch import JITTER, pause
from gateway.model import Account, Address, Protocol, Resource, Snapshot, Target
from gateway.routing import State
from tests.leaks import nothing_left
from tests.support import asyncio_test

A, B = Target(Address("a", 1)), Target(Address("b", 1))
ORDERS = Resource("orders", Protocol.POSTGRESQL, (A, B))
STATE = Snapshot(1, {"orders": ORDERS})
FAST, NEVER = 0.005, 3600.0  # seconds between looks


class Probe:
    """A :class:`gateway.health.Probe` that finds what a test says."""

    def __init__(self) -> None:
        self.looked: Counter[Target] = Counter()
        self.finds: dict[Target, Findings | Exception] = {}
        self.came = asyncio.Event()
        self.fresh: list[bool] = []
        self.asked: list[tuple[Target, Account | None, float]] = []

    async def __call__(
        self, resource: Resource, target: Target, seconds: float, *, fresh: bool
    ) -> Findings:
        self.looked[target] += 1
        self.fresh.append(fresh)
        self.came.set()
        found = self.finds.get(target, Findings())
        if isinstance(found, Exception):
            raise found
        return found

    async def look(self, resource, target, account, seconds) -> Findings:
        self.asked.append((target, account, seconds))
        return Findings(kind="primary")

    async def until(self, condition) -> None:
        while not condition():
            self.came.clear()
            await self.came.wait()


class Room:
    def __init__(self, interval: float) -> None:
        self.probe = Probe()
        self.sightings = Sightings(lambda: 1.0)
        self.watch = Watch(
            {Protocol.POSTGRESQL: self.probe}, self.sightings, (interval, 2.0), Random(1)
        )

    def state(self, target: Target) -> State:
        return self.sightings.sight(Spot("orders", target.address)).health.state


@asyncio_test
async def test_each_target_is_looked_at_again_and_again() -> None:
    async with nothing_left():
        room = Room(FAST)
        room.probe.finds[B] = Findings(down="TCP: Connection refused", hard=True)
        room.watch.keep(STATE)
        await room.probe.until(lambda: min(room.probe.looked[A], room.probe.looked[B]) > 3)
        assert (room.state(A), room.state(B)) == (State.UP, State.DOWN)
        await room.watch.close()


@asyncio_test
async def test_those_that_are_gone_are_left_alone() -> None:
    async with nothing_left():
        room = Room(FAST)
        room.watch.keep(STATE)
        await room.probe.until(lambda: room.probe.looked[B])
        room.watch.keep(Snapshot(2, {"orders": evolve(ORDERS, targets=(A,))}))
        looked, before = room.probe.looked[B], room.probe.looked[A]
        await room.probe.until(lambda: room.probe.looked[A] > before + 3)
        assert room.probe.looked[B] == looked
        assert room.state(B) is State.UNKNOWN
        await room.watch.close()


@asyncio_test
async def test_what_is_described_otherwise_is_looked_at_so() -> None:
    async with nothing_left():
        room = Room(FAST)
        room.watch.keep(STATE)
        heavy = evolve(A, weight=5.0)
        room.watch.keep(Snapshot(2, {"orders": evolve(ORDERS, targets=(heavy, B))}))
        await room.probe.until(lambda: room.probe.looked[heavy])
        await room.watch.close()


@asyncio_test
async def test_who_hurries_need_not_wait() -> None:
    async with nothing_left():
        room = Room(NEVER)
        room.watch.keep(STATE)
        room.watch.hurry(Spot("orders", A.address))
        room.watch.hurry(Spot("orders", Address("unheard-of", 1)))
        await room.probe.until(lambda: room.probe.looked[A])
        room.watch.hurry(Spot("orders", A.address))
        await room.probe.until(lambda: room.probe.looked[A] == 2)
        assert not room.probe.looked[B]
        await room.watch.close()


@asyncio_test
async def test_a_probe_that_breaks_does_not_end_the_watch() -> None:
    async with nothing_left(broken=True):
        room = Room(FAST)
        room.probe.finds[A] = ZeroDivisionError()
        room.watch.keep(STATE)
        await room.probe.until(lambda: room.probe.looked[A] > 2)
        await room.watch.close()


@asyncio_test
async def test_what_was_found_lately_does_where_all_is_well() -> None:
    async with nothing_left():
        room = Room(NEVER)
        here = Spot("orders", A.address)
        room.watch.keep(STATE)
        for looked, fresh in ((1, True), (2, False), (3, False)):
            room.watch.hurry(here)
            await room.probe.until(lambda looked=looked: room.probe.looked[A] == looked)
            assert room.probe.fresh[-1] is fresh
            await asyncio.sleep(0)
        room.sightings.failed(here, "no answer in time")
        room.watch.hurry(here)
        await room.probe.until(lambda: room.probe.looked[A] == 4)
        assert room.probe.fresh[-1]
        await room.watch.close()


@asyncio_test
async def test_a_look_for_a_person() -> None:
    room = Room(NEVER)
    found = await room.watch.look(ORDERS, A, Account("app"))
    assert found.kind == "primary"
    assert room.probe.asked == [(A, Account("app"), 2.0)]


def test_when_in_doubt_it_looks_soon() -> None:
    random = Random(3)
    usual = [pause(Health(State.UP), random) for _ in range(200)]
    assert 1 - JITTER <= min(usual) < 1 < max(usual) <= 1 + JITTER
    assert pause(Health(State.DEGRADED, failures=1), random) == JITTER
    assert pause(Health(State.DOWN, failures=9), random) > 0.5
    assert pause(Health(State.DOWN, hearsay=True), random) == JITTER
