"""Listings: a table for people, JSON for programs, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gateway.cli.show import cell, facts, listing, moment

ROWS = [
    {"name": "alice", "groups": ["a", "ü"], "admin": False, "note": None},
    {"name": "bold [red]x[/red] :smile: \x1b[2J\nfake", "groups": [], "admin": True, "more": 1},
]


def shown(row: Any) -> dict[str, Any]:
    return {name: row.get(name) for name in ("name", "groups", "admin", "note")}


def test_a_table_is_as_wide_as_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    listing(ROWS, shown, "table", "nobody")
    assert capsys.readouterr().out.splitlines() == [
        "name                                     groups  admin  note",
        "alice                                    a, ü    false",
        "bold [red]x[/red] :smile: \\x1b[2J\\nfake          true",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    listing(ROWS, shown, "json", "nobody")
    out = capsys.readouterr().out
    assert json.loads(out) == ROWS, "all of it"
    assert out.isascii()
    assert "\x1b" not in out


def test_nothing_to_list(capsys: pytest.CaptureFixture[str]) -> None:
    listing([], shown, "json", "nobody")
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ([], "")
    listing([], shown, "table", "nobody")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "nobody\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue()).splitlines()


@contextmanager
def terminal(**environment: str) -> Iterator[Terminal]:
    """One of 80 columns."""
    found = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NO_COLOR", raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", found)
        yield found


def table(*rows: dict[str, Any]) -> list[str]:
    """What a terminal shows."""
    with terminal() as screen:
        listing(rows, dict, "table", "nobody")
    return screen.lines()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}])
def test_colours_are_nobodys(environment: dict[str, str]) -> None:
    with terminal(**environment) as screen:
        listing(ROWS, shown, "table", "nobody")
    out = screen.getvalue()
    assert "alice" in out
    assert "\x1b[3" not in out.replace("\x1b[39", "")
    assert "\x1b[2J" not in out
    assert max(map(len, screen.lines())) <= 80


WORDS = "a target that was drained by hand; " * 3


def test_long_text_is_folded_at_words_in_its_column() -> None:
    assert table({"name": "n" * 30, "why": WORDS}) == [
        f"{'name':32}why",
        f"{'n' * 30}  a target that was drained by hand; a target that",
        f"{'':32}was drained by hand; a target that was drained",
        f"{'':32}by hand;",
    ]


def test_text_without_room_beside_the_others_is_below_them() -> None:
    assert table(*({"name": "n" * 45, "why": words} for words in (WORDS, "short"))) == [
        f"{'name':47}why",
        "n" * 45,
        "    a target that was drained by hand; a target that was drained by hand; a",
        "    target that was drained by hand;",
        f"{'n' * 45}  short",
    ]


def test_columns_wider_than_the_terminal_go_on_below() -> None:
    assert table({name: name * 40 for name in "abc"})[-3:] == [
        "a" * 40,
        f"    {'b' * 40}",
        f"    {'c' * 40}",
    ]


def test_wide_characters_take_their_room() -> None:
    found = table({"name": "日本", "why": "x"}, {"name": "abcd", "why": "y"})
    assert found == ["name  why", "日本  x", "abcd  y"]


def test_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    listing([{"name": "n", "why": "word " * 100}], dict, "table", "nobody")
    assert capsys.readouterr().out == f"name  why\nn     {('word ' * 100).rstrip()}\n"


ROW = st.fixed_dictionaries({"a": st.text(max_size=90), "b": st.text(), "c": st.text()})


@given(st.lists(ROW, min_size=1, max_size=4))
def test_whatever_it_says_a_table_stays_in_the_terminal(rows: list[dict[str, str]]) -> None:
    lines = table(*rows)
    assert all(line.isprintable() for line in lines)
    assert max(map(cell_len, lines)) <= 80
    kept = "".join("".join(lines).split())
    for row in rows:
        assert all("".join(cell(row[name]).split()) in kept for name in "abc"), "and is all there"


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_moments_are_told_by_the_clock_here() -> None:
    assert moment("2026-01-05T23:30:00+00:00") == "2026-01-06 00:30"
    assert moment("2026-07-05T12:00:00.250Z", 90) == "2026-07-05 14:01"
    now = datetime.now(UTC)
    assert moment(now.isoformat()) in {f"{now.astimezone():%H:%M:%S}"}
    yesterday = now.astimezone() - timedelta(days=1)
    assert moment(yesterday.isoformat()) == f"{yesterday:%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("told", "is_shown"),
    [
        (None, ""),
        ("", ""),
        ("soon\x1b[2J", "soon\\x1b[2J"),
        (5, "5"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_what_is_no_moment_is_shown_as_it_is(told: object, is_shown: str) -> None:
    assert moment(told) == is_shown


def test_facts_cannot_pass_for_one_another() -> None:
    known = {"user": "eve by=root", "by": 'a"b', "none": None, "no": "", "n": 2, "at": "10.0.0.1:5"}
    assert facts(known) == 'user="eve by=root" by="a\\"b" n=2 at=10.0.0.1:5'
    assert facts({"changes": ["+ a", "x\x1b"]}) == 'changes=["+ a", "x\\u001b"]'
    assert facts({"user": "\u202e"}) == "user=\\u202e"


@given(st.dictionaries(st.text(min_size=1), st.none() | st.text() | st.lists(st.text())))
def test_facts_are_one_printable_line(known: dict[str, Any]) -> None:
    assert facts(known).isprintable()


@given(st.none() | st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_a_cell_is_one_printable_line(value: object) -> None:
    assert cell(value).isprintable()
