"""Parameters and other fields as people read them."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pg import bodies
from gateway.pg.bodies import Cursor, Values

HELLO = {"base64": "aGVsbG8="}
BINARY = [
    (16, b"\1", True),
    (16, b"\0", False),
    (16, b"\7", {"base64": "Bw=="}),
    (17, b"\0\xff", {"base64": "AP8="}),
    (20, struct.pack(">q", -(2**63)), -(2**63)),
    (21, struct.pack(">h", -2), -2),
    (23, struct.pack(">i", 70000), 70000),
    (23, b"hello", HELLO),
    (26, b"\xff\xff\xff\xff", 4294967295),
    (25, "grüße".encode(), "grüße"),
    (25, b"\xff", {"base64": "/w=="}),
    (1043, b"x", "x"),
    (700, struct.pack(">f", 0.5), 0.5),
    (701, struct.pack(">d", 1.1), 1.1),
    (701, struct.pack(">d", float("nan")), "nan"),
    (2950, bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    (3802, b'\1{"a": 1}', '{"a": 1}'),
    (1082, struct.pack(">i", 366), "2001-01-01"),
    (1082, struct.pack(">i", 2**31 - 1), {"base64": "f////w=="}),
    (1114, struct.pack(">q", 1_500_000), "2000-01-01 00:00:01.500000"),
    (1184, struct.pack(">q", 0), "2000-01-01 00:00:00+00:00"),
    (1700, b"hello", HELLO),
    (0, b"hello", HELLO),
]


@pytest.mark.parametrize(("oid", "value", "shown"), BINARY)
def test_binary_values(oid: int, value: bytes, shown: object) -> None:
    assert bodies.show(value, True, oid) == shown


def test_formats_are_none_one_or_each() -> None:
    for formats, shown in [
        ((), ["a", "b"]),
        ((0,), ["a", "b"]),
        ((1,), [{"base64": "YQ=="}, {"base64": "Yg=="}]),
        ((0, 1), ["a", {"base64": "Yg=="}]),
    ]:
        assert Values(formats, (b"a", b"b")).shown() == shown
    assert Values((), (None, b"\xff")).shown() == [None, {"base64": "/w=="}]


@pytest.mark.parametrize(
    ("tag", "rows"),
    [("SELECT 5", 5), ("INSERT 0 7", 7), ("COPY 0", 0), ("BEGIN", None), ("", None), ("X ²", None)],
)
def test_rows_of_a_tag(tag: str, rows: int | None) -> None:
    assert bodies.rows(tag) == rows


def test_a_body_that_ends_early_gives_what_it_has() -> None:
    body = struct.pack(">HHHI", 1, 1, 2, 2) + b"ab" + struct.pack(">I", 10) + b"part"
    assert Values.read(Cursor(body)) == Values((1,), (b"ab", b"part"))
    assert Values.read(Cursor(body[:-6])) == Values((1,), (b"ab",))
    assert Values.read(Cursor(b"")) == Values((), ())
    assert list(bodies.frames(b"Z\0\0\0\5I" + b"Q\0\0\0\x09x")) == [(ord("Z"), b"I")]


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([case[0] for case in BINARY]))
def test_any_value_can_be_shown(value: bytes, binary: bool, oid: int) -> None:
    json.dumps(bodies.show(value, binary, oid), allow_nan=False)
    bodies.error(value)
    json.dumps(Values.read(Cursor(value)).shown((oid,) * 9))
