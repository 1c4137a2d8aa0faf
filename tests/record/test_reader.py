"""Reading transcripts while they are written, after crashes, and by part of a name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.record import reader
from gateway.record.format import CLIENT, END, HEADER, Damaged
from gateway.record.log import FileLog
from gateway.record.reader import find, follow, newest, records
from tests.record.files import END as OVER
from tests.record.files import KEYS
from tests.support import asyncio_test


def test_a_torn_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    log = FileLog(path, KEYS, {})
    log.add(CLIENT, b"whole")
    log.flush()
    whole = log.length
    log.add(CLIENT, b"torn")
    log.flush()
    log.abandon()
    data = path.read_bytes()
    for length in range(whole, len(data)):
        path.write_bytes(data[:length])
        assert [record.kind for record in records(path)] == [HEADER, CLIENT]
    path.write_bytes(data[:whole] + b"no batch")
    with pytest.raises(Damaged):
        list(records(path))


@asyncio_test
async def test_following_a_session_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    log = FileLog(path, KEYS, {})
    seen = follow(path)
    async with asyncio.timeout(10):
        assert (await anext(seen)).kind == HEADER
        log.add(CLIENT, b"later")
        coming = asyncio.ensure_future(anext(seen))
        await asyncio.sleep(0)
        assert not coming.done()
        log.flush()
        assert (await coming).payload == b"later"
        log.finish(OVER, 0, 0, 0)
        assert [record.kind async for record in seen] == [END]
    log.abandon()


@asyncio_test
async def test_following_a_session_whose_writer_died(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    log = FileLog(path, KEYS, {})
    log.abandon()
    async with asyncio.timeout(10):
        assert [record.kind async for record in follow(path)] == [HEADER]


def test_a_session_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    day = tmp_path / "2026" / "11" / "18"
    day.mkdir(parents=True)
    for name in ("abc1", "abc2", "abc2d", "b*"):
        (day / f"{name}.gwt").write_bytes(b"")
    assert find(tmp_path, "abc1").stem == "abc1"
    assert find(tmp_path, "abc2").stem == "abc2", "a whole id is never ambiguous"
    assert find(tmp_path, "b").stem == "b*"
    for wrong in ("ab", "x", "*", "", "../18/abc1", "a\0"):
        with pytest.raises(GatewayError):
            find(tmp_path, wrong)


def test_the_newest_come_first(tmp_path: Path) -> None:
    assert newest(tmp_path) == []
    for number, day in enumerate(("02", "01", "03"), 1):
        path = tmp_path / "2026" / "11" / day / f"s{day}.gwt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (number, number))
    path.with_name("gone.gwt").symlink_to("nowhere")
    assert [path.stem for path in newest(tmp_path)] == ["s03", "s01", "s02", "gone"]


def test_a_file_longer_than_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 7)
    path = tmp_path / "s1.gwt"
    log = FileLog(path, KEYS, {})
    log.add(CLIENT, bytes(1000))
    log.finish(OVER, 0, 0, 0)
    log.abandon()
    assert [len(record.payload) for record in records(path)][1] == 1000
