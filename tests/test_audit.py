"""The audit log: written at once, quotable, and back after a full disk."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from gateway.audit import FileAudit, leave, purge, read
from gateway.errors import NotRecorded
from tests.record.files import KEY, SECRET, judged

MIDNIGHT = datetime(2026, 11, 19, tzinfo=UTC).timestamp()


def opened(root: Path) -> FileAudit:
    return FileAudit(root, KEY, SECRET)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_entries_are_there_at_once_and_over_all_runs(tmp_path: Path) -> None:
    quotes = []
    for user in ("alice", "bob"):
        audit = opened(tmp_path / "audit")
        quotes.append(audit.write("session.refused", user=user, detail="\udcff", at="fake"))
        assert list(read(tmp_path / "audit"))[-1]["user"] == user
        audit.tick()
        audit.close()
    entries = sorted(read(tmp_path / "audit"), key=lambda entry: entry["user"])
    assert [entry["id"] for entry in entries] == quotes
    assert all(re.fullmatch(r"[a-z2-7]{8}", quote) for quote in quotes)
    assert all(re.match(r"\d{4}-\d\d-\d\dT", entry["at"]) for entry in entries)
    for path in (tmp_path / "audit").iterdir():
        assert judged(path).status == "ok"


def test_a_failed_write_is_an_error_and_the_next_begins_anew(tmp_path: Path) -> None:
    audit = opened(tmp_path)
    audit.write("one")
    full, mine = os.open("/dev/full", os.O_WRONLY), audit._file._fd
    audit._file._fd = full
    with pytest.raises(NotRecorded):
        audit.write("two")
    audit.tick()
    audit.write("three")
    audit.close()
    os.close(mine)
    assert {entry["event"] for entry in read(tmp_path)} == {"one", "three"}
    assert sorted(judged(path).status for path in tmp_path.iterdir()) == ["ok", "truncated"]


def test_without_a_place_to_write_there_is_no_audit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotRecorded):
        opened(tmp_path / "file")


def test_each_day_has_its_file(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT - 1)
    audit = FileAudit(tmp_path, KEY, SECRET, clock)
    audit.write("one")
    for now in (MIDNIGHT - 0.001, MIDNIGHT, MIDNIGHT + 1, MIDNIGHT - 1):
        clock.now = now
        audit.tick()
    audit.write("two")
    first, second = sorted(tmp_path.iterdir())
    assert (first.name[:8], second.name[:8]) == ("20261118", "20261119")
    assert [judged(path).status for path in (first, second)] == ["ok", "open"]
    audit.close()
    assert judged(second).status == "ok"
    assert [entry["event"] for entry in read(tmp_path)] == ["one", "two"]


def test_a_day_that_cannot_begin_goes_on_in_the_last_ones_file(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT - 1)
    audit = FileAudit(tmp_path / "audit", KEY, SECRET, clock)
    (tmp_path / "audit").rename(tmp_path / "moved")
    (tmp_path / "audit").write_text("in the way")
    clock.now = MIDNIGHT
    audit.tick()
    audit.write("one")
    audit.close()
    assert [entry["event"] for entry in read(tmp_path / "moved")] == ["one"]


def test_a_last_seal_that_fails_does_not_stop_the_next_day(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT - 1)
    audit = FileAudit(tmp_path, KEY, SECRET, clock)
    audit.write("one")
    full, mine = os.open("/dev/full", os.O_WRONLY), audit._file._fd
    audit._file._fd = full
    clock.now = MIDNIGHT
    audit.tick()
    os.close(mine)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(full)
    audit.write("two")
    audit.close()
    assert sorted(judged(path).status for path in tmp_path.iterdir()) == ["ok", "truncated"]


def test_what_is_past_its_retention_goes_but_what_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        audit = opened(tmp_path)
        audit.write("one")
        audit.close()
    kept, gone = tmp_path.iterdir()
    audit = opened(tmp_path)
    for path in tmp_path.iterdir():
        os.utime(path, (MIDNIGHT, MIDNIGHT))
    os.utime(gone, (MIDNIGHT - 1, MIDNIGHT - 1))
    (tmp_path / "not ours").write_text("")
    assert purge(tmp_path, date(2026, 11, 19)) == 1
    assert not gone.exists()
    assert purge(tmp_path, date(2026, 11, 20)) == 1
    assert not kept.exists()
    assert (tmp_path / "not ours").exists()
    assert [judged(path).status for path in tmp_path.glob("*.gwt")] == ["open"]
    audit.close()
    assert purge(tmp_path / "nowhere", date(2026, 11, 20)) == 0


def test_others_leave_a_file_of_their_own(tmp_path: Path) -> None:
    daemon = opened(tmp_path)
    daemon.write("one")
    leave(tmp_path, KEY, SECRET, "transcript.read", {"session": "s1"}, {"session": "s2"})
    assert sorted(entry.get("session", "") for entry in read(tmp_path)) == ["", "s1", "s2"]
    daemon.close()
    assert {judged(path).status for path in tmp_path.iterdir()} == {"ok"}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave something to others")
def test_what_root_leaves_is_the_daemons(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    leave(tmp_path, KEY, SECRET, "audit.read", {})
    (path,) = tmp_path.iterdir()
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (65534, 0o600)
