"""What follows from how the targets are: who is told, and which sessions are asked to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import evolve

from gateway import policy
from gateway.health import Findings, Sightings, Spot
from gateway.model import (
    Address,
    Allow,
    Grant,
    Identity,
    Role,
    SessionInfo,
    Snapshot,
    Target,
    TargetKind,
    Terms,
)
from gateway.targets import Targets
from tests.leaks import nothing_left
from tests.story import ALICE, BOTH, ORDERS, READ, House, Running, snapshot
from tests.support import asyncio_test

A, B = Address("a", 5432), Address("b", 5432)
TWO = evolve(ORDERS, targets=(Target(A), Target(B)))
HERE = Spot("orders", A)
GONE = Findings(down="TCP: Connection refused", hard=True)


def state(*targets: Target, version: int = 1) -> Snapshot:
    resource = evolve(TWO, targets=targets or TWO.targets)
    return evolve(snapshot(READ, version=version), resources={"orders": resource})


class Hall(House):
    """Sessions on targets, by the kind of target that they want."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, limits=(10, 10))
        self.sightings = Sightings(lambda: self.now)
        self.targets = Targets(self.live, self.sightings, self.audit, lambda: self.now)
        self.targets.adopt(state())

    def begin(self, at: Address, kind: TargetKind = TargetKind.ANY) -> Running:
        role = Role("reader", (Allow(BOTH, frozenset({"app_ro"}), Terms(kind)),))
        allowed = evolve(state(), roles=MappingProxyType({"reader": role}))
        now = datetime.fromtimestamp(self.now, UTC)
        grant = policy.decide(ALICE, Identity("alice", "password"), allowed, now)
        assert isinstance(grant, Grant)
        facts = ("orders", "app_ro", str(at), "postgresql", "10.1.1.1", self.now)
        info = SessionInfo(f"s{len(self.live)}", "alice", *facts)
        with self.live.seat("alice") as seat:
            session = self.live.begin(info, grant, self.recorder.open(info), seat)
            session.running = running = Running(session.done)
        return running

    def told(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if entry["event"].startswith("target.")]


@asynccontextmanager
async def hall(root: Path, *, broken: bool = False) -> AsyncIterator[Hall]:
    async with nothing_left(broken=broken):
        house = Hall(root)
        try:
            yield house
        finally:
            house.leave()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asyncio_test
async def test_sessions_leave_what_a_probe_found_dead(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        there, elsewhere = house.begin(A), house.begin(B)
        house.sightings.failed(HERE, "no answer in time")
        await turns()
        assert not there.left, "one failed log-in is no reason yet"
        house.sightings.probed(TWO, A, GONE)
        await turns()
        assert (there.left, elsewhere.left) == (["is down: TCP: Connection refused"], [])
        await house.targets.sweep()
        assert len(there.left) == 2, "again and again, while it lasts"
        house.sightings.probed(TWO, A, Findings())
        await house.targets.sweep()
        assert len(there.left) == 2


@asyncio_test
async def test_sessions_leave_what_is_drained_or_gone(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        one, other = house.begin(A), house.begin(B)
        house.targets.adopt(state(Target(A, draining=True), Target(B), version=2))
        await turns()
        assert (one.left, other.left) == (["is being drained"], [])
        house.targets.adopt(state(Target(A), version=3))
        await turns()
        assert other.left == ["is no target of this resource any more"]
        assert len(one.left) == 1
        house.targets.adopt(evolve(state(), resources={}))
        await turns()
        assert (len(one.left), len(other.left)) == (1, 1), "to end them is somebody else's task"


@asyncio_test
async def test_after_a_promotion_each_looks_for_what_it_needs(tmp_path: Path) -> None:
    kinds = (TargetKind.PRIMARY, TargetKind.STANDBY, TargetKind.PREFER_STANDBY, TargetKind.ANY)
    async with hall(tmp_path) as house:
        sessions = [house.begin(A, kind) for kind in kinds]
        house.sightings.found(HERE, "standby")
        await turns()
        assert [each.left for each in sessions] == [["is a standby now"], [], [], []]
        house.sightings.found(HERE, "primary")
        await turns()
        assert [len(each.left) for each in sessions] == [1, 1, 0, 0]


@asyncio_test
async def test_nobody_stays_who_needs_a_primary_that_was_overtaken(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        writer, reader = house.begin(A, TargetKind.PRIMARY), house.begin(A)
        for address, timeline in ((A, 1), (B, 2)):
            look = Findings(kind="primary", timeline=timeline, system="7")
            house.sightings.probed(TWO, address, look)
        await house.targets.sweep()
        for session in (writer, reader):
            assert {why.partition(":")[0] for why in session.left} == {"split brain"}


@asyncio_test
async def test_one_that_breaks_keeps_nobody_else(tmp_path: Path) -> None:
    async with hall(tmp_path, broken=True) as house:
        first, second = house.begin(A), house.begin(A)
        first.broken = True
        house.targets.adopt(state(Target(A, draining=True)))
        await turns()
        assert second.left
        first.broken = False


@asyncio_test
async def test_falls_and_returns_are_audited(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        house.sightings.probed(TWO, A, Findings())
        house.sightings.probed(TWO, A, GONE)
        house.sightings.probed(TWO, A, GONE)
        house.sightings.probed(TWO, A, Findings())
        told = [(t["target"], t["was"], t["state"], t["detail"]) for t in house.told()]
        assert told == [
            ("a:5432", "up", "down", "TCP: Connection refused"),
            ("a:5432", "down", "up", "answers"),
        ]


@asyncio_test
async def test_promotions_and_demotions_are_audited(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        for kind in ("standby", "standby", "primary", "standby"):
            house.sightings.probed(TWO, A, Findings(kind=kind))
        told = [(t["event"], t["target"]) for t in house.told()]
        assert told == [("target.promoted", "a:5432"), ("target.demoted", "a:5432")]


@asyncio_test
async def test_lesser_things_are_told_now_and_then(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        for _ in range(100):
            house.sightings.strained(HERE, "out of connections")
            house.sightings.probed(TWO, A, Findings())
            house.now += 1
        assert [t["state"] for t in house.told()] == ["degraded"] * 2


@asyncio_test
async def test_a_refused_account_is_told_of(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        house.targets.refused_account(HERE, "app_ro", "28P01")
        (told,) = house.told()
        assert (told["event"], told["resource"], told["target"], told["account"]) == (
            "target.account-refused", "orders", "a:5432", "app_ro",
        )  # fmt: skip


@asyncio_test
async def test_an_audit_log_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        house.lose_audit()
        house.sightings.probed(TWO, A, GONE)
        assert house.targets.rows()[0].state == "down"


@asyncio_test
async def test_rows_and_samples(tmp_path: Path) -> None:
    async with hall(tmp_path) as house:
        house.sightings.probed(TWO, A, Findings(kind="standby", lag_seconds=0.5))
        house.sightings.connected(HERE, 0.01)
        house.sightings.probed(TWO, B, GONE)
        assert [row.address for row in house.targets.rows("orders")] == ["a:5432", "b:5432"]
        assert house.targets.rows("nothing") == []
        samples = [
            (name, labels["target"], value) for name, labels, value in house.targets.samples()
        ]
        assert samples == [
            ("target_up", "a:5432", 1.0),
            ("target_sessions", "a:5432", 0.0),
            ("target_lag_seconds", "a:5432", 0.5),
            ("target_latency_seconds", "a:5432", 0.01),
            ("target_up", "b:5432", 0.0),
            ("target_sessions", "b:5432", 0.0),
        ]
