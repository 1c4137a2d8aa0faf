"""Rows are written in the background: in few transactions, and not lost to a failure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import evolve
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.model import SessionInfo
from gateway.store import index
from gateway.store.database import engine, make_file, migrate
from gateway.store.index import Writer
from gateway.store.tables import session_row, sessions
from tests.support import asyncio_test

INFO = SessionInfo("1", "alice", "orders", "app_ro", "h:1", "postgresql", "::1", 100.0)


async def opened(directory: Path) -> AsyncEngine:
    path = directory / "gateway.sqlite"
    make_file(path)
    made = engine(path, "NORMAL")
    async with made.begin() as connection:
        await connection.run_sync(migrate)
    return made


async def written(made: AsyncEngine) -> dict[str, str]:
    async with made.begin() as connection:
        return {row.id: row.status for row in await connection.execute(select(sessions))}


def row(number: int, status: str = "live") -> dict[str, object]:
    return session_row(evolve(INFO, id=str(number), status=status), "")


@asyncio_test
async def test_many_rows_take_few_transactions(tmp_path: Path) -> None:
    made = await opened(tmp_path)
    commits: list[object] = []
    event.listen(made.sync_engine, "commit", commits.append)
    writer = Writer(made)
    for number in range(index.BATCH + 1):
        writer.put(row(number))
        writer.put(row(number, "ended"))
    assert await writer.flush()
    assert len(commits) == 2
    assert set((await written(made)).values()) == {"ended"}
    await writer.close()
    await made.dispose()


@asyncio_test
async def test_a_row_that_changes_while_it_is_written_is_written_again(tmp_path: Path) -> None:
    made = await opened(tmp_path)
    writer = Writer(made)
    event.listen(made.sync_engine, "commit", lambda _: writer.put(row(1, "ended")), once=True)
    writer.put(row(1))
    assert await writer.flush()
    assert await written(made) == {"1": "ended"}
    await writer.close()
    await made.dispose()


@asyncio_test
async def test_rows_are_written_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LINGER", 0.0)
    made = await opened(tmp_path)
    committed = asyncio.Event()
    event.listen(made.sync_engine, "commit", lambda _: committed.set())
    writer = Writer(made)
    for number in (1, 2):
        committed.clear()
        writer.put(row(number))
        await asyncio.wait_for(committed.wait(), 5)
    await writer.close()
    assert await written(made) == {"1": "live", "2": "live"}
    await made.dispose()


@asyncio_test
async def test_a_failed_write_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LINGER", 0.0)
    monkeypatch.setattr(index, "RETRY", 0.0)
    made = await opened(tmp_path)
    async with made.begin() as connection:
        await connection.execute(text("ALTER TABLE sessions RENAME TO hidden"))
    writer = Writer(made)
    writer.put(row(1))
    assert not await writer.flush()
    writer.put(row(1, "ended"))
    committed = asyncio.Event()
    event.listen(made.sync_engine, "commit", lambda _: committed.set())
    async with made.begin() as connection:
        await connection.execute(text("ALTER TABLE hidden RENAME TO sessions"))
    committed.clear()
    await asyncio.wait_for(committed.wait(), 5)
    assert await written(made) == {"1": "ended"}
    await writer.close()
    await made.dispose()


@asyncio_test
async def test_what_cannot_be_written_takes_no_more_than_its_share_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MOST", 2)
    made = await opened(tmp_path)
    writer = Writer(made)
    for number in (1, 2, 1, 3):
        writer.put(row(number))
    await writer.close()
    assert await written(made) == {"2": "live", "3": "live"}
    await made.dispose()
