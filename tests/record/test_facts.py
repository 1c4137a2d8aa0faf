"""What every protocol's transcript has; and garbage in its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.facts import coded, event, facts, octets, seconds, text
from gateway.record.format import END, HEADER, NOTE, Record

SECOND = 1_000_000_000


def test_bytes_as_json_has_them() -> None:
    assert text("häuser/\n".encode()) == "häuser/\n"
    assert text(b"f\xff") == coded(b"f\xff") == {"base64": "Zv8="}


@given(st.binary())
def test_bytes_come_back_from_json(data: bytes) -> None:
    assert octets(json.loads(json.dumps(text(data)))) == octets(coded(data)) == data


@pytest.mark.parametrize("value", [None, 7, [], {}, {"base64": None}, {"base64": "é"}, {"a": "b"}])
def test_what_tells_of_no_bytes(value: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        octets(value)


def test_half_of_a_pair_is_bytes_all_the_same() -> None:
    assert octets("\ud83d") == b"\xed\xa0\xbd"


def told(kind: int, payload: bytes, at: int = SECOND) -> dict[str, object]:
    return event(Record(kind, at, payload))


def test_a_beginning() -> None:
    header = b'{"format": 1, "user": "alice", "started": 1763424000.0004, "at": 9, "kind": "x"}'
    assert told(HEADER, header, 0) == {
        "at": 0.0,
        "kind": "start",
        "user": "alice",
        "started": "2025-11-18T00:00:00.000+00:00",
    }


def test_a_note() -> None:
    assert told(NOTE, b'{"kind": "cancel", "at": 9, "why": null}', 1_500_000_499) == {
        "at": 1.5,
        "kind": "cancel",
        "why": None,
    }
    assert told(NOTE, b'{"a": 1}') == {"at": 1.0, "kind": "note", "a": 1}


def test_an_end() -> None:
    assert told(END, b'{"reason": "killed", "kind": "start", "format": 2}') == {
        "at": 1.0,
        "kind": "end",
        "reason": "killed",
        "format": 2,
    }


def test_microseconds_are_what_people_get() -> None:
    assert [seconds(at) for at in (0, 499, 501, 1_234_567_891, 2**64 - 1)] == [
        *(0.0, 0.0, 0.000001, 1.234568),
        18446744073.709553,
    ]


@pytest.mark.parametrize(
    "started",
    [None, "yesterday", [], {}, 1e300, -1e300, 10**30, -(10**30), "1763424000", 2**63],
)
def test_a_beginning_that_is_no_time_is_left_alone(started: object) -> None:
    assert told(HEADER, json.dumps({"started": started}).encode())["started"] == started


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b'"a"', b"1", b"null", b"\xff", b'{"a": \xff}', b"{}\0", b"[" * 100_000,
     b'{"a":' * 100_000, b'{"a": NaN}', b'{"a": Infinity}', b'{"a": [-Infinity]}', b'{"a": 1e999}',
     b'{"a": -1e999}', b'{"a": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_object_has_no_facts(payload: bytes) -> None:
    assert facts(payload) == {}
    assert told(NOTE, payload) == {"at": 1.0, "kind": "note"}
    assert told(END, payload) == {"at": 1.0, "kind": "end"}
    assert told(HEADER, payload) == {"at": 1.0, "kind": "start", "started": None}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.text() | st.sampled_from(["kind", "at", "started", "format"]), JSON, max_size=4
)


@given(
    st.sampled_from([HEADER, NOTE, END]),
    st.binary() | OBJECTS.map(lambda value: json.dumps(value).encode()),
    st.integers(0, 2**64 - 1),
)
def test_anything_is_told_as_json(kind: int, payload: bytes, at: int) -> None:
    found = told(kind, payload, at)
    assert list(found)[:2] == ["at", "kind"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
