"""What is shown to people: complete, and harmless to their terminals."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.show.export import listing, printable, to_html, to_jsonl

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
        {"at": 2.25, "kind": "copy", "direction": "out", "bytes": 1, "rows": 1},
        {"at": 2.5, "kind": "cancel"},
        {"at": 2.75, "kind": "reroute", "from": "a:1", "to": "b:1", "why": "is down: TCP: no"},
        {"at": 3.0, "kind": "end", "reason": "killed", "detail": "why", "statements": 1},
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
        "     2.250  copy out: 1 byte, 1 row",
        "     2.500  cancel",
        "     2.750  reroute  a:1 -> b:1: is down: TCP: no",
        "     3.000  end: killed: why (1 statement)",
    ]


PTY = {"term": "xterm", "columns": 80, "rows": 24}
DIGEST = "5e88" * 16
SSH: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"kind": "channel", "type": "shell", "pty": PTY,
         "environment": {"LANG": "C", "LC_A": "\n"}},
        ["channel 1: shell on xterm 80x24, LANG=C, LC_A=\\n"],
    ),
    (
        {"kind": "channel", "type": "exec", "pty": None, "environment": {}, "command": "a\nb"},
        ["channel 1: exec, a", "b"],
    ),
    ({"kind": "channel", "type": "subsystem", "subsystem": "sftp"},
     ["channel 1: subsystem, sftp"]),
    ({"kind": "output", "stream": "stdout", "data": "a\r\nb\x1b[2J\r\n"},
     ["output 1: a", "b\\x1b[2J"]),
    ({"kind": "output", "stream": "stderr", "data": "oops\n\n"}, ["output 1 stderr: oops", ""]),
    ({"kind": "output", "stream": "stdout", "data": {"base64": "w6nDKA=="}},
     ["output 1: é\\xc3("]),
    ({"kind": "input", "data": "ls\r"}, ["input 1: ls\\r"]),
    ({"kind": "exec", "command": "ls\nid", "exit_status": 0, "duration_ms": 1.5},
     ["exec 1: status 0  1.500 ms"]),
    ({"kind": "exec", "command": {"base64": "/w=="}, "exit_status": None, "exit_signal": "KILL"},
     ["exec 1: signal KILL"]),
    ({"kind": "exec", "command": "x", "exit_status": None, "refused": True},
     ["exec 1: refused"]),
    ({"kind": "exec", "command": "x", "exit_status": None}, ["exec 1: no answer"]),
    ({"kind": "exit", "exit_status": 3}, ["exit 1: status 3"]),
    ({"kind": "exit", "exit_signal": "TERM", "core_dumped": False}, ["exit 1: signal TERM"]),
    ({"kind": "closed", "bytes_in": 1, "bytes_out": 2, "bytes_err": 3},
     ["closed 1: 1 byte in, 2 bytes out, 3 bytes err"]),
    ({"kind": "file", "operation": "write", "path": "/a\nb", "bytes": 5, "sha256": DIGEST},
     [f"file 1: write /a\\nb, 5 bytes, sha256 {DIGEST}"]),
    ({"kind": "file", "operation": "rename", "path": "a", "bytes": None, "sha256": None, "to": "b",
      "error": "SSH_FX_FAILURE"},
     ["file 1: rename a to b, error SSH_FX_FAILURE"]),
    ({"kind": "forward", "type": "direct-tcpip", "to": "db:80", "bytes_in": 5, "bytes_out": 3},
     ["forward 1: direct-tcpip to db:80, 5 bytes in, 3 bytes out"]),
    ({"kind": "forward", "type": "direct-tcpip", "to": "db\n:80", "refused": True},
     ["forward 1: direct-tcpip to db\\n:80, refused"]),
    ({"kind": "forward", "channel": None, "listen": "localhost:80", "refused": False},
     ["forward: listens at localhost:80"]),
    ({"kind": "forward", "channel": None, "listen": ":80", "refused": True},
     ["forward: listens at :80, refused"]),
    ({"kind": "resize", "columns": 100, "rows": 30}, ["resize 1: 100x30"]),
    ({"kind": "signal", "signal": "INT"}, ["signal 1: INT"]),
    ({"kind": "denied", "request": "x11-req"}, ["denied 1: x11-req"]),
    ({"kind": "refused", "request": {"base64": "/w=="}}, ["refused 1: \\xff"]),
    ({"kind": "agent"}, ['agent {"channel": 1}']),
]  # fmt: skip


@pytest.mark.parametrize(("event", "lines"), SSH)
def test_what_ssh_sessions_have(event: dict[str, Any], lines: list[str]) -> None:
    shown = list(listing([{"at": 1.5, "channel": 1, **event}]))
    assert [line[12:] for line in shown] == lines
    at = 1.5 + event.get("duration_ms", 0) / 1000
    assert [line[:12] for line in shown] == [f"{at:>10.3f}  ", *["         |  "] * (len(lines) - 1)]


def test_a_command_is_told_once_and_its_end_in_its_place() -> None:
    output = {"kind": "output", "channel": 1, "data": "x"}
    events = [
        {"at": 0.5, "kind": "channel", "channel": 1, "type": "exec", "command": "make"},
        {"at": 0.75, **output},
        {"at": 2.0, **output},
        {"at": 0.5, "kind": "exec", "channel": 1, "command": "make", "exit_status": 2,
         "duration_ms": 1750.0},
        {"at": 2.5, "kind": "closed", "channel": 1, "bytes_in": 0, "bytes_out": 2, "bytes_err": 0},
        {"at": 0.6, "kind": "exec", "channel": 2, "command": "sleep", "exit_status": None},
    ]  # fmt: skip
    assert list(listing(events)) == [
        "     0.500  channel 1: exec, make",
        "     0.750  output 1: x",
        "     2.000  output 1: x",
        "     2.250  exec 1: status 2  1750.000 ms",
        "     2.500  closed 1: 0 bytes in, 2 bytes out, 0 bytes err",
        "     2.500  exec 2: no answer",
    ]


def test_no_output_passes_for_an_event() -> None:
    forged = "$ \r\n     9.000  end: killed\r\n        ->  status 0\r     9.000  x"
    lines = list(listing([{"at": 1.5, "kind": "output", "channel": 1, "data": forged}]))
    assert lines == [
        "     1.500  output 1: $ ",
        "         |       9.000  end: killed",
        "         |          ->  status 0\\r     9.000  x",
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


START = {
    "at": 0.0, "kind": "start", "started": "2026-11-18T09:30:00.000+00:00", "id": "<i>",
    "user": "alice & bob", "source": "10.0.0.1", "resource": "orders", "account": "app",
    "target": "db:5432",
}  # fmt: skip


def page(*events: dict[str, Any], warning: str = "") -> list[str]:
    out = io.StringIO()
    to_html(events, out, warning)
    return out.getvalue().splitlines()


def test_a_page_says_whose_session_it_is() -> None:
    title = "alice &amp; bob on orders, 2026-11-18: session &lt;i&gt;"
    lines = page(START, {"at": 2.0, "kind": "cancel"})
    assert lines[:5] == [
        "<!DOCTYPE html>",
        '<meta charset="utf-8">',
        f"<title>{title}</title>",
        f"<h1>{title}</h1>",
        "<pre>",
    ]
    assert lines[6:] == ["     2.000  cancel", "</pre>"]


def test_a_page_says_what_is_wrong_with_it() -> None:
    (line,) = (line for line in page(START, warning="is <b>\x1baltered</b>") if "arning" in line)
    assert line == ('<p role="alert"><mark>Warning: is &lt;b&gt;\\x1baltered&lt;/b&gt;</mark></p>')


@pytest.mark.parametrize("events", [[], [{"at": 2.0, "kind": "cancel"}]])
def test_a_page_of_what_has_no_beginning(events: list[dict[str, Any]]) -> None:
    lines = page(*events)
    assert "<title>Session</title>" in lines
    assert len(lines) == 6 + len(events)


KINDS = [
    "start", "statement", "copy", "end", "other", "channel", "output", "input", "exec", "exit",
    "closed", "file", "forward", "resize", "signal", "denied", "refused", "reroute",
]  # fmt: skip
FIELDS = [
    "sql", "message", "user", "detail", "sqlstate", "reason", "type", "command", "subsystem",
    "data", "stream", "operation", "path", "to", "error", "listen", "exit_signal", "signal",
    "request", "from", "why", "started", "resource", "id", "\x1b",
]  # fmt: skip


@given(st.text(), st.sampled_from(KINDS), st.sets(st.sampled_from(FIELDS)))
def test_no_control_character_gets_through(text: str, kind: str, fields: set[str]) -> None:
    event = {"at": 0.0, "kind": kind, "channel": 1, **dict.fromkeys(fields, text)}
    event |= {"parameters": [text], "environment": {text: text}, "pty": {"term": text}}
    out, page = io.StringIO(), io.StringIO()
    to_jsonl([event], out)
    to_html([event], page, text)
    for line in (*listing([event]), out.getvalue()[:-1], *page.getvalue()[:-1].split("\n")):
        assert line.isprintable() or all(
            character.isprintable() or character.isspace() for character in line
        )
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


NUMBERS = ["duration_ms", "bytes", "rows", "statements", "truncated", "tags", "transaction"]
ANYTHING = (
    st.none()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.lists(st.integers())
    | st.fixed_dictionaries({"base64": st.text()})
)


@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from([*FIELDS, *NUMBERS]),
        ANYTHING,
    ),
)
def test_whatever_a_transcript_holds_is_listed(kind: str, facts: dict[str, Any]) -> None:
    assert list(listing([{"at": 1.5, "kind": kind, **facts}]))
