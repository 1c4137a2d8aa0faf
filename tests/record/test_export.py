"""What is shown to people: complete, and harmless to their terminals."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.record.export import listing, printable, to_jsonl

STATEMENT = {
    "at": 1.5, "kind": "statement", "sql": "SELECT $1\nFROM t", "parameters": ["a", None],
    "tag": "SELECT 2", "rows": 2, "duration_ms": 0.25, "sqlstate": None, "message": None,
    "transaction": "in transaction",
}  # fmt: skip


def test_a_listing() -> None:
    events = [
        {
            "at": 0.0, "kind": "start", "started": "2026-11-18T00:00:00Z", "user": "alice",
            "source": "10.0.0.1", "resource": "orders", "account": "app", "target": "db:5432",
        },
        STATEMENT,
        {**STATEMENT, "sqlstate": "22012", "message": "by\nzero", "parameters": []},
        {**STATEMENT, "sql": None, "name": "c", "skipped": True, "parameters": []},
        {"at": 2.0, "kind": "copy", "direction": "in", "bytes": 10, "rows": 3},
        {"at": 2.5, "kind": "cancel"},
        {"at": 3.0, "kind": "end", "reason": "killed", "detail": "why", "statements": 4},
    ]  # fmt: skip
    assert list(listing(events)) == [
        "     0.000  2026-11-18T00:00:00Z  alice from 10.0.0.1 on orders as app (db:5432)",
        "     1.500  SELECT $1",
        "         |  FROM t",
        '      with  ["a", null]',
        "        ->  SELECT 2  0.250 ms  [in transaction]",
        "     1.500  SELECT $1",
        "         |  FROM t",
        "        ->  ERROR 22012: by zero  0.250 ms  [in transaction]",
        "     1.500  (c: not named in this session)",
        "        ->  skipped",
        "     2.000  copy in: 10 bytes, 3 rows",
        "     2.500  cancel",
        "     3.000  end: killed: why (4 statements)",
    ]


def test_nobody_writes_in_our_name() -> None:
    forged = "SELECT 1\n-> SELECT 1\n     9.000  cancel\r     9.000  cancel"
    first, *rest = listing([{**STATEMENT, "sql": forged, "tag": "A\n        ->  B"}])
    assert first == "     1.500  SELECT 1"
    marks = [line[:10].strip() for line in rest]
    assert marks == ["|", "|", "with", "->"]


def test_what_moves_cursors_is_shown_by_its_code() -> None:
    assert printable("a\x1b[2J\x9b\r\u202e\u2028é\tß\U0001f600") == (
        "a\\x1b[2J\\x9b\\r\\u202e\\u2028é ß\U0001f600"
    )


def test_jsonl_is_one_object_a_line() -> None:
    out = io.StringIO()
    to_jsonl([STATEMENT, {"at": 2.0, "kind": "cancel"}], out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        STATEMENT,
        {"at": 2.0, "kind": "cancel"},
    ]


@given(st.text(), st.sampled_from(["start", "statement", "copy", "end", "other"]))
def test_no_control_character_gets_through(text: str, kind: str) -> None:
    event = {"at": 0.0, "kind": kind, **dict.fromkeys(("sql", "message", "user", "detail"), text)}
    event |= {"parameters": [text], "sqlstate": text, "reason": text}
    out = io.StringIO()
    to_jsonl([event], out)
    for line in (*listing([event]), out.getvalue()[:-1]):
        assert line.isprintable() or all(
            character.isprintable() or character.isspace() for character in line
        )
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
