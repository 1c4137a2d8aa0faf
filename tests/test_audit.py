"""The audit log: written at once, quotable, and back after a full disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway.audit import FileAudit, read
from gateway.errors import NotRecorded
from tests.record.files import KEY, SECRET, judged


def opened(root: Path) -> FileAudit:
    return FileAudit(root, KEY, SECRET)


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
