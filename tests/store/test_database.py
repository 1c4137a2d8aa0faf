"""The file: whose it is, how it is written, and which schema it has."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from gateway.store import Store, StoreUnusable
from gateway.store.database import engine, make_file, migrate
from gateway.store.tables import metadata
from tests.support import asyncio_test


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@asyncio_test
async def test_the_files_are_their_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gateway.sqlite"
    store = await Store.open(path)
    await store.replace(0, {})
    assert mode(path.parent) == 0o700
    assert {file.name: mode(file) for file in path.parent.iterdir()} == {
        "gateway.sqlite": 0o600,
        "gateway.sqlite-wal": 0o600,
        "gateway.sqlite-shm": 0o600,
    }
    await store.close()
    path.chmod(0o644)
    await (await Store.open(path)).close()
    assert mode(path) == 0o600


@asyncio_test
async def test_migrations_lead_from_nothing_to_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    await (await Store.open(path)).close()
    made = engine(path, "FULL")
    async with made.begin() as connection:
        assert await connection.run_sync(differences) == []
    await made.dispose()


def differences(connection: Connection) -> list[object]:
    return compare_metadata(MigrationContext.configure(connection), metadata)


@pytest.mark.parametrize(("synchronous", "number"), [("FULL", 2), ("NORMAL", 1)])
@asyncio_test
async def test_pragmas(tmp_path: Path, synchronous: str, number: int) -> None:
    path = tmp_path / "gateway.sqlite"
    make_file(path)
    made = engine(path, synchronous)
    async with made.begin() as connection:
        for pragma, value in {
            "journal_mode": "wal",
            "synchronous": number,
            "foreign_keys": 1,
        }.items():
            assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one() == value
    await made.dispose()


@asyncio_test
async def test_a_migration_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    make_file(path)
    made = engine(path, "FULL")
    async with made.connect() as connection:
        await connection.run_sync(migrate)
        await connection.rollback()
    async with made.begin() as connection:
        assert (await connection.execute(text("SELECT * FROM sqlite_master"))).all() == []
    await made.dispose()
    await (await Store.open(path)).close()


@asyncio_test
async def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreUnusable, match=r"a newer version.*schema 9999.*up to 0001"):
        await Store.open(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"x" * 5000, "not a database"), (None, "irectory")]
)
@asyncio_test
async def test_what_is_not_a_store_is_told(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "gateway.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreUnusable, match=words):
        await Store.open(path)


@asyncio_test
async def test_an_error_does_not_carry_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    await (await Store.open(path)).close()
    made = engine(path, "FULL")
    insert = text("INSERT INTO objects VALUES ('users', 'a', NULL, :body, NULL)")
    async with made.begin() as connection:
        with pytest.raises(IntegrityError) as failed:
            await connection.execute(insert, {"body": "hunter2"})
    assert "hunter2" not in str(failed.value)
    await made.dispose()
