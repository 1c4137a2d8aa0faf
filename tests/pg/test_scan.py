"""The walk over frames, with a direction that records one type and streams another."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.pg.scan import CAPTURE, MAX_FRAME, Capture, Scanner, table


class OneWay(Scanner):
    RECORD, DIRECTION = 7, 1
    TABLE = table(skip=b"a", stream=b"d", keep=b"k")


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">cI", kind, len(body) + 4) + body


def scanned(data: bytes, sizes: list[int]) -> tuple[Scanner, bytes]:
    recorded: list[bytes] = []
    scanner = OneWay(lambda kind, payload: recorded.append(payload))
    at = turn = 0
    while at < len(data):
        step = sizes[turn % len(sizes)]
        scanner.scan(data[at : at + step])
        at, turn = at + step, turn + 1
    return scanner, b"".join(recorded)


FRAMES = st.tuples(st.sampled_from([b"a", b"d", b"k"]), st.binary(max_size=30))


@given(st.lists(FRAMES, max_size=40), st.lists(st.integers(1, 20), min_size=1, max_size=9))
def test_no_split_changes_what_is_seen(messages: list[tuple[bytes, bytes]], sizes) -> None:
    stream = b"".join(frame(*each) for each in messages)
    scanner, recorded = scanned(stream, sizes)
    assert recorded == b"".join(frame(*each) for each in messages if each[0] == b"k")
    bodies = [body for kind, body in messages if kind == b"d"]
    assert (scanner.streamed, scanner.streamed_bytes) == (len(bodies), sum(map(len, bodies)))
    assert scanner.at_boundary


@given(st.binary(max_size=30), st.integers(0, 34), st.binary(max_size=9))
def test_the_boundary_is_where_the_frame_ends(body: bytes, cut: int, tail: bytes) -> None:
    whole = frame(b"k", body)
    scanner, _ = scanned(whole[:cut], [100])
    rest = whole[cut:]
    if 0 < cut < len(whole):
        assert not scanner.at_boundary
        assert scanner.to_boundary(rest + tail) == len(rest)
        if len(rest) > 1:
            assert scanner.to_boundary(rest[:-1]) is None


@pytest.mark.parametrize("length", [0, 3, MAX_FRAME, 0xFFFFFFFF])
@pytest.mark.parametrize("step", [1, 100])
def test_impossible_lengths(length: int, step: int) -> None:
    with pytest.raises(ProtocolViolation):
        scanned(struct.pack(">cI", b"k", length), [step])


@pytest.mark.parametrize("step", [1, 100])
def test_unknown_types(step: int) -> None:
    with pytest.raises(ProtocolViolation, match="0x78"):
        scanned(frame(b"x"), [step])


def test_what_is_refused_leaves_the_boundary_where_it_was() -> None:
    scanner, _ = scanned(frame(b"k", b"abc")[:6], [100])
    with pytest.raises(ProtocolViolation):
        scanner.scan(b"bc" + frame(b"x"))
    assert scanner.to_boundary(b"bc") == 2


def test_a_frame_beyond_the_cap_is_its_head_and_its_hash() -> None:
    body = b"z" * (CAPTURE + 5)
    capture = Capture(frame(b"k", body)[:5])
    for at in range(0, len(body), 100_000):
        capture.take(body[at : at + 100_000])
    assert capture.cut
    _, payload = capture.record(7, 1)
    facts = struct.pack(">BBQ32s", 1, ord("k"), len(body), hashlib.sha256(body).digest())
    assert payload == facts + body[:CAPTURE]
