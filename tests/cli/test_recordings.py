"""Reading recordings: what is shown, what is noted of who looked, what altered ones cannot hide."""

from __future__ import annotations

import asyncio
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.show import moment
from gateway.control import caller
from gateway.model import End, EndReason
from gateway.record.format import CLIENT, TARGET
from tests.daemon import STARTED, Daemon, Done, running
from tests.pg.test_transcript import error, query, ready, tag
from tests.support import asyncio_test

ONE, OTHER = "a" * 16, "b" * 16


def say(daemon: Daemon, session_id: str, *statements: str, started: float = STARTED) -> None:
    """A session in which *statements* ran, and which goes on."""
    log = daemon.begin(session_id, started=started).transcript
    for sql in statements:
        log.add(CLIENT, query(sql))
        failed = sql.startswith("DROP")
        log.add(TARGET, (error("42501", "no\x1b[2J!") if failed else tag("SELECT 1")) + ready())
    assert log.commit(lambda: None)


def end(daemon: Daemon) -> None:
    daemon.runs[-1].done(End(EndReason.CLIENT))


def transcript(daemon: Daemon, session_id: str) -> Path:
    (path,) = daemon.places.transcripts.rglob(f"{session_id}.gwt")
    return path


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"SELECT")] ^= 1
    path.write_bytes(data)


