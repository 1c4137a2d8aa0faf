"""Whether transcripts are what was written: verify, and what is told where they are shown."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_recordings import ONE, OTHER, alter, end, say, transcript
from tests.daemon import Daemon, Done, run, running
from tests.support import asyncio_test


@asyncio_test
async def test_verify(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        say(daemon, OTHER, "SELECT 1")
        await daemon.store.flush()
        (ok,) = (await daemon.cli("verify", ONE, "--format", "json")).json()
        assert (ok["id"], ok["status"], ok["detail"]) == (ONE, "ok", "")
        (open_one,) = (await daemon.cli("verify", OTHER[:5], "--format", "json")).json()
        assert open_one["status"] == "open"
        every = (await daemon.cli("verify", "--all", "--format", "json")).json()
        assert sorted(row["status"] for row in every) == ["ok", "open", "open"], "and the audit log"
        whole = transcript(daemon, ONE).read_bytes()
        alter(transcript(daemon, ONE))
        done = await daemon.cli("verify", "--all")
        assert (done.code, done.err) == (1, "")
        assert "altered" in done.out
        transcript(daemon, ONE).write_bytes(whole[:-100])
        cut = await daemon.cli("verify", ONE, "--format", "json")
        assert (cut.code, json.loads(cut.out)[0]["status"]) == (1, "altered"), "the index knows"
        assert daemon.audited("transcript.read") == []


@asyncio_test
async def test_verify_elsewhere_with_the_public_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        say(daemon, OTHER, "SELECT 1")
        await daemon.store.flush()
        away = tmp_path / "away"
        away.mkdir()
        (log,) = daemon.places.audit.iterdir()
        for path in (transcript(daemon, ONE), transcript(daemon, OTHER), log):
            shutil.copy(path, away)
        shutil.copy(daemon.places.keys / "transcripts.pub", away)
        monkeypatch.chdir(away)
        key = ("verify", "--key", "transcripts.pub", "--format", "json")
        names = (f"{ONE}.gwt", f"./{OTHER}.gwt", log.name)
        nowhere = {"GATEWAY_CONFIG": str(away / "none.yaml")}
        done = await asyncio.to_thread(run, *key, *names, **nowhere)
        whole, cut, _ = done.json()
        assert (whole["id"], whole["status"], whole["detail"]) == (ONE, "ok", "")
        assert (cut["id"], cut["status"]) == (OTHER, "truncated")
        assert "no seal covers the last" in cut["detail"]
        alter(away / f"{ONE}.gwt")
        done = await asyncio.to_thread(run, *key, *names[:1], **nowhere)
        assert (done.code, json.loads(done.out)[0]["status"]) == (1, "altered")
        done = await asyncio.to_thread(run, *key, "none.gwt", **nowhere)
        assert done == Done(1, "", "gateway: none.gwt: No such file or directory\n")
        (row,) = (await daemon.cli(*key, ONE)).json()
        assert row["status"] == "ok", "by its id, where it was written"
        (row,) = (await daemon.cli("verify", str(transcript(daemon, ONE)), *key[3:])).json()
        assert row["status"] == "ok", "by its name, with the keys"


@asyncio_test
async def test_looking_makes_no_keys(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
    public = daemon.places.keys / "transcripts.pub"
    public.write_bytes(b"other")
    assert (await daemon.cli("verify", ONE)).code == 0
    assert public.read_bytes() == b"other", "nor mends them"
    (daemon.places.keys / "vault.key").rename(tmp_path / "vault.key")
    assert (await daemon.cli("verify", ONE)).code == 1
    assert not (daemon.places.keys / "vault.key").exists()
    daemon.places.keys.rename(tmp_path / "kept elsewhere")
    done = await daemon.cli("verify", ONE)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert not daemon.places.keys.exists()
    fresh = tmp_path / "fresh.yaml"
    fresh.write_text("state_dir: new\nlisteners: [{address: 'h:0', protocols: [ssh]}]\n")
    every = await daemon.cli("verify", "--all", "--format", "json", "--config", str(fresh))
    assert every.json() == []
    assert not (tmp_path / "new").exists()


@asyncio_test
async def test_the_audit_log_is_told_from_sessions(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        (log,) = daemon.places.audit.iterdir()
        head, *lines = (await daemon.cli("verify", "--all")).out.splitlines()
        assert head.split() == ["id", "of", "status", "records", "detail"]
        assert lines[0].split() == [ONE, "session", "ok", "4"]
        assert lines[1].split()[:4] == [log.stem, "audit", "log", "open"]
        copy = shutil.copy(log, tmp_path)
        assert "  audit log  " in (await daemon.cli("verify", str(copy))).out
        log.write_bytes(b"nothing of ours")
        done = await daemon.cli("verify", "--all")
        assert (done.code, done.out.splitlines()[2].split()[1:4]) == (
            1,
            ["audit", "log", "altered"],
        )


@asyncio_test
async def test_nothing_to_verify(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        pass
    shutil.rmtree(daemon.places.audit)
    assert await daemon.cli("verify", "--all") == Done(0, "", "no transcripts\n")


@asyncio_test
async def test_a_copy_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        end(daemon)
        monkeypatch.chdir(tmp_path)
        shutil.copy(transcript(daemon, ONE), "t.x")
        public = str(daemon.places.keys / "transcripts.pub")
        for options in ((), ("--key", public)):
            done = await daemon.cli("verify", "./t.x", "--format", "json", *options)
            (row,) = json.loads(done.out)
            assert (done.code, row["status"]) == (1, "altered")
            assert row["detail"] == f"the file is called t.x, and the transcript in it is of {ONE}"
        done = await daemon.cli("verify", "t.x")
        assert done == Done(
            1, "", "gateway: there is no transcript t.x; if you mean the file, call it ./t.x\n"
        )
        assert (await daemon.cli("verify", "t.y")).err == "gateway: there is no transcript t.y\n"


# -- where they are shown ---------------------------------------------------------------------


SHOWING = [
    ("replay", "aaa"),
    ("replay", "aaa", "--format", "jsonl"),
    ("export", "aaa", "--to", "jsonl"),
    ("export", "aaa", "--to", "html"),
    ("search", "elect"),
    ("search", "elect", "--format", "json"),
]
showing = pytest.mark.parametrize("command", SHOWING, ids=" ".join)


def two(daemon: Daemon) -> Path:
    """Of two sessions, the first one's transcript."""
    for each in (ONE, OTHER):
        say(daemon, each, "SELECT 1", "SELECT 2")
        end(daemon)
    return transcript(daemon, ONE)


