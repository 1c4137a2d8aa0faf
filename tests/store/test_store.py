"""The store on real files: objects all or nothing, sessions in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import evolve

from gateway.model import SessionInfo
from gateway.store import Conflict, Store, StoredObject, read_digests
from tests.support import asyncio_test

ALICE = StoredObject(None, {"groups": ["analysts"]})
BOB = StoredObject("/etc/objects.yaml", {"admin": True, "nested": {"é": [1, None, 2.5]}})
INFO = SessionInfo("1", "alice", "orders", "app_ro", "h:1", "postgresql", "::1", 100.0)


@asyncio_test
async def test_objects_come_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gateway.sqlite"
    store = await Store.open(path)
    assert await store.bodies() == (0, {})
    assert await store.replace(0, {("users", "alice"): ALICE, ("users", "bob"): BOB}) == 1
    assert await store.replace(1, {("users", "alice"): None, ("roles", "r"): ALICE}) == 2
    await store.close()
    again = await Store.open(path)
    assert await again.bodies() == (2, {"users": {"bob": BOB}, "roles": {"r": ALICE}})
    await again.close()


@asyncio_test
async def test_of_two_changes_to_one_version_one_is_made(tmp_path: Path) -> None:
    stores = [await Store.open(tmp_path / "gateway.sqlite") for _ in range(2)]
    changes = [{("users", "alice"): ALICE}, {("users", "bob"): BOB}]
    results = await asyncio.gather(
        *(store.replace(0, change) for store, change in zip(stores, changes, strict=True)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "int"]
    version, bodies = await stores[0].bodies()
    assert version == 1
    assert len(bodies["users"]) == 1
    for store in stores:
        await store.close()


@asyncio_test
async def test_a_failed_change_leaves_everything_as_it_was(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "gateway.sqlite")
    await store.replace(0, {("users", "alice"): ALICE})
    unwritable = StoredObject(None, {"what": object()})
    with pytest.raises(Exception, match="not JSON serializable"):
        await store.replace(1, {("users", "alice"): None, ("users", "bob"): unwritable})
    with pytest.raises(Conflict):
        await store.replace(0, {("users", "alice"): None})
    assert await store.bodies() == (1, {"users": {"alice": ALICE}})
    await store.close()


@asyncio_test
async def test_sessions_are_found_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    store = await Store.open(path)
    two = evolve(INFO, id="2", user="bob", started=200.0)
    three = evolve(INFO, id="3", resource="web", started=300.0)
    for info in (INFO, two, three):
        store.session_started(info)
    await store.flush()
    assert await store.sessions() == [three, two, INFO]
    assert await store.sessions(user="alice") == [three, INFO]
    assert await store.sessions(user="alice", resource="orders") == [INFO]
    assert await store.sessions(since=200.0, limit=1) == [three]
    assert read_digests(path) == {}
    ended = evolve(two, ended=210.0, status="ended", reason="killed", statements=2**40)
    store.session_ended(ended, "abcd")
    await store.flush()
    assert await store.sessions(user="bob") == [ended]
    assert read_digests(path) == {"2": "abcd"}
    assert await store.forget_sessions(250.0) == 1, "one that runs is not forgotten"
    assert await store.sessions() == [three, INFO]
    await store.close()


@asyncio_test
async def test_what_ran_when_the_daemon_died_is_lost(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "gateway.sqlite")
    store.session_started(INFO)
    store.session_ended(evolve(INFO, id="2", status="ended", ended=1.0), "abcd")
    await store.close()
    again = await Store.open(tmp_path / "gateway.sqlite")
    assert await again.mark_lost() == 1
    assert await again.mark_lost() == 0
    assert {info.id: info.status for info in await again.sessions()} == {"1": "lost", "2": "ended"}
    await again.close()
