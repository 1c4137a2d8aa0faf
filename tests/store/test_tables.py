"""Rows and values, there and back."""

from __future__ import annotations

from attrs import asdict, evolve, fields

from gateway.model import SessionInfo
from gateway.store.tables import session_row, sessions

INFO = SessionInfo("1", "alice", "orders", "app_ro", "h:1", "postgresql", "::1", 100.0)


def test_the_table_has_a_column_for_all_that_lists_show() -> None:
    names = [attribute.name for attribute in fields(SessionInfo)]
    assert sessions.columns.keys() == [*names, "digest"]


def test_a_row_is_the_value_and_its_digest() -> None:
    assert session_row(INFO, "abcd") == {**asdict(INFO), "digest": "abcd"}


def test_a_row_can_always_be_written() -> None:
    stray = evolve(INFO, reason="target said \udcff")
    assert session_row(stray, "")["reason"].encode() == b"target said \\udcff"
