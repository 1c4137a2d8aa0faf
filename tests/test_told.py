"""Each transcript is read by the reader of its protocol."""

from __future__ import annotations

import json

import pytest

from gateway.record.format import CLIENT, HEADER, OUTPUT, Record
from gateway.told import events

QUERY = b"Q\0\0\0\x0dSELECT 1\0"


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        ("postgresql", ["start", "statement"]),
        ("ssh", ["start", "output"]),
        (None, ["start", "statement"]),
    ],
)
def test_protocols(protocol: str | None, kinds: list[str]) -> None:
    header = json.dumps({"protocol": protocol}).encode()
    records = [
        Record(HEADER, 0, header),
        Record(CLIENT, 1, QUERY),
        Record(OUTPUT, 2, b"\0\0\0\1\0hello"),
    ]
    assert [event["kind"] for event in events(records)] == kinds


def test_nothing_at_all() -> None:
    assert list(events([])) == []
