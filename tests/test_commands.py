"""What the command line can ask of a daemon: real objects, real sessions, a real audit log."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.catalog import NoSuchObject
from gateway.commands import row, stamp
from gateway.errors import BadFile, GatewayError, NotRecorded
from gateway.identity.password import matches
from gateway.model import End, EndReason, SessionInfo
from tests.daemon import OBJECTS, STARTED, Daemon, running
from tests.support import asyncio_test

ONE, OTHER = "a" * 16, "ab" + "c" * 14
BY = "alice (1000) as root (0)"


async def ask(daemon: Daemon, command: str, **arguments: Any) -> Any:
    """As the control socket does it: JSON in, JSON out."""
    given = {**json.loads(json.dumps(arguments)), "by": BY}
    answer = await daemon.commands.table()[command](given)
    return json.loads(json.dumps(answer))


async def listed(daemon: Daemon, **wanted: Any) -> list[str]:
    return [each["id"] for each in (await ask(daemon, "sessions", **wanted))["sessions"]]


@asyncio_test
async def test_apply(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        text = OBJECTS.replace("hunter2-for-orders", "hunter3").replace("bob", "eve")
        wanted = {"text": text, "file": str(tmp_path / "o.yaml")}
        expected = [
            {"sign": "~", "kind": "resources", "name": "orders",
             "paths": ["accounts.app_ro.password"]},
            {"sign": "+", "kind": "users", "name": "eve", "paths": []},
        ]  # fmt: skip
        version = daemon.catalog.snapshot.version
        assert (await ask(daemon, "apply", **wanted, dry_run=True))["changes"] == expected
        assert daemon.catalog.snapshot.version == version
        assert (await ask(daemon, "apply", **wanted))["changes"] == expected
        assert (await ask(daemon, "apply", **wanted))["changes"] == []
        (gone,) = (await ask(daemon, "apply", **wanted, prune=True))["changes"]
        assert (gone["sign"], gone["name"]) == ("-", "bob")
        assert daemon.catalog.snapshot.users.keys() == {"alice", "eve"}


@asyncio_test
async def test_what_cannot_be_applied_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        before = daemon.catalog.snapshot
        for text, why in (
            ("users: [{name: a b}]", r"f:1:16: users\.0\.name: may not hold"),
            ("users: [{name: eve, password: {file: none}}]", r"f:1:31: users\.eve\.password: "),
            ("bindings: [{name: b, role: none, subjects: [user:eve]}]", "f:1:28: .*'none'"),
        ):
            with pytest.raises(BadFile, match=why):
                await ask(daemon, "apply", text=text, file="f")
        assert daemon.catalog.snapshot is before


@asyncio_test
async def test_single_objects(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        (alice,) = (await ask(daemon, "get", kind="users", name="alice"))["objects"]
        assert alice["password"] == "(set)"
        shown = [await ask(daemon, "get", kind=kind) for kind in ("resources", "users", "roles")]
        assert "hunter2" not in str(shown)
        assert [each["name"] for each in shown[1]["objects"]] == ["alice", "bob"]
        await ask(daemon, "enable", name="bob")
        assert not daemon.catalog.snapshot.users["bob"].disabled
        await ask(daemon, "disable", name="bob")
        assert daemon.catalog.snapshot.users["bob"].disabled
        await ask(daemon, "passwd", name="bob", password="grüße")
        verifier = daemon.catalog.snapshot.users["bob"].password
        assert verifier is not None
        assert matches(verifier, "grüße")
        await ask(daemon, "apply", text="users: [{name: eve}]", file="f")
        await ask(daemon, "delete", kind="users", name="bob")
        changes = [(each["actor"], *each["changes"]) for each in daemon.audited("objects.changed")]
        assert changes[1:] == [
            (BY, "~ users bob (disabled)"),
            (BY, "~ users bob (disabled)"),
            (BY, "~ users bob (password)"),
            (BY, "+ users eve"),
            (BY, "- users bob"),
        ]
        with pytest.raises(NoSuchObject, match="no user 'bob'"):
            await ask(daemon, "get", kind="users", name="bob")
        with pytest.raises(GatewayError, match="analysts-read"):
            await ask(daemon, "delete", kind="roles", name="reader")


@asyncio_test
async def test_sessions(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.begin(ONE).done(End(EndReason.CLIENT))
        daemon.begin(OTHER, started=STARTED + 60)
        assert await listed(daemon) == [OTHER, ONE]
        assert await listed(daemon, live=True) == [OTHER]
        assert await listed(daemon, limit=1) == [OTHER]
        assert await listed(daemon, since=STARTED + 1) == [OTHER]
        assert await listed(daemon, user="alice", resource="orders") == [OTHER, ONE]
        assert await listed(daemon, user="bob") == await listed(daemon, resource="web") == []
        running_one, ended = (await ask(daemon, "sessions"))["sessions"]
        assert (running_one["status"], running_one["ended"]) == ("live", None)
        assert (running_one["statements"], running_one["bytes_out"]) == (3, 100), "as they stand"
        assert running_one["pinned"] == "temporary tables"
        assert (ended["status"], ended["reason"]) == ("ended", "client closed")
        assert list(ended) == [
            "id", "user", "resource", "account", "target", "protocol", "source", "started",
            "ended", "status", "reason", "statements", "bytes_in", "bytes_out",
        ]  # fmt: skip


def test_rows_are_json_with_times_for_people_and_programs() -> None:
    info = SessionInfo("1", "a", "o", "ro", "h:1", "postgresql", "::1", STARTED, STARTED + 0.25)
    assert json.loads(json.dumps(row(info))) == {
        "id": "1", "user": "a", "resource": "o", "account": "ro", "target": "h:1",
        "protocol": "postgresql", "source": "::1", "started": "2026-11-18T11:06:40.000+00:00",
        "ended": "2026-11-18T11:06:40.250+00:00", "status": "live", "reason": "",
        "statements": 0, "bytes_in": 0, "bytes_out": 0,
    }  # fmt: skip
    assert datetime.fromisoformat(stamp(STARTED)) == datetime.fromtimestamp(STARTED, UTC)


@asyncio_test
async def test_kill(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        one = daemon.begin(ONE)
        for prefix, why in (("", "no running"), ("x", "no running"), ("abc" * 9, "no running")):
            with pytest.raises(GatewayError, match=why):
                await ask(daemon, "kill", id=prefix)
        daemon.begin(OTHER)
        with pytest.raises(GatewayError, match="2 running sessions match 'a'"):
            await ask(daemon, "kill", id="a")
        assert await ask(daemon, "kill", id="aa", reason="lunch") == {"id": ONE}
        assert one.running.ended == [End(EndReason.KILLED, "lunch")]
        assert await listed(daemon, live=True) == [OTHER]
        (noted,) = daemon.audited("session.killed")
        assert (noted["session"], noted["reason"], noted["by"]) == (ONE, "lunch", BY)


EXPLAINED: list[tuple[dict[str, Any], bool, str]] = [
    ({"user": "alice", "resource": "orders"}, True, "ALLOWED as app_ro by analysts-read"),
    ({"user": "alice", "resource": "orders", "account": "root"}, False, "DENIED"),
    ({"user": "bob", "resource": "orders"}, False, "disabled"),
    ({"user": "eve", "resource": "orders"}, False, "there is no user eve"),
    ({"user": "alice", "resource": "none"}, False, "DENIED"),
]


@pytest.mark.parametrize(("question", "allowed", "words"), EXPLAINED)
@asyncio_test
async def test_explain(
    tmp_path: Path, question: Mapping[str, Any], allowed: bool, words: str
) -> None:
    async with running(tmp_path) as daemon:
        answer = await ask(daemon, "explain", **question)
        assert answer["allowed"] is allowed
        assert words in "\n".join(answer["lines"])
        assert sorted(each["address"] for each in answer["targets"]) == (
            ["db1.example.com:5432", "db2.example.com:5432"] if allowed else []
        )


@asyncio_test
async def test_explain_another_place_and_time(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        asked = {"user": "alice", "resource": "orders", "source": "::ffff:192.0.2.1", "at": STARTED}
        answer = await ask(daemon, "explain", **asked)
        assert answer["source"] == "192.0.2.1"
        assert answer["at"] == "2026-11-18T11:06:40+00:00"
        assert daemon.audited("session.started") == []


@asyncio_test
async def test_status_and_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.begin(ONE)
        status = await ask(daemon, "status")
        assert (status["version"], status["pid"], status["sessions"]) == (
            __version__,
            os.getpid(),
            1,
        )
        assert status["started"] == stamp(STARTED)
        assert await ask(daemon, "reload") == {}
        assert daemon.reloaded == 1
        (noted,) = daemon.audited("gateway.reload")
        assert noted["by"] == BY


@asyncio_test
async def test_who_reads_a_transcript_is_noted_or_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        asked = {"event": "transcript.read", "session": ONE, "how": "replay"}
        assert await ask(daemon, "note", **asked) == {}
        (noted,) = daemon.audited("transcript.read")
        assert (noted["session"], noted["how"], noted["by"]) == (ONE, "replay", BY)
        assert await ask(daemon, "note", event="audit.read", user="bob") == {}
        (noted,) = daemon.audited("audit.read")
        assert (noted["user"], noted["by"]) == ("bob", BY)
        with pytest.raises(GatewayError, match=r"'session\.killed' is not for the command line"):
            await ask(daemon, "note", event="session.killed", session=ONE)

        def full(descriptor: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(NotRecorded):
            await ask(daemon, "note", **asked)
        monkeypatch.undo()
