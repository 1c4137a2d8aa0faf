"""sessions, kill and explain; with a daemon, and what can be told without one."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from gateway.cli.sessions import Ago
from gateway.cli.show import moment
from gateway.model import End, EndReason
from tests.daemon import STARTED, Daemon, Done, running
from tests.support import asyncio_test

ONE, OTHER = "a" * 16, "b" * 16


async def ids(daemon: Daemon, *options: str) -> list[str]:
    done = await daemon.cli("sessions", "--format", "json", *options)
    return [row["id"] for row in done.json()]


@asyncio_test
async def test_sessions(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.begin(ONE).done(End(EndReason.CLIENT))
        daemon.begin(OTHER, started=time.time())
        assert await ids(daemon) == [OTHER, ONE]
        assert await ids(daemon, "--live") == [OTHER]
        assert await ids(daemon, "--since", "2h") == [OTHER]
        assert await ids(daemon, "--limit", "1") == [OTHER]
        assert await ids(daemon, "--user", "alice", "--resource", "orders") == [OTHER, ONE]
        assert await ids(daemon, "--user", "bob") == []


@asyncio_test
async def test_the_table_says_who_where_and_how_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.begin(ONE).done(End(EndReason.KILLED, "lunch"))
        daemon.begin(OTHER, started=STARTED + 86400)
        done = await daemon.cli("sessions")
        when = moment(datetime.fromtimestamp(STARTED, UTC).isoformat())
        head, live, ended = (re.split("  +", line) for line in done.out.splitlines())
        assert head == ["id", "started", "user", "resource", "account", "source", "status"]
        assert live[-1] == "live at db1.example.com:5432, pinned: temporary tables"
        assert ended == [ONE, when, "alice", "orders", "app_ro", "10.0.0.1", "killed: lunch"]
        assert await daemon.cli("sessions", "--user", "zoe") == Done(0, "", "no sessions\n")


@asyncio_test
async def test_without_a_daemon_the_index_tells(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.begin(ONE).done(End(EndReason.CLIENT))
        daemon.begin(OTHER, started=STARTED + 60)
        with_it = (await daemon.cli("sessions", "--format", "json")).json()
    assert await ids(daemon) == [OTHER, ONE]
    assert await ids(daemon, "--user", "alice", "--limit", "1") == [OTHER]
    assert await ids(daemon, "--since", "1h") == []
    without = (await daemon.cli("sessions", "--format", "json")).json()
    assert without[1] == with_it[1]
    assert without[0].keys() == with_it[0].keys() - {"pinned"}  # only what runs is pinned
    assert (await daemon.cli("sessions", "--live")).code == 69
    daemon.places.store.write_bytes(b"no database at all, but long enough to be looked at" * 9)
    broken = await daemon.cli("sessions")
    assert (broken.code, broken.out, broken.err.count("\n")) == (1, "", 1)
    daemon.places.store.unlink()
    assert await ids(daemon) == []


@asyncio_test
async def test_kill(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        session = daemon.begin(ONE)
        daemon.begin(OTHER)
        assert await daemon.cli("kill", "aaa", "--reason", "lunch") == Done(0, f"ended {ONE}\n", "")
        assert session.running.ended == [End(EndReason.KILLED, "lunch")]
        for prefix in ("aaa", "", "*"):
            done = await daemon.cli("kill", prefix)
            assert done == Done(1, "", f"gateway: no running sessions match {prefix!r}\n")
        assert await ids(daemon, "--live") == [OTHER]


@asyncio_test
async def test_explain(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        yes = await daemon.cli("explain", "alice", "orders", "--source", "192.0.2.7")
        assert (yes.code, yes.err) == (0, "")
        assert "from 192.0.2.7" in yes.out.splitlines()[0]
        assert yes.out.splitlines()[-1].startswith("ALLOWED as app_ro by analysts-read")
        no = await daemon.cli("explain", "bob", "orders", "--format", "json")
        assert (no.code, no.err) == (77, "")
        answer = json.loads(no.out)
        assert (answer["allowed"], "lines" in answer) == (False, False)
        at = await daemon.cli("explain", "alice", "orders", "--at", "2026-01-05T12:00:00+01:00")
        assert "at 2026-01-05T11:00:00+00:00" in at.out
        zoneless = await daemon.cli("explain", "alice", "orders", "--at", "2026-01-05T12:00")
        assert "at 2026-01-05T12:00:00+00:00" in zoneless.out
        hostile = await daemon.cli("explain", "\x1b[2J", "or\nders")
        assert hostile.code == 77
        assert "\x1b" not in hostile.out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--source", "example.com"),
        ("--source", ""),
        ("--at", "tomorrow"),
        ("--at", ""),
        ("--at", "0001-01-01T00:00:00+23:00"),
    ],
)
@asyncio_test
async def test_explain_nonsense(tmp_path: Path, option: str, value: str) -> None:
    async with running(tmp_path) as daemon:
        done = await daemon.cli("explain", "alice", "orders", option, value)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"gateway: {value!r} is not an I")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800), ("1w", 604800), ("0s", 0)],
)
def test_ago(written: str, seconds: int) -> None:
    assert time.time() - Ago().convert(written, None, None) == pytest.approx(seconds, abs=60)


@pytest.mark.parametrize("written", ["", "2", "h", "-2h", "2.5h", "2 h", "2y", "9999999s", "٢h"])
def test_no_time_ago(written: str) -> None:
    with pytest.raises(click.BadParameter):
        Ago().convert(written, None, None)
