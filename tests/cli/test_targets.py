"""targets, drain, undrain and doctor, asked of a real daemon on its real socket."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from gateway.cli.show import moment
from gateway.health import Findings, Spot, Step, Watch
from gateway.model import Address, Protocol
from tests.daemon import OBJECTS, Daemon, Done, running
from tests.support import asyncio_test

ONE, TWO = "db1.example.com:5432", "db2.example.com:5432"


class Probe:
    """Finds db2 down."""

    async def __call__(self, resource, target, seconds, *, fresh) -> Findings:
        return await self.look(resource, target, None, seconds)

    async def look(self, resource, target, account, seconds) -> Findings:
        if target.address.host.startswith("db2"):
            step = Step("TCP", False, "Connection\nrefused")
            return Findings((step,), down="TCP: Connection refused", hard=True)
        return Findings((Step("TCP", True, "ok"), Step("lag", None, "not asked")), kind="primary")


def see(daemon: Daemon) -> None:
    resource = daemon.catalog.snapshot.resources["orders"]
    found = Findings(kind="standby", lag_seconds=0.5)
    daemon.commands.sightings.probed(resource, Address("db1.example.com", 5432), found)
    daemon.commands.sightings.failed(
        Spot("orders", Address("db2.example.com", 5432)), "\x1b[31mrefused"
    )


@asyncio_test
async def test_the_list(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        see(daemon)
        one, two = (await daemon.cli("targets", "--format", "json")).json()
        assert list(one) == [
            "resource", "address", "kind", "state", "since", "why", "lag_seconds", "lag_bytes",
            "timeline", "sessions", "weight", "zone", "latency_ms",
        ]  # fmt: skip
        assert (one["address"], one["state"], one["lag_seconds"]) == (ONE, "up", 0.5)
        assert one["since"].endswith("+00:00")
        assert (two["address"], two["state"]) == (TWO, "down")
        done = await daemon.cli("targets")
        assert (done.code, done.err) == (0, "")
        head, *lines = (re.split("  +", line) for line in done.out.splitlines())
        assert head == [
            "resource", "address", "kind", "state", "since", "lag", "sessions", "why",
        ]  # fmt: skip
        assert [line[:4] for line in lines] == [
            ["orders", ONE, "standby", "up"],
            ["orders", TWO, "down", moment(two["since"])],
        ]
        assert lines[0][5:7] == ["0.5 s", "0"]
        assert lines[1][-1] == "\\x1b[31mrefused"


@asyncio_test
async def test_no_targets(tmp_path: Path) -> None:
    async with running(tmp_path, "") as daemon:
        assert await daemon.cli("targets") == Done(0, "", "no targets\n")


def draining(daemon: Daemon) -> list[str]:
    return [
        f"{resource.name}/{target.address}"
        for resource in daemon.catalog.snapshot.resources.values()
        for target in resource.targets
        if target.draining
    ]


@asyncio_test
async def test_draining(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        done = await daemon.cli("targets", "drain", ONE)
        assert done == Done(0, f"draining orders/{ONE}: 0 sessions there\n", "")
        assert draining(daemon) == [f"orders/{ONE}"]
        (row, _) = (await daemon.cli("targets", "--format", "json")).json()
        assert (row["state"], row["why"]) == ("draining", "drained by hand")
        await daemon.apply(OBJECTS)
        assert draining(daemon) == [f"orders/{ONE}"], "a file that is silent changes nothing"
        await daemon.catalog.load()
        assert draining(daemon) == [f"orders/{ONE}"], "nor does a restart"
        assert (await daemon.cli("targets", "drain", ONE)).code == 0
        done = await daemon.cli("targets", "undrain", f"orders/{ONE}")
        assert done == Done(0, f"serving orders/{ONE}\n", "")
        assert draining(daemon) == []
        changes = [entry["changes"] for entry in daemon.audited("objects.changed")][1:]
        assert changes == [["~ resources orders (targets.0.draining)"]] * 2


@asyncio_test
async def test_which_one_is_meant(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        single = OBJECTS.replace(f', {{address: "{TWO}"}}', "").replace("orders", "stock")
        await daemon.apply(single[: single.index("users:")])
        for name, found in (
            (ONE, [f"orders/{ONE}", f"stock/{ONE}"]),
            (f"stock/{ONE}", [f"stock/{ONE}"]),
            ("stock", [f"stock/{ONE}"]),
        ):
            assert (await daemon.cli("targets", "drain", name)).code == 0
            assert sorted(draining(daemon)) == found
            assert (await daemon.cli("targets", "undrain", name)).code == 0
        for name, why in (
            ("orders", "orders has 2 targets: "),
            ("x:1", "there is no target 'x:1'"),
        ):
            done = await daemon.cli("targets", "drain", name)
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(f"gateway: {why}")
        assert draining(daemon) == []


@asyncio_test
async def test_the_doctor(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        assert (
            await daemon.cli("doctor", "orders")
        ).err == "gateway: nobody looks at targets yet\n"
        commands = daemon.commands
        commands.targets.watch = Watch(
            {Protocol.POSTGRESQL: Probe()}, commands.sightings, (3600, 1), Random(1)
        )
        done = await daemon.cli("doctor", "orders")
        assert done.code == 1
        assert done.out == (
            f"orders/{ONE}: unknown, primary: not looked at yet\n"
            "  ok      TCP       ok\n"
            "  -       lag       not asked\n"
            f"orders/{TWO}: unknown: not looked at yet\n"
            "  FAILED  TCP       Connection\\nrefused\n"
            "                    check that the server runs and listens there,"
            " and what filters in between\n"
            "something is wrong\n"
        )
        told = (await daemon.cli("doctor", "orders", "--format", "json")).out
        assert '"well": false' in told
        await daemon.apply(OBJECTS.replace(f', {{address: "{TWO}"}}', ""))
        done = await daemon.cli("doctor", "orders")
        assert (done.code, done.out.splitlines()[-1]) == (0, "all is well")
        done = await daemon.cli("doctor", "nothing")
        assert done == Done(1, "", "gateway: there is no resource 'nothing'\n")
        await commands.targets.watch.close()
