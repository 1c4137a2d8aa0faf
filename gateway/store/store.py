"""The store while the daemon runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.contracts import Clock
from gateway.errors import GatewayError
from gateway.model import SessionInfo
from gateway.store import tables
from gateway.store.database import StoreUnusable, engine, make_file, migrate, unusable
from gateway.store.index import Writer
from gateway.store.tables import Filter, StoredObject, select_sessions, session_info, session_row

Bodies = Mapping[str, Mapping[str, StoredObject]]
"""Objects by kind and name. A kind that has none may be absent."""

Changes = Mapping[tuple[str, str], StoredObject | None]
"""What to write, by kind and name; None removes."""


_remove = delete(tables.objects).where(
    tables.objects.c.kind == bindparam("of_kind"), tables.objects.c.name == bindparam("of_name")
)


class Conflict(GatewayError):
    """Somebody else changed the objects since they were read."""


class Store:
    """Objects and the session index. Made by :meth:`open`; implements ``SessionIndex``."""

    def __init__(self, objects: AsyncEngine, index: AsyncEngine, clock: Clock) -> None:
        self._objects = objects
        self._index = index
        self._clock = clock
        self._writer = Writer(index)

    @classmethod
    async def open(cls, path: Path, clock: Clock = time.time) -> Store:
        """Make or open the file (0600), and bring its schema up to date.

        :raises StoreUnusable: it is not ours, or from a newer version
        """
        objects, index = engine(path, "FULL"), engine(path, "NORMAL")
        try:
            make_file(path)
            async with objects.begin() as connection:
                await connection.run_sync(migrate)
        except (OSError, SQLAlchemyError, StoreUnusable) as failed:
            await objects.dispose()
            raise unusable(path, failed) from failed
        return cls(objects, index, clock)

    async def bodies(self) -> tuple[int, Bodies]:
        """All objects, and the version they are of."""
        found: dict[str, dict[str, StoredObject]] = {}
        async with self._objects.begin() as connection:
            version = (await connection.execute(select(tables.meta.c.version))).scalar_one()
            for row in await connection.execute(select(tables.objects)):
                found.setdefault(row.kind, {})[row.name] = StoredObject(row.owner, row.body)
        return version, found

    async def replace(self, version: int, changes: Changes) -> int:
        """Write all of *changes* or nothing, if the objects still are of *version*.

        :return: the version they are of now
        :raises Conflict: they are not
        """
        async with self._objects.begin() as connection:
            grown = update(tables.meta).where(tables.meta.c.version == version)
            result = await connection.execute(grown.values(version=version + 1))
            if result.rowcount != 1:
                raise Conflict("the objects were changed by somebody else meanwhile: try again")
            if changes:
                await self._write(connection, changes)
        return version + 1

    async def _write(self, connection: AsyncConnection, changes: Changes) -> None:
        names = [{"of_kind": kind, "of_name": name} for kind, name in changes]
        await connection.execute(_remove, names)
        rows = [
            {"kind": kind, "name": name, "owner": stored.owner, "body": stored.body}
            for (kind, name), stored in changes.items()
            if stored is not None
        ]
        if rows:
            await connection.execute(insert(tables.objects).values(changed=self._clock()), rows)

    def session_started(self, info: SessionInfo) -> None:
        self._writer.put(session_row(info, ""))

    def session_ended(self, info: SessionInfo, digest: str) -> None:
        """:param digest: of the whole transcript, in hex"""
        self._writer.put(session_row(info, digest))

    async def flush(self) -> None:
        """Have the index show what was told so far. A failure is logged, and tried again."""
        await self._writer.flush()

    async def sessions(
        self,
        user: str | None = None,
        resource: str | None = None,
        since: float | None = None,
        limit: int = 1000,
    ) -> list[SessionInfo]:
        """The newest first; ``since`` in seconds since the epoch."""
        query = select_sessions(Filter(user, resource, since, limit))
        async with self._index.begin() as connection:
            return [session_info(row) for row in await connection.execute(query)]

    async def mark_lost(self) -> int:
        """At start: what is still "live" died with the last process. How many did."""
        live = update(tables.sessions).where(tables.sessions.c.status == "live")
        async with self._index.begin() as connection:
            return (await connection.execute(live.values(status="lost"))).rowcount

    async def forget_sessions(self, before: float) -> int:
        """Drop rows of sessions that began before *before* and do not run."""
        began = tables.sessions.c.started < before
        old = delete(tables.sessions).where(began, tables.sessions.c.status != "live")
        async with self._index.begin() as connection:
            return (await connection.execute(old)).rowcount

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        await self._writer.close()
        await self._index.dispose()
        await self._objects.dispose()
