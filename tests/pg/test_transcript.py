"""Dialogues, hand-built, and what people read of them."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pg import transcript
from gateway.pg.transcript import Events
from gateway.record.format import (
    CLIENT,
    COPIED,
    CUT,
    END,
    HEADER,
    NOTE,
    ROWS,
    SEAL,
    TARGET,
    Record,
)
from gateway.told import events

MS = 1_000_000


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack(">I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return frame("Q", sql.encode() + b"\0")


def parse(sql: str, name: bytes = b"", *oids: int) -> bytes:
    types = struct.pack(f">H{len(oids)}I", len(oids), *oids)
    return frame("P", name + b"\0" + sql.encode() + b"\0" + types)


def bind(
    *values: bytes | None, name: bytes = b"", portal: bytes = b"", formats: tuple[int, ...] = ()
) -> bytes:
    body = portal + b"\0" + name + b"\0" + struct.pack(f">H{len(formats)}H", len(formats), *formats)
    body += struct.pack(">H", len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">I", len(value)) + value
    return frame("B", body + b"\0\0")


def execute(portal: bytes = b"") -> bytes:
    return frame("E", portal + b"\0\0\0\0\0")


def tag(text: str) -> bytes:
    return frame("C", text.encode() + b"\0")


def error(code: str, message: str) -> bytes:
    return frame("E", f"SERROR\0VERROR\0C{code}\0M{message}\0\0".encode())


def ready(state: str = "I") -> bytes:
    return frame("Z", state.encode())


SYNC, PARSED, BOUND, SUSPENDED = frame("S"), frame("1"), frame("2"), frame("s")
DESCRIBE = frame("D", b"P\0")
COPY_IN, COPY_OUT, COPY_DONE = frame("G", b"\0\0\0"), frame("H", b"\0\0\0"), frame("c")


def copied(direction: int, count: int, size: int) -> bytes:
    return struct.pack(">BQQ", direction, count, size)


def told(*script: tuple[int, bytes]) -> list[dict[str, Any]]:
    """The events of records that are one millisecond apart."""
    found = list(events(Record(kind, i * MS, data) for i, (kind, data) in enumerate(script)))
    for event in found:
        json.dumps(event, allow_nan=False)
    return found


def brief(event: dict[str, Any]) -> tuple[Any, ...]:
    """What most dialogues are about."""
    if event["kind"] == "copy":
        return "copy", event["direction"], event["bytes"], event["rows"]
    if event["kind"] != "statement":
        return (event["kind"],)
    outcome = "skipped" if event.get("skipped") else event["sqlstate"] or event["tag"]
    return event["sql"], event["parameters"], outcome, event["rows"], event["transaction"]


DIALOGUES: dict[str, tuple[list[tuple[int, bytes]], list[tuple[Any, ...]]]] = {
    "a query": (
        [(CLIENT, query("SELECT 1")), (TARGET, tag("SELECT 1") + ready())],
        [("SELECT 1", [], "SELECT 1", 1, "idle")],
    ),
    "several statements in one": (
        [
            (CLIENT, query("BEGIN; INSERT …")),
            (TARGET, tag("BEGIN") + tag("INSERT 0 5")),
            (TARGET, ready("T")),
        ],
        [("BEGIN; INSERT …", [], "INSERT 0 5", 5, "in transaction")],
    ),
    "an empty query": (
        [(CLIENT, query("")), (TARGET, frame("I") + ready())],
        [("", [], None, None, "idle")],
    ),
    "an error": (
        [(CLIENT, query("oops")), (TARGET, error("42601", "syntax") + ready("E"))],
        [("oops", [], "42601", None, "failed")],
    ),
    "an error after rows": (
        [
            (CLIENT, query("q")),
            (ROWS, struct.pack(">Q", 7)),
            (TARGET, error("22012", "zero")),
            (TARGET, ready()),
        ],
        [("q", [], "22012", 7, "idle")],
    ),
    "parameters": (
        [
            (CLIENT, parse("q $1 $2") + bind(b"a", None) + DESCRIBE + execute() + SYNC),
            (TARGET, PARSED + BOUND + tag("UPDATE 3") + ready("T")),
        ],
        [("q $1 $2", ["a", None], "UPDATE 3", 3, "in transaction")],
    ),
    "names": (
        [
            (CLIENT, parse("one", b"a") + parse("two", b"b") + SYNC),
            (TARGET, PARSED + PARSED + ready()),
            (CLIENT, bind(name=b"a", portal=b"p") + bind(name=b"b") + execute(b"p") + execute()),
            (CLIENT, SYNC),
            (TARGET, BOUND * 2 + tag("SELECT 1") + tag("SELECT 2") + ready()),
        ],
        [("one", [], "SELECT 1", 1, "idle"), ("two", [], "SELECT 2", 2, "idle")],
    ),
    "a closed name is gone": (
        [
            (
                CLIENT,
                parse("one", b"a") + frame("C", b"Sa\x00") + bind(name=b"a") + execute() + SYNC,
            ),
            (TARGET, PARSED + frame("3") + error("26000", "no such") + ready()),
        ],
        [(None, [], "26000", None, "idle")],
    ),
    "a portal in parts": (
        [
            (CLIENT, parse("q") + bind() + execute() + frame("H")),
            (TARGET, PARSED + BOUND),
            (ROWS, struct.pack(">Q", 50)),
            (TARGET, SUSPENDED),
            (CLIENT, execute() + SYNC),
            (TARGET, tag("SELECT 8") + ready()),
        ],
        [("q", [], None, 50, "idle"), ("q", [], "SELECT 8", 8, "idle")],
    ),
    "a pipeline with an error in the middle": (
        [
            (CLIENT, b"".join(parse(sql) + bind() + execute() for sql in "abc") + SYNC),
            (CLIENT, parse("d") + bind() + execute() + SYNC),
            (TARGET, PARSED + BOUND + tag("BEGIN") + PARSED + BOUND + error("22012", "zero")),
            (TARGET, ready("I") + PARSED + BOUND + tag("SELECT 1") + ready("I")),
        ],
        [
            ("a", [], "BEGIN", None, "idle"),
            ("b", [], "22012", None, "idle"),
            ("c", [], "skipped", None, "idle"),
            ("d", [], "SELECT 1", 1, "idle"),
        ],
    ),
    "what comes after an error and before the Sync is skipped": (
        [
            (CLIENT, parse("a") + bind() + execute()),
            (TARGET, PARSED + BOUND + error("X", "x")),
            (CLIENT, parse("b") + bind() + execute()),
            (CLIENT, SYNC),
            (TARGET, ready("E")),
            (CLIENT, query("c")),
            (TARGET, tag("ROLLBACK") + ready()),
        ],
        [
            ("a", [], "X", None, "failed"),
            ("b", [], "skipped", None, "failed"),
            ("c", [], "ROLLBACK", None, "idle"),
        ],
    ),
    "a Parse that fails and its Execute are one statement": (
        [
            (CLIENT, parse("oops") + bind(b"1") + DESCRIBE + execute() + SYNC),
            (TARGET, error("42601", "syntax") + ready()),
        ],
        [("oops", ["1"], "42601", None, "idle")],
    ),
    "a Parse that fails alone": (
        [
            (CLIENT, parse("oops", b"s") + frame("D", b"Ss\x00") + SYNC),
            (TARGET, error("42601", "syntax") + ready()),
        ],
        [("oops", [], "42601", None, "idle")],
    ),
    "a name that was taken keeps its meaning": (
        [
            (CLIENT, parse("old", b"s") + SYNC),
            (TARGET, PARSED + ready()),
            (CLIENT, parse("new", b"s") + SYNC),
            (TARGET, error("42P05", "exists") + ready()),
            (CLIENT, bind(name=b"s") + execute() + SYNC),
            (TARGET, BOUND + tag("SELECT 0")),
            (TARGET, ready()),
        ],
        [("new", [], "42P05", None, "idle"), ("old", [], "SELECT 0", 0, "idle")],
    ),
    "a Bind that fails": (
        [
            (CLIENT, parse("q") + bind(b"x") + execute() + SYNC),
            (TARGET, PARSED + error("22P02", "not an integer") + ready()),
        ],
        [("q", ["x"], "22P02", None, "idle")],
    ),
    "copy in": (
        [
            (CLIENT, query("COPY t FROM STDIN")),
            (TARGET, COPY_IN),
            (COPIED, copied(0, 3, 99)),
            (CLIENT, COPY_DONE),
            (TARGET, tag("COPY 12") + ready()),
        ],
        [("COPY t FROM STDIN", [], "COPY 12", 12, "idle"), ("copy", "in", 99, 12)],
    ),
    "copy in, extended: the Sync of the Execute is not answered": (
        [
            (CLIENT, parse("COPY") + bind() + execute() + SYNC),
            (TARGET, PARSED + BOUND + COPY_IN),
            (COPIED, copied(0, 3, 99)),
            (CLIENT, COPY_DONE + SYNC),
            (CLIENT, query("next")),
            (TARGET, tag("COPY 2") + ready("T")),
            (TARGET, tag("SELECT 1") + ready()),
        ],
        [
            ("COPY", [], "COPY 2", 2, "in transaction"),
            ("copy", "in", 99, 2),
            ("next", [], "SELECT 1", 1, "idle"),
        ],
    ),
    "copy in that fails, extended": (
        [
            (CLIENT, parse("COPY") + bind() + execute() + SYNC),
            (TARGET, PARSED + BOUND + COPY_IN),
            (TARGET, error("22P02", "bad")),
            (COPIED, copied(0, 3, 99)),
            (CLIENT, COPY_DONE + SYNC),
            (TARGET, ready()),
            (CLIENT, query("next")),
            (TARGET, tag("SELECT 1") + ready()),
        ],
        [
            ("COPY", [], "22P02", None, "idle"),
            ("copy", "in", 99, None),
            ("next", [], "SELECT 1", 1, "idle"),
        ],
    ),
    "copy in that fails before the client is through takes nobody's rows": (
        [
            (CLIENT, query("COPY a")),
            (TARGET, COPY_IN),
            (TARGET, error("22P02", "bad") + ready()),
            (COPIED, copied(0, 9, 900)),
            (CLIENT, COPY_DONE),
            (CLIENT, query("COPY b")),
            (TARGET, COPY_IN),
            (COPIED, copied(0, 2, 4)),
            (CLIENT, COPY_DONE),
            (TARGET, tag("COPY 2") + ready()),
        ],
        [
            ("COPY a", [], "22P02", None, "idle"),
            ("copy", "in", 900, None),
            ("COPY b", [], "COPY 2", 2, "idle"),
            ("copy", "in", 4, 2),
        ],
    ),
    "copy in, all sent ahead": (
        [
            (CLIENT, query("COPY a")),
            (COPIED, copied(0, 2, 4)),
            (CLIENT, COPY_DONE),
            (TARGET, COPY_IN + tag("COPY 2") + ready()),
        ],
        [("COPY a", [], "COPY 2", 2, "idle"), ("copy", "in", 4, 2)],
    ),
    "copy out": (
        [
            (CLIENT, query("COPY t TO STDOUT")),
            (TARGET, COPY_OUT),
            (COPIED, copied(1, 4, 80)),
            (TARGET, COPY_DONE + tag("COPY 4") + ready()),
        ],
        [("COPY t TO STDOUT", [], "COPY 4", 4, "idle"), ("copy", "out", 80, 4)],
    ),
    "copy out that fails": (
        [
            (CLIENT, query("COPY")),
            (TARGET, COPY_OUT),
            (ROWS, struct.pack(">Q", 4)),
            (TARGET, error("57014", "cancelled") + ready()),
        ],
        [("COPY", [], "57014", None, "idle"), ("copy", "out", None, 4)],
    ),
    "queries sent ahead": (
        [
            (CLIENT, query("a") + query("b")),
            (TARGET, tag("SELECT 1") + ready("T")),
            (TARGET, error("X", "x") + ready("E")),
        ],
        [("a", [], "SELECT 1", 1, "in transaction"), ("b", [], "X", None, "failed")],
    ),
    "a function call": (
        [
            (CLIENT, frame("F", struct.pack(">IHHI", 952, 0, 1, 2) + b"42" + b"\x00\x00")),
            (TARGET, frame("V", b"\xff\xff\xff\xff") + ready("T")),
        ],
        [("function call OID 952", ["42"], None, None, "in transaction")],
    ),
    "a cancel": (
        [
            (CLIENT, query("SELECT pg_sleep(9)")),
            (NOTE, b'{"kind": "cancel"}'),
            (TARGET, error("57014", "cancelled") + ready()),
        ],
        [("SELECT pg_sleep(9)", [], "57014", None, "idle"), ("cancel",)],
    ),
    "no answer": (
        [(CLIENT, query("a") + parse("b") + bind() + execute()), (END, b'{"reason": "killed"}')],
        [("a", [], None, None, None), ("b", [], None, None, None), ("end",)],
    ),
    "no end either": (
        [(CLIENT, query("a")), (TARGET, tag("SELECT 1"))],
        [("a", [], "SELECT 1", 1, None)],
    ),
    "a fatal error while idle is nobody's": (
        [
            (CLIENT, query("a")),
            (TARGET, tag("SELECT 1") + ready()),
            (TARGET, error("57P01", "")),
            (CLIENT, query("b")),
        ],
        [("a", [], "SELECT 1", 1, "idle"), ("b", [], None, None, None)],
    ),
}


@pytest.mark.parametrize("case", DIALOGUES)
def test_dialogue(case: str) -> None:
    script, expected = DIALOGUES[case]
    assert [brief(event) for event in told(*script)] == expected


@pytest.mark.parametrize("case", DIALOGUES)
def test_records_may_be_cut_between_any_two_frames(case: str) -> None:
    script, expected = DIALOGUES[case]
    split = [
        (kind, frame(chr(message), body))
        for kind, data in script
        if kind in (CLIENT, TARGET)
        for message, body in transcript.bodies.frames(data)
    ]
    others = [kind for kind, _ in script if kind not in (CLIENT, TARGET)]
    if not others:
        assert [brief(event) for event in told(*split)] == expected


def test_a_statement_in_full() -> None:
    script = [(CLIENT, query("a; b")), (TARGET, tag("INSERT 0 2") + tag("DELETE 3") + ready())]
    assert told((HEADER, b'{"format": 1, "user": "alice", "started": 0}'), *script) == [
        {"at": 0.0, "kind": "start", "user": "alice", "started": "1970-01-01T00:00:00.000+00:00"},
        {
            "at": 0.001,
            "kind": "statement",
            "sql": "a; b",
            "parameters": [],
            "tag": "DELETE 3",
            "tags": ["INSERT 0 2", "DELETE 3"],
            "rows": 5,
            "duration_ms": 1.0,
            "sqlstate": None,
            "message": None,
            "transaction": "idle",
        },
    ]


def test_types_come_from_parse_or_from_the_target() -> None:
    four = struct.pack(">i", -4)
    asked = parse("q", b"s", 23) + bind(four, name=b"s", formats=(1,)) + execute() + SYNC
    left = parse("q", b"t") + frame("D", b"St\0") + bind(four, name=b"t", formats=(1,)) + execute()
    types = frame("t", struct.pack(">HI", 1, 23))
    done = BOUND + tag("SELECT 1") + ready()
    found = told((CLIENT, asked + left + SYNC), (TARGET, PARSED + done + PARSED + types + done))
    assert [event["parameters"] for event in found] == [[-4], [-4]]


def test_a_cut_statement_says_what_is_missing() -> None:
    whole = b"SELECT '" + b"x" * 100
    head = struct.pack(">BBQ32s", 0, ord("Q"), 108, hashlib.sha256(whole).digest())
    (event,) = told((CUT, head + whole[:20]), (TARGET, tag("SELECT 1") + ready()))
    assert event["sql"] == whole[:20].decode()
    assert event["tag"] == "SELECT 1"
    assert event["truncated"] == {"length": 108, "sha256": hashlib.sha256(whole).hexdigest()}


def test_events_are_told_as_soon_as_they_are_complete() -> None:
    session = Events()
    assert session.feed(Record(CLIENT, 0, query("a") + query("b"))) == []
    assert session.feed(Record(TARGET, 1, tag("SELECT 1"))) == []
    assert [event["sql"] for event in session.feed(Record(TARGET, 2, ready()))] == ["a"]
    assert [event["sql"] for event in session.finish()] == ["b"]


def test_a_pipeline_without_sync_is_not_held_for_ever() -> None:
    session = Events()
    session.feed(Record(CLIENT, 0, parse("q") + bind()))
    session.feed(Record(TARGET, 0, PARSED + BOUND))
    told_of = 0
    for _ in range(3 * transcript.MAX_UNREADY):
        session.feed(Record(CLIENT, 0, execute()))
        told_of += len(session.feed(Record(TARGET, 0, tag("SELECT 1"))))
    assert told_of == 2 * transcript.MAX_UNREADY


def test_requests_without_answers_are_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_PENDING", 10)
    monkeypatch.setattr(transcript, "MAX_UNREADY", 5)
    session = Events()
    assert len(session.feed(Record(CLIENT, 0, query("q") * 100))) == 85


def test_copies_without_a_tag_are_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_COPIES", 5)
    session = Events()
    session.feed(Record(CLIENT, 0, query("SELECT pg_sleep(9)")))
    for _ in range(100):
        session.feed(Record(COPIED, 0, copied(0, 0, 0)))
    assert len(session._copies) == 5


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from("QFPBEDCSHcfdX123CEsIZGHWVtT\x00"),
        st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\0" * 9, b"I", b"SELECT 1\0"])),
    ),
    max_size=12,
).map(b"".join)
RECORDS = st.lists(
    st.builds(
        Record,
        st.one_of(st.sampled_from([CLIENT, TARGET]), st.integers(HEADER, SEAL)),
        st.integers(0, 1 << 40),
        st.one_of(FRAMES, st.binary(max_size=80), st.just(b'{"started": 1e300, "kind": []}')),
    ),
    max_size=30,
)  # fmt: skip


@given(RECORDS)
def test_nothing_that_was_said_breaks_it(records: list[Record]) -> None:
    asked = sum(
        kind in b"QFE"
        for record in records
        if record.kind == CLIENT
        for kind, _ in transcript.bodies.frames(record.payload)
    )
    found = list(events(records))
    json.dumps(found, allow_nan=False)
    statements = [event for event in found if event["kind"] == "statement" and event["sql"]]
    assert sum(event["kind"] == "statement" for event in found) >= asked, statements
