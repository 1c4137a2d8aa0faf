"""Listings: a table for people, JSON for programs, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.show import cell, listing

ROWS = [
    {"name": "alice", "groups": ["a", "ü"], "admin": False, "note": None},
    {"name": "bold [red]x[/red] :smile: \x1b[2J\nfake", "groups": [], "admin": True, "more": 1},
]
COLUMNS = ("name", "groups", "admin", "note")


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    listing(ROWS, COLUMNS, "table")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line.split() for line in lines if "─" not in line] == [
        ["name", "groups", "admin", "note"],
        ["alice", '["a",', '"ü"]', "false"],
        ["bold", "[red]x[/red]", ":smile:", "\\x1b[2J\\nfake", "[]", "true"],
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    listing(ROWS, COLUMNS, "json")
    out = capsys.readouterr().out
    assert json.loads(out) == ROWS
    assert out.isascii()
    assert "\x1b" not in out


def test_nothing_to_list(capsys: pytest.CaptureFixture[str]) -> None:
    listing([], COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == []
    listing([], COLUMNS, "table")
    assert "name" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", ["1", None])
def test_colours_are_nobodys(monkeypatch: pytest.MonkeyPatch, no_color: str | None) -> None:
    terminal = Terminal()
    for name, value in {"NO_COLOR": no_color, "TERM": "xterm-256color", "COLUMNS": "80"}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", terminal)
    listing(ROWS, COLUMNS, "table")
    out = terminal.getvalue()
    assert "alice" in out
    assert "\x1b[3" not in out.replace("\x1b[39", "")
    assert "\x1b[2J" not in out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 80, "wrapped to the terminal"


def test_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    listing([{"name": "word " * 100}], ("name",), "table")
    assert ("word " * 100).rstrip() in capsys.readouterr().out


@given(st.none() | st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_a_cell_is_one_printable_line(value: object) -> None:
    assert cell(value).isprintable()
