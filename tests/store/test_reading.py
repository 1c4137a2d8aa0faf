"""Reading without a daemon sees what the daemon would show, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from gateway.model import SessionInfo
from gateway.store import Store, StoreUnusable, read_digests, read_sessions
from tests.support import asyncio_test

INFO = SessionInfo("1", "alice", "orders", "app_ro", "h:1", "postgresql", "::1", 100.0)
ENDED = evolve(INFO, id="2", user="bob", started=200.0, ended=201.0, status="ended")
FILTERS: list[dict[str, object]] = [
    {},
    {"user": "alice"},
    {"resource": "orders", "limit": 1},
    {"since": 150.0},
    {"user": "nobody"},
]


@asyncio_test
async def test_it_agrees_with_the_store_open_or_closed(tmp_path: Path) -> None:
    path = tmp_path / "odd ?name#%20" / "gateway.sqlite"
    store = await Store.open(path)
    store.session_started(INFO)
    store.session_ended(ENDED, "abcd")
    await store.flush()
    expected = [await store.sessions(**wanted) for wanted in FILTERS]
    assert [read_sessions(path, **wanted) for wanted in FILTERS] == expected
    await store.close()
    before = path.read_bytes()
    assert [read_sessions(path, **wanted) for wanted in FILTERS] == expected
    assert read_digests(path) == {"2": "abcd"}
    assert path.read_bytes() == before


def test_no_store_has_no_sessions_and_none_is_made(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    assert read_sessions(path) == []
    assert read_digests(path) == {}
    assert not path.exists()


@pytest.mark.parametrize(("content", "words"), [(b"", "no such table"), (b"x" * 999, "not a dat")])
def test_what_is_not_a_store_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "gateway.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match=words):
        read_sessions(path)
