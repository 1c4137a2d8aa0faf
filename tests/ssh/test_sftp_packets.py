"""Packets come out of a stream the same however it is split; fields stay inside them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.ssh.sftp_packets import (
    MAX_NAMES,
    MAX_PACKET,
    TOLD,
    Fields,
    Kind,
    Packets,
    attributes,
    error,
)
from tests.ssh.packets import attrs, packet, string, u32, u64

HEADS = {1: 4, 2: 8, 3: 300}


class Collected:
    def __init__(self) -> None:
        self.packets: list[list[object]] = []

    def opened(self, kind: int, fields: Fields) -> Collected:
        self.packets.append([kind, fields.head, fields.left, b""])
        return self

    def take(self, part: memoryview) -> None:
        self.packets[-1][3] += bytes(part)


def collected(chunks: list[bytes]) -> list[list[object]]:
    found = Collected()
    packets = Packets(HEADS, found.opened)
    for chunk in chunks:
        packets.feed(chunk)
    return found.packets


@given(
    st.lists(st.tuples(st.sampled_from(sorted(HEADS)), st.binary(min_size=4, max_size=600))),
    st.lists(st.integers(0, 3000)),
)
def test_no_split_changes_the_packets(packets, cuts) -> None:
    data = b"".join(packet(kind, body) for kind, body in packets)
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(at)]
    expected = [
        [kind, body[: HEADS[kind]], len(body), body[HEADS[kind] :]] for kind, body in packets
    ]
    assert collected(chunks) == expected
    assert collected([data[i : i + 1] for i in range(len(data))]) == expected


@pytest.mark.parametrize(
    "header",
    [
        u32(9) + b"\4",  # no such type
        u32(0) + b"\1",
        u32(4) + b"\1",  # no room for an id
        u32(MAX_PACKET + 1) + b"\1",
        b"\xff\xff\xff\xff\1",
        b"This",
    ],
)
def test_a_header_that_cannot_be_is_a_violation(header: bytes) -> None:
    good = packet(1, b"1234")
    with pytest.raises(ProtocolViolation):
        collected([good, *(bytes([octet]) for octet in header + b"!")])


def test_fields_stay_inside_their_packet() -> None:
    fields = Fields(u32(7) + string(b"name") + u64(1 << 40) + b"rest", 24)
    assert fields.number(4) == 7
    assert fields.string() == b"name"
    assert fields.number(8) == 1 << 40
    assert (fields.rest(), fields.left, fields.cut) == (b"rest", 4, False)
    for take in (fields.string, lambda: fields.number(8)):
        with pytest.raises(ProtocolViolation):
            take()


def test_fields_behind_the_head_come_short() -> None:
    fields = Fields(string(b"x" * 100)[:54], 112)
    assert fields.string() == b"x" * 50
    assert (fields.number(4), fields.string(), fields.left) == (0, b"", 0)
    assert fields.cut


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"", {}),
        (attrs(), {}),
        (attrs(size=1 << 33), {"size": 1 << 33}),
        (attrs(ids=(5, 6), permissions=0o100755), {"uid": 5, "gid": 6, "mode": "0755"}),
        (attrs(times=(1, 2)), {"atime": 1, "mtime": 2}),
        (u32(1 << 31) + u32(1) + string(b"x@y") + string(b"z"), {}),
    ],
)
def test_attributes(packed: bytes, expected) -> None:
    assert attributes(Fields(packed, len(packed))) == expected


def test_attributes_that_end_too_early_are_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        attributes(Fields(u32(1) + b"1234", 8))


def test_the_names_of_refusals() -> None:
    assert error(3) == "SSH_FX_PERMISSION_DENIED"
    assert error(8) == "SSH_FX_OP_UNSUPPORTED"
    assert error(9) == 9


def test_opening_for_reading_only_is_no_flag() -> None:
    def opened(flags: int) -> dict:
        packed = string(b"f") + u32(flags) + attrs(permissions=0o600)
        return TOLD[Kind.OPEN](Fields(packed, len(packed)))

    assert "flags" not in opened(1)
    assert opened(0x1A)["flags"] == ["write", "create", "truncate"]
    assert opened(0x1A)["mode"] == "0600"
    assert "mode" not in opened(2)  # a file that is not created keeps its own
    assert opened(0x3F)["flags"][2::3] == ["append", "exclusive"]


@given(st.sampled_from(sorted(TOLD)), st.binary(max_size=200), st.integers(0, 2 * MAX_NAMES))
def test_any_body_is_an_event_or_a_violation(kind: int, head: bytes, behind: int) -> None:
    try:
        told = TOLD[kind](Fields(head, len(head) + behind))
    except ProtocolViolation:
        return
    assert told["bytes"] is None
