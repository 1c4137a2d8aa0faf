"""One file: bounded memory, one write a commit, and what happens when writing fails."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from gateway.errors import NotRecorded
from gateway.record import log as log_module
from gateway.record.format import CLIENT, HEADER, SEAL, BatchReader
from gateway.record.log import HELD, FileLog
from gateway.record.reader import records
from tests.record.files import END, KEYS, judged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "s1.gwt"


@pytest.fixture
def log(path: Path):
    log = FileLog(path, KEYS, {"id": "s1"})
    yield log
    log.abandon()


def batches(path: Path) -> list[list[int]]:
    reader = BatchReader()
    reader.feed(path.read_bytes())
    found = []
    while (batch := reader.next()) is not None:
        found.append([record.kind for record in batch.records()])
    return found


def test_it_is_ours_alone(log: FileLog, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open("rb") as reader, pytest.raises(BlockingIOError):
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(NotRecorded):
        FileLog(path, KEYS, {})


def test_what_is_added_is_written_together(log: FileLog, path: Path) -> None:
    log.add(CLIENT, b"one")
    log.add(CLIENT, b"two")
    assert batches(path) == [[HEADER]]
    log.flush()
    log.flush()
    assert batches(path) == [[HEADER], [CLIENT, CLIENT]]
    assert os.stat(path).st_size == log.length


def test_memory_is_bounded(log: FileLog, path: Path) -> None:
    for _ in range(10):
        log.add(CLIENT, bytes(HELD // 4))
    assert log.length > 2 * HELD
    assert log._held <= HELD


def test_seals_come_with_bytes_and_with_time(log: FileLog, path: Path, monkeypatch) -> None:
    log.add(CLIENT, bytes(log_module.SEAL_BYTES))
    log.flush()
    assert batches(path)[1:] == [[CLIENT], [SEAL]]
    log.add(CLIENT, b"a")
    log.flush()
    log.tick()
    assert batches(path)[3:] == [[CLIENT]]
    now = log_module._now() + log_module.SEAL_NS
    monkeypatch.setattr(log_module, "_now", lambda: now)
    log.add(CLIENT, b"b")
    log.flush()
    assert batches(path)[4:] == [[CLIENT], [SEAL]]
    log.tick()
    assert len(batches(path)) == 6, "nothing new, nothing to seal"


@pytest.mark.parametrize("failure", ["error", "short"])
def test_a_failed_write_leaves_no_trace_and_is_the_last(
    log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    log.add(CLIENT, b"kept")
    log.flush()
    whole, write = path.read_bytes(), os.write

    def full(fd: int, data: bytes) -> int:
        if failure == "error":
            write(fd, data[:5])
            raise OSError(28, "No space left on device")
        return write(fd, data[:7])

    log.add(CLIENT, b"lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NotRecorded) as refused:
            log.flush()
    assert "s1" in refused.value.detail
    assert path.read_bytes() == whole
    for call in (
        log.flush,
        log.tick,
        lambda: log.add(CLIENT, b""),
        lambda: log.finish(END, 0, 0, 0),
    ):
        with pytest.raises(NotRecorded):
            call()
    log.abandon()
    assert judged(path).status == "truncated"


def test_a_real_device_that_is_full(log: FileLog, path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log._fd, mine = full, log._fd
    log.add(CLIENT, b"x")
    with pytest.raises(NotRecorded, match="No space left"):
        log.flush()
    os.close(mine)


def test_an_impossible_record_is_refused(log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MAX_BATCH", 100)
    log.add(CLIENT, bytes(101))
    with pytest.raises(NotRecorded):
        log.flush()


def test_time_is_counted_from_the_beginning(log: FileLog, path: Path) -> None:
    log.add(CLIENT, b"a")
    log.add(CLIENT, b"b")
    log.flush()
    times = [record.at for record in records(path)]
    assert 0 <= times[0] <= times[1] <= times[2] < 60_000_000_000
