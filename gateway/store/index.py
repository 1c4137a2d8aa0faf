"""The session index is written behind the sessions' backs, many rows a transaction."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from twisted.logger import Logger

from gateway.store.tables import sessions

LINGER = 0.2  # seconds that the first row waits for others: what a crash may cost the index
RETRY = 2.0  # seconds after a write that failed
BATCH = 500  # rows a transaction: a few milliseconds in which others cannot write
MOST = 100_000  # rows kept while nothing can be written: about 100 MB; transcripts have them too

_upsert = insert(sessions)
_upsert = _upsert.on_conflict_do_update(
    index_elements=[sessions.c.id],
    set_={column.name: column for column in _upsert.excluded if column.name != "id"},
)

log = Logger()


class Writer:
    """Rows by session id, the latest of each; they stay here until they are written."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._pending: dict[str, dict[str, Any]] = {}
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task = asyncio.ensure_future(self._run())

    def put(self, row: dict[str, Any]) -> None:
        """Have *row* written soon. Never waits, never fails."""
        if len(self._pending) >= MOST and row["id"] not in self._pending:
            dropped = next(iter(self._pending))
            del self._pending[dropped]
            log.error("Session {id} is missing from the index from now on", id=dropped)
        self._pending[row["id"]] = row
        self._some.set()

    async def flush(self) -> bool:
        """Write what was put so far; False if that failed, and will be tried again."""
        async with self._writing:
            return await self._write_all()

    async def close(self) -> None:
        """Stop, and try once more to write what is left."""
        async with self._writing:  # so that no write is cut off
            self._task.cancel()
            if not await self._write_all():
                log.error("{n} sessions are missing from the index", n=len(self._pending))

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(LINGER)
            if not await self.flush():
                await asyncio.sleep(RETRY)

    async def _write_all(self) -> bool:
        try:
            while batch := list(islice(self._pending.values(), BATCH)):
                await self._write(batch)
        except Exception as failed:  # whatever it is: the next try may fare better
            log.error("The session index cannot be written: {why}", why=str(failed))
            return False
        self._some.clear()
        return True

    async def _write(self, batch: list[dict[str, Any]]) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(_upsert, batch)
        for row in batch:
            if self._pending.get(row["id"]) is row:  # else it has changed meanwhile
                del self._pending[row["id"]]