@asyncio_test
async def test_replay(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 'Grüße'", "DROP TABLE t -- \x1b[2J")
        end(daemon)
        done = await daemon.cli("replay", "aaa")
        assert (done.code, done.err) == (0, "")
        said = [line.split(maxsplit=1)[1] for line in done.out.splitlines()]
        assert "alice from 10.0.0.1 on orders as app_ro (db1.example.com:5432)" in said[0]
        assert said[1] == "SELECT 'Grüße'"
        assert said[2].startswith("SELECT 1  ")
        assert said[3] == "DROP TABLE t -- \\x1b[2J"
        assert said[4].startswith("ERROR 42501: no\\x1b[2J!  ")
        assert said[5].startswith("end: client closed")
        lines = (await daemon.cli("replay", ONE, "--format", "jsonl")).out.splitlines()
        events = [json.loads(line) for line in lines]
        assert [each["kind"] for each in events] == ["start", "statement", "statement", "end"]
        assert [each["how"] for each in daemon.audited("transcript.read")] == ["replay", "replay"]
        assert {each["session"] for each in daemon.audited("transcript.read")} == {ONE}


@asyncio_test
async def test_replay_and_watch_of_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        assert len((await daemon.cli("replay", ONE)).out.splitlines()) == 3
        noted, write = asyncio.Event(), daemon.audit.write

        def note(event: str, **facts: Any) -> str:
            noted.set()
            return write(event, **facts)

        monkeypatch.setattr(daemon.audit, "write", note)
        watching = asyncio.ensure_future(daemon.cli("watch", ONE))
        await noted.wait()
        log = daemon.runs[-1].transcript
        log.add(CLIENT, query("SELECT 2"))
        assert log.commit(lambda: None)
        end(daemon)
        said = (await watching).out
        assert "SELECT 2" in said
        assert said.splitlines()[-1].split()[1] == "end:"


@asyncio_test
async def test_export(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        piped = await daemon.cli("export", ONE, "--to", "jsonl")
        assert (piped.code, piped.err) == (0, "")
        path = tmp_path / "out.jsonl"
        await daemon.cli("export", ONE, "--to", "jsonl", "-o", str(path))
        assert path.read_text() == piped.out
        nowhere = await daemon.cli("export", ONE, "--to", "jsonl", "-o", str(tmp_path / "a" / "b"))
        assert (nowhere.code, nowhere.err.count("\n")) == (1, 1)
        assert {each["how"] for each in daemon.audited("transcript.read")} == {"export"}


@pytest.mark.parametrize("command", [("replay",), ("watch",), ("export", "--to", "jsonl")])
@asyncio_test
async def test_no_such_session(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE)
        say(daemon, "ab" + "c" * 14)
        for prefix, why in (
            ("x", "there is no transcript x"),
            ("a", "2 sessions begin with a: write more of the id"),
            ("*", "there is no transcript *"),
            ("../a", "'../a' is not a session id"),
            ("", "'' is not a session id"),
        ):
            assert await daemon.cli(*command, prefix) == Done(1, "", f"gateway: {why}\n")
        assert daemon.audited("transcript.read") == []


@asyncio_test
async def test_search(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT secret FROM t", "SELECT 2")
        end(daemon)
        say(daemon, OTHER, "select SECRET", started=STARTED + 86400)
        os.utime(transcript(daemon, ONE), (STARTED, STARTED))
        rows = (await daemon.cli("search", "Secret", "--format", "json")).json()
        assert [(row["id"], row["sql"]) for row in rows] == [
            (OTHER, "select SECRET"),
            (ONE, "SELECT secret FROM t"),
        ]
        assert (await daemon.cli("search", "nothing of it", "--format", "json")).json() == []
        assert len(daemon.audited("transcript.read")) == 2, "only where something was found"
        head, line = (await daemon.cli("search", "2")).out.splitlines()
        assert head.split() == ["id", "when", "at", "user", "resource", "text"]
        session, *when, at, user, resource, text = re.split("  +", line)
        told = moment(datetime.fromtimestamp(STARTED, UTC).isoformat())
        assert (session, when, user, resource) == (ONE, [told], "alice", "orders")
        assert (float(at), text) == (pytest.approx(0, abs=60), "SELECT 2")
        assert await daemon.cli("search", "nothing of it") == Done(0, "", "nothing found\n")


@asyncio_test
async def test_one_damaged_transcript_does_not_hide_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        say(daemon, OTHER, "SELECT 1")
        end(daemon)
        transcript(daemon, ONE).write_bytes(b"nothing of ours")
        done = await daemon.cli("search", "select", "--format", "json")
        assert done.code == 1
        assert [row["id"] for row in json.loads(done.out)] == [OTHER]
        assert done.err.startswith(f"gateway: {ONE}: ")
        assert done.err.count("\n") == 1


@asyncio_test
async def test_without_a_daemon(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
    assert (await daemon.cli("replay", ONE)).code == 0
    assert len((await daemon.cli("search", "1", "--format", "json")).json()) == 1
    assert (await daemon.cli("search", "nothing of it")).code == 0
    noted = daemon.audited("transcript.read")
    assert [(each["session"], each["how"]) for each in noted] == [(ONE, "replay"), (ONE, "search")]
    assert {each["by"] for each in noted} == {caller(os.getpid(), os.geteuid())}
    every = (await daemon.cli("verify", "--all", "--format", "json")).json()
    assert [each["status"] for each in every] == ["ok"] * 4, "the daemon's, and two of ours"


@asyncio_test
async def test_without_a_daemon_and_room_for_a_note_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    done = await daemon.cli("replay", ONE)
    monkeypatch.undo()
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("gone", ["audit", "keys"])
@asyncio_test
async def test_a_copy_of_transcripts_can_be_read(tmp_path: Path, gone: str) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
    getattr(daemon.places, gone).rename(tmp_path / "left behind")
    done = await daemon.cli("replay", ONE)
    assert (done.code, "SELECT 1" in done.out) == (0, True)
    assert done.err.startswith("warning: not verified: ") == (gone == "keys")
    assert not getattr(daemon.places, gone).exists()


@asyncio_test
async def test_what_cannot_be_noted_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        daemon.audit._file.fail("no space left on device")
        monkeypatch.setattr(daemon.audit, "_root", tmp_path / "gateway.yaml")
        for command in (("replay", ONE), ("search", "select"), ("export", ONE, "--to", "jsonl")):
            done = await daemon.cli(*command)
            assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
