"""Names of prepared statements and portals: bounded, and taken back when they never came."""

from __future__ import annotations

import pytest

from gateway.pg import requests
from gateway.pg.requests import Names, Requests


def test_a_name_is_taken_back_only_by_who_gave_it() -> None:
    names: Names[object] = Names()
    old, new, newer = object(), object(), object()
    names.put(b"n", old, 1)
    undo = names.put(b"n", new, 1)
    undo()
    assert names.get(b"n") is old
    undo = names.put(b"n", new, 1)
    names.put(b"n", newer, 1)
    undo()
    assert names.get(b"n") is newer


def test_a_dropped_name_comes_back_unless_it_was_given_again() -> None:
    names: Names[object] = Names()
    old, new = object(), object()
    names.put(b"n", old, 1)
    names.drop(b"n")()
    assert names.get(b"n") is old
    undo = names.drop(b"n")
    names.put(b"n", new, 1)
    undo()
    assert names.get(b"n") is new


@pytest.mark.parametrize(("limit", "value"), [("MAX_NAMES", 3), ("MAX_NAMED", 33)])
def test_the_oldest_names_go(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(requests, limit, value)
    names: Names[object] = Names()
    for name in (b"a", b"b", b"c", b"b", b"d"):
        names.put(name, object(), 10)
    assert [name for name in (b"a", b"b", b"c", b"d") if names.get(name)] == [b"b", b"c", b"d"]


def test_statements_that_are_parsed_again_and_again_do_not_pile_up() -> None:
    reader = Requests()
    first = reader.read(ord("P"), b"\0one\0\0\0", 0, None)
    second = reader.read(ord("P"), b"\0two\0\0\0", 0, None)
    bound = reader.read(ord("B"), b"\0\0", 0, None)
    assert bound.prepared is second.prepared
    assert second.undo is not None
    second.undo()
    assert reader.read(ord("B"), b"\0\0", 0, None).prepared is first.prepared
