"""The audit log as it is shown, and how it knows who looked."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.control import caller
from tests.daemon import Daemon, Done, running
from tests.support import asyncio_test

ME = caller(os.getpid(), os.geteuid())


def fill(daemon: Daemon) -> dict[str, str]:
    """What a person would be quoted, by user."""
    refused = {"resource": "orders", "source": "10.0.0.1", "refusal": "BadProof"}
    refused["detail"] = "wrong\x1b[2J password"
    return {
        user: daemon.audit.write("session.refused", user=user, **refused)
        for user in ("alice", "bob")
    }


async def shown(daemon: Daemon, *arguments: str) -> list[dict[str, str]]:
    return (await daemon.cli("audit", *arguments, "--format", "json")).json()


@asyncio_test
async def test_all_of_it_the_newest_last(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        quotes = fill(daemon)
        rows = await shown(daemon)
        assert [row["event"] for row in rows] == [
            "objects.changed", "session.refused", "session.refused", "audit.read",
        ]  # fmt: skip
        assert [row["id"] for row in rows[1:3]] == list(quotes.values())
        assert rows[-1]["by"] == ME
        lines = (await daemon.cli("audit", "--format", "jsonl")).out.splitlines()
        assert [json.loads(line)["event"] for line in lines[:-1]] == [row["event"] for row in rows]
        assert [row["event"] for row in await shown(daemon, "--limit", "2")] == ["audit.read"] * 2


@asyncio_test
async def test_a_table_is_for_people_and_commands_no_terminal(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        quotes = fill(daemon)
        done = await daemon.cli("audit")
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
        (line,) = (line for line in done.out.splitlines() if quotes["bob"] in line)
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d  session\.refused  user=bob resource=orders source=10\.0\.0\.1"
            r' refusal=BadProof detail="wrong\\u001b\[2J password" id=\w{8}',
            line,
        )
        assert f'by="{ME}"' in done.out.splitlines()[-1]


@asyncio_test
async def test_nobody_makes_up_a_fact(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.audit.write("session.refused", user="eve by=root", detail='x" by="root')
        line = (await daemon.cli("audit")).out.splitlines()[-2]
        assert line.split("  ")[-1] == 'user="eve by=root" detail="x\\" by=\\"root"'


@asyncio_test
async def test_since_when_was_asked_for_is_a_date(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        row = (await shown(daemon, "--since", "1h"))[-1]
        asked = datetime.fromisoformat(row["at"]) - datetime.fromisoformat(row["since"])
        assert timedelta(minutes=59) < asked < timedelta(minutes=61)


@asyncio_test
async def test_nothing_happened(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        assert await daemon.cli("audit", "--user", "zoe") == Done(0, "", "no entries\n")


@asyncio_test
async def test_what_a_refusal_quotes_is_found(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        quotes = fill(daemon)
        (row,) = await shown(daemon, quotes["bob"].upper())
        assert (row["id"], row["user"]) == (quotes["bob"], "bob")
        none = await daemon.cli("audit", "aaaaaaaa")
        assert none == Done(1, "", "gateway: the audit log has no entry aaaaaaaa\n")
        asked = [row.get("entry") for row in daemon.audited("audit.read")]
        assert asked == [quotes["bob"].upper(), "aaaaaaaa"]


@asyncio_test
async def test_of_one_user_and_of_late(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.audit._clock = lambda: time.time() - 7200
        fill(daemon)
        daemon.audit._clock = time.time
        fill(daemon)
        rows = await shown(daemon, "--user", "bob", "--since", "1h")
        assert [(row["event"], row["user"]) for row in rows] == [("session.refused", "bob")]
        assert len(await shown(daemon, "--user", "bob", "--since", "1d")) == 2
        mine = await shown(daemon, "--user", ME.split()[0])
        assert [(row["event"], row.get("of")) for row in mine] == [
            ("audit.read", "bob"),
            ("audit.read", "bob"),
            ("audit.read", ME.split()[0]),
        ]


@asyncio_test
async def test_files_of_several_processes_are_in_one_order(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        fill(daemon)
    assert [row["event"] for row in await shown(daemon)][-1] == "audit.read"
    assert [row["by"] for row in await shown(daemon) if row["event"] == "audit.read"] == [ME, ME]
    assert len(list(daemon.places.audit.iterdir())) == 3
    first, *_ = sorted(daemon.places.audit.iterdir())
    first.rename(daemon.places.audit / "99991231T000000000000Z-aaaaaaaa.gwt")
    rows = await shown(daemon)
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)


@asyncio_test
async def test_one_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        quotes = fill(daemon)
        name = "20260101T000000000000Z-aaaaaaaa"
        (daemon.places.audit / f"{name}.gwt").write_bytes(b"nothing of ours")
        done = await daemon.cli("audit", "--format", "json")
        assert done.code == 1
        assert quotes["bob"] in [row["id"] for row in json.loads(done.out)]
        assert done.err.startswith(f"gateway: {name}: ")
        assert done.err.count("\n") == 1


@asyncio_test
async def test_what_cannot_be_noted_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        fill(daemon)
        daemon.audit._file.fail("no space left on device")
        monkeypatch.setattr(daemon.audit, "_root", tmp_path / "gateway.yaml")
        done = await daemon.cli("audit")
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


@asyncio_test
async def test_where_there_was_no_gateway_yet(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        pass
    daemon.places.audit.rename(tmp_path / "elsewhere")
    done = await daemon.cli("audit")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert not daemon.places.audit.exists()