@showing
@asyncio_test
async def test_what_is_shown_and_altered_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with running(tmp_path) as daemon:
        path = two(daemon)
        await daemon.store.flush()
        good = await daemon.cli(*command)
        assert (good.code, good.err) == (0, "")
        alter(path)
        done = await daemon.cli(*command)
        (row,) = json.loads((await daemon.cli("verify", ONE, "--format", "json")).out)
        assert (done.code, done.err) == (1, f"warning: {ONE} is altered: {row['detail']}\n")
        assert "SELECT 2" in done.out
        if "html" in command:
            assert f"<mark>Warning: {ONE} is altered: " in done.out
            assert "arning" not in good.out
        else:
            assert done.out.count("\n") == good.out.count("\n"), "it is shown like any other"


@showing
@asyncio_test
async def test_an_end_that_was_cut_off_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Of this session the index knows that it had ended."""
    async with running(tmp_path) as daemon:
        path = two(daemon)
        await daemon.store.flush()
        path.write_bytes(path.read_bytes()[:-100])
        done = await daemon.cli(*command)
        why = "the session has ended, its transcript has not"
        assert (done.code, done.err) == (1, f"warning: {ONE} is altered: {why}\n")


@showing
@asyncio_test
async def test_open_and_truncated_ones_are_not_altered(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with running(tmp_path) as daemon:
        say(daemon, ONE, "SELECT 1")
        say(daemon, OTHER, "SELECT 1")
        done = await daemon.cli(*command)
        assert (done.code, done.err) == (0, "")
        (log,) = (each.transcript for each in daemon.runs if each.info.id == ONE)
        log.file.abandon()  # as if its writer had died
        assert "truncated" in (await daemon.cli("verify", ONE)).out
        done = await daemon.cli(*command)
        assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("command", SHOWING[:4], ids=" ".join)
@asyncio_test
async def test_one_that_ends_in_nonsense_is_shown_up_to_there(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with running(tmp_path) as daemon:
        path = two(daemon)
        with path.open("ab") as file:
            file.write(b"no batch at all")
        done = await daemon.cli(*command)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert done.err.startswith(f"warning: {ONE} is altered: the batch at ")
        assert "SELECT 2" in done.out


@showing
@asyncio_test
async def test_where_nobody_can_verify_that_is_told(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with running(tmp_path) as daemon:
        alter(two(daemon))
        good = await daemon.cli(*command)
        vault = daemon.places.keys / "vault.key"
        vault.rename(tmp_path / "vault.key")
        done = await daemon.cli(*command)
        why = f"{vault}: cannot be read: No such file or directory"
        assert (done.code, done.err) == (0, f"warning: not verified: {why}\n")
        if "html" not in command:
            assert done.out == good.out
        else:
            assert "<mark>Warning: not verified: " in done.out


@asyncio_test
async def test_only_what_was_found_is_verified(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        alter(two(daemon))
        say(daemon, "c" * 16, "DELETE FROM t")
        end(daemon)
        done = await daemon.cli("search", "delete", "--format", "json")
        assert [row["id"] for row in done.json()] == ["c" * 16]
        (daemon.places.keys / "vault.key").unlink()
        assert await daemon.cli("search", "nowhere") == Done(0, "", "nothing found\n")


@asyncio_test
async def test_what_was_altered_commands_no_terminal(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        path = two(daemon)
        path.write_bytes(path.read_bytes().replace(b"SELECT 2", b"SELECT\x1b\x9b"))
        done = await asyncio.to_thread(run, "--config", str(daemon.config), "replay", ONE)
        assert done.code == 1
        assert "\x1b" not in done.out + done.err
