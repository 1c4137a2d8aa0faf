"""Opening the SQLite file: its mode, its pragmas, its schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway import private
from gateway.errors import GatewayError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_MS = 10_000  # milliseconds to wait for another writer: a batch takes a few


class StoreUnusable(GatewayError):
    """The store cannot be opened, and why."""


def unusable(path: Path, failed: Exception) -> StoreUnusable:
    """In the database's own words, without SQLAlchemy's around them."""
    why = failed.orig if isinstance(failed, DBAPIError) else failed
    return StoreUnusable(f"{path}: {why}")


def make_file(path: Path) -> None:
    """See that *path* is there, and its owner's only; SQLite gives its mode to -wal and -shm."""
    private.make(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def engine(path: Path, synchronous: str) -> AsyncEngine:
    """:param synchronous: "FULL" (a commit outlives a power cut) or "NORMAL\""""
    made = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        hide_parameters=True,  # an error's text must not carry rows into a log
        pool_size=2,  # one writes, one reads
        max_overflow=0,
    )

    @event.listens_for(made.sync_engine, "connect")
    def connected(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {BUSY_MS}",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(made.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        # Python's sqlite3 begins only at the first INSERT or UPDATE: not for SELECT or DDL.
        connection.exec_driver_sql("BEGIN")

    return made


def migrate(connection: Connection) -> None:
    """Bring the schema up to what this version knows, in the transaction of *connection*.

    :raises StoreUnusable: a newer version of the gateway wrote it
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current not in (None, *(script.revision for script in scripts.walk_revisions())):
        raise StoreUnusable(
            f"a newer version of the gateway wrote this store (schema {current}; this one knows"
            f" up to {scripts.get_current_head()}): run that version, or restore a backup"
        )
    if current != scripts.get_current_head():
        command.upgrade(config, "head")
