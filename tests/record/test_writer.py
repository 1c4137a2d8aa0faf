"""The recorder: files in their places, durability, and recordings that may fail."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NotRecorded
from gateway.record import writer
from gateway.record.format import CLIENT, SEAL
from gateway.record.format import END as END_KIND
from gateway.record.reader import records
from gateway.record.writer import FileRecorder, purge
from tests.record.files import END, KEY, SECRET, STARTED, info, judged, never, path_of, speak
from tests.support import asyncio_test


def recorder(root: Path, *, durability: str = "os", required: bool = True, **more) -> FileRecorder:
    return FileRecorder(root, KEY, SECRET, durability, required, **more)


def test_a_session_from_beginning_to_end(tmp_path: Path) -> None:
    log = recorder(tmp_path).open(info())
    speak(log)
    path = tmp_path / "2026" / "11" / "18" / "0123456789abcdef.gwt"
    assert judged(path).status == "open"
    digest = log.close(END, 3, 40, 50)
    assert judged(path, digest).status == "ok"
    first, *middle, last = records(path)
    facts = json.loads(first.payload)
    assert (facts["format"], facts["user"], facts["target"]) == (1, "alice", "db:5432")
    assert [record.payload for record in middle][:2] == [b"question 0", b"answer 0"]
    assert json.loads(last.payload) == {
        "reason": "client closed", "detail": "", "statements": 3, "bytes_in": 40, "bytes_out": 50,
    }  # fmt: skip


def test_a_tick_writes_what_waits(tmp_path: Path) -> None:
    recording = recorder(tmp_path)
    log = recording.open(info())
    log.add(CLIENT, b"waiting")
    recording.tick()
    assert [record.payload for record in records(path_of(tmp_path))][1:] == [b"waiting"]
    log.close(END, 0, 0, 0)
    recording.tick()


def test_a_session_is_recorded_once(tmp_path: Path) -> None:
    recording = recorder(tmp_path)
    log = recording.open(info())
    with pytest.raises(NotRecorded, match="exists"):
        recording.open(info())
    log.close(END, 0, 0, 0)


def test_a_tick_that_fails_tells_whose_session_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    recording = recorder(tmp_path, failed=lambda name, error: told.append((name, error.detail)))
    broken, fine = recording.open(info("aa")), recording.open(info("bb"))
    broken.add(CLIENT, b"x")
    fine.add(CLIENT, b"y")
    full, mine = os.open("/dev/full", os.O_WRONLY), broken.file._fd
    broken.file._fd = full
    recording.tick()
    recording.tick()
    assert [name for name, _ in told] == ["aa"]
    assert "No space left" in told[0][1]
    assert len(list(records(path_of(tmp_path, "bb")))) == 2
    with pytest.raises(NotRecorded):
        broken.close(END, 0, 0, 0)
    fine.close(END, 0, 0, 0)
    os.close(mine)


def test_where_it_is_not_required_sessions_go_on(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("in the way")
    with pytest.raises(NotRecorded):
        recorder(root).open(info())
    log = recorder(root, required=False).open(info())
    speak(log)
    assert log.close(END, 3, 0, 0) == ""


def test_where_it_is_not_required_a_log_that_fails_drops_the_rest(tmp_path: Path) -> None:
    log = recorder(tmp_path, required=False).open(info())
    speak(log)
    file = log._session.file
    full, mine = os.open("/dev/full", os.O_WRONLY), file._fd
    file._fd = full
    speak(log)
    assert log.close(END, 3, 0, 0) == ""
    os.close(mine)
    assert judged(path_of(tmp_path)).status == "truncated"


class Told:
    """An audit log that may be lost, too."""

    def __init__(self, *, full: bool = False) -> None:
        self.entries: list[tuple[str, str]] = []
        self._full = full

    def write(self, event: str, **facts: Any) -> str:
        self.entries.append((event, facts["session"]))
        assert facts["user"] == "alice"
        assert facts["reason"]
        if self._full:
            raise NotRecorded("disk full")
        return "quote"

    def sessions(self) -> list[str]:
        assert {event for event, _ in self.entries} <= {"session.unrecorded"}
        return [session for _, session in self.entries]


@pytest.mark.parametrize("full", [False, True])
def test_each_session_that_goes_on_unrecorded_is_told_of_once(tmp_path: Path, full: bool) -> None:
    (tmp_path / "file").write_text("in the way")
    told = Told(full=full)
    recording = recorder(tmp_path / "file", required=False, audit=told)
    for name in ("aa", "bb"):
        log = recording.open(info(name))
        speak(log)
        log.close(END, 3, 0, 0)
    assert told.sessions() == ["aa", "bb"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("when", ["tick", "word", "end"])
def test_a_transcript_that_breaks_off_is_told_of_once(
    tmp_path: Path, when: str, full: bool
) -> None:
    told = Told(full=full)
    recording = recorder(tmp_path, required=False, audit=told)
    log = recording.open(info("aa"))
    speak(log)
    file = log._session.file
    disk, mine = os.open("/dev/full", os.O_WRONLY), file._fd
    file._fd = disk
    assert told.sessions() == []
    if when == "tick":
        recording.tick()
        assert told.sessions() == ["aa"], "at once"
    if when != "end":
        speak(log)
        assert told.sessions() == ["aa"]
    assert log.close(END, 3, 0, 0) == ""
    os.close(mine)
    assert told.sessions() == ["aa"]


@asyncio_test
async def test_on_disk_before_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), synced.append(fd))[0])
    log = recorder(tmp_path, durability="disk").open(info())
    beginning = len(synced)
    durable = asyncio.Event()
    log.add(CLIENT, b"x")
    assert not log.commit(durable.set)
    async with asyncio.timeout(10):
        await durable.wait()
    assert len(synced) == beginning + 1
    assert log.commit(never), "nothing new: nothing to wait for"
    assert log.close(END, 0, 0, 0)


@asyncio_test
async def test_who_waits_meanwhile_shares_the_next_round(tmp_path: Path) -> None:
    recording = recorder(tmp_path, durability="disk")
    logs = [recording.open(info(f"{number:04}")) for number in range(20)]
    waiting = [asyncio.Event() for _ in logs]
    for log, durable in zip(logs, waiting, strict=True):
        log.add(CLIENT, b"x")
        assert not log.commit(durable.set)
    async with asyncio.timeout(10):
        await asyncio.gather(*(durable.wait() for durable in waiting))
    for log in logs:
        assert log.commit(never)
        log.close(END, 0, 0, 0)


@asyncio_test
async def test_one_that_ends_while_it_waits_strands_nobody(tmp_path: Path, monkeypatch) -> None:
    recording = recorder(tmp_path, durability="disk")
    slow, ends, stays = (recording.open(info(name)) for name in ("slow", "ends", "stays"))
    here, fsync, closed = threading.get_ident(), os.fsync, threading.Event()

    def patient(fd: int) -> None:
        if threading.get_ident() != here:  # the round's thread, which is slow
            assert closed.wait(10)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", patient)
    for log in (slow, ends):
        log.add(CLIENT, b"x")
        assert not log.commit(lambda: None)
    stays.add(CLIENT, b"x")
    durable = asyncio.Event()
    assert not stays.commit(durable.set)
    ends.close(END, 0, 0, 0)
    closed.set()
    async with asyncio.timeout(10):
        await durable.wait()
    stays.close(END, 0, 0, 0)


@asyncio_test
async def test_one_that_fails_to_go_on_strands_nobody(tmp_path: Path) -> None:
    recording = recorder(tmp_path, durability="disk")
    first, second = recording.open(info("first")), recording.open(info("second"))
    durable = asyncio.Event()
    for log, resume in ((first, _fails), (second, durable.set)):
        log.add(CLIENT, b"x")
        assert not log.commit(resume)
    third = recording.open(info("third"))
    third.add(CLIENT, b"x")
    both = asyncio.Event()
    assert not third.commit(both.set)
    async with asyncio.timeout(10):
        await durable.wait()
        await both.wait()


def _fails() -> None:
    raise ZeroDivisionError


@asyncio_test
async def test_what_the_disk_refuses_is_never_released(tmp_path: Path, monkeypatch) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    recording = recorder(
        tmp_path, durability="disk", failed=lambda name, error: failed.set_result(name)
    )
    log = recording.open(info())

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    log.add(CLIENT, b"x")
    assert not log.commit(never)
    async with asyncio.timeout(10):
        assert await failed == info().id
    with pytest.raises(NotRecorded, match="Input/output"):
        log.commit(never)
    with pytest.raises(NotRecorded):
        log.close(END, 0, 0, 0)


@asyncio_test
async def test_where_it_is_not_required_a_broken_disk_releases_what_it_held(
    tmp_path: Path, monkeypatch
) -> None:
    log = recorder(tmp_path, durability="disk", required=False).open(info())

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    released = asyncio.Event()
    log.add(CLIENT, b"x")
    assert not log.commit(released.set)
    async with asyncio.timeout(10):
        await released.wait()
    log.add(CLIENT, b"y")
    assert log.commit(never)
    assert log.close(END, 0, 0, 0) == ""


def test_each_new_directory_is_on_the_disk_once(tmp_path: Path, monkeypatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").resolve())
    )
    root = tmp_path / "root"
    recording = recorder(root, durability="disk")
    recording.open(info("aa"))
    day = root / "2026" / "11" / "18"
    assert synced == [day, day.parent, day.parent.parent, root, tmp_path]
    recording.open(info("bb"))
    assert synced[5:] == [day]


WRITTEN = datetime(2026, 2, 1, 12, tzinfo=UTC).timestamp()


def test_what_is_past_its_retention_goes(tmp_path: Path) -> None:
    for day in ("2026/01/31", "2026/02/01", "2026/02/02"):
        (tmp_path / day).mkdir(parents=True)
        (tmp_path / day / "s.gwt").write_bytes(b"")
        os.utime(tmp_path / day / "s.gwt", (WRITTEN, WRITTEN))
    (tmp_path / "2026/99/99").mkdir(parents=True)
    assert purge(tmp_path, date(2026, 2, 2)) == 2
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert left == {"2026/02", "2026/99"}


def test_what_is_still_written_or_was_lately_stays(tmp_path: Path) -> None:
    recording = recorder(tmp_path)
    live, ended = recording.open(info("aa")), recording.open(info("bb"))
    ended.close(END, 0, 0, 0)

    def left(written: float) -> set[str]:
        for path in tmp_path.rglob("*.gwt"):
            os.utime(path, (written, written))
        purge(tmp_path, date(2026, 11, 20))
        return {path.stem for path in tmp_path.rglob("*.gwt")}

    day = 86400
    assert left(STARTED + 2 * day) == {"aa", "bb"}, "written after they began"
    assert left(STARTED) == {"aa"}, "still written"
    assert judged(path_of(tmp_path, "aa")).status == "open"
    live.close(END, 0, 0, 0)
    assert left(STARTED) == set()
    assert not list(tmp_path.iterdir())


def test_whether_it_can_be_written(tmp_path: Path, monkeypatch) -> None:
    assert recorder(tmp_path / "new").unwritable() is None
    (tmp_path / "file").write_text("")
    assert recorder(tmp_path / "file" / "below").unwritable() is not None
    assert recorder(tmp_path / "file" / "below", required=False).unwritable() is None
    monkeypatch.setattr(writer, "LEAST_FREE", 1 << 62)
    assert recorder(tmp_path).unwritable() == "transcripts: disk full"


def test_seals_are_the_formats_own_affair(tmp_path: Path) -> None:
    recorder(tmp_path).open(info()).close(END, 0, 0, 0)
    kinds = [record.kind for record in records(path_of(tmp_path))]
    assert SEAL not in kinds
    assert kinds[-1] == END_KIND
