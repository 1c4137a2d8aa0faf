"""Messages as bytes and back, whole and torn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.ssh import messages as m
from gateway.ssh.messages import Reader, string, uint32

UINT32 = st.integers(0, 2**32 - 1)

# RFC 4254: 5.1, 5.4.
VECTORS = {
    "an open failure": (
        m.open_failure(7, m.PROHIBITED, "nö"),
        "5c 00000007 00000001 00000003 6ec3b6 00000000",
    ),
    "a channel failure": (m.channel_failure(1 << 31), "64 80000000"),
}


@pytest.mark.parametrize("case", VECTORS)
def test_vectors(case: str) -> None:
    built, expected = VECTORS[case]
    assert built == bytes.fromhex(expected)


PAYLOAD = bytes((m.CHANNEL_REQUEST,)) + uint32(7) + string(b"env") + b"\1" + string(b"") + b"tail"
CLOSE = bytes((m.CHANNEL_CLOSE,)) + uint32(7)
DATA = bytes((m.CHANNEL_DATA,)) + uint32(1)
FIELDS: list[tuple[Callable[[Reader], object], object]] = [
    (Reader.uint32, 7),
    (Reader.string, b"env"),
    (Reader.boolean, True),
    (Reader.string, b""),
    (Reader.rest, b"tail"),
]


def read_all(payload: bytes) -> list[object]:
    fields = Reader(payload)
    return [read(fields) for read, _ in FIELDS]


def test_fields_in_turn() -> None:
    assert read_all(PAYLOAD) == [value for _, value in FIELDS]
    assert m.recipient(PAYLOAD) == 7


@pytest.mark.parametrize("length", range(len(PAYLOAD) - len(b"tail")))
def test_a_message_that_ends_anywhere_too_early(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="ends too early"):
        read_all(PAYLOAD[:length])


@pytest.mark.parametrize("read", [Reader.uint32, Reader.boolean, Reader.string])
def test_nothing_is_read_behind_the_end(read: Callable[[Reader], object]) -> None:
    fields = Reader(b"\x62")
    for _ in range(2):  # and it does not come back
        with pytest.raises(ProtocolViolation):
            read(fields)
    assert fields.rest() == b""


@pytest.mark.parametrize("length", [4, 1 << 16, 1 << 31, (1 << 32) - 1])
def test_a_string_longer_than_its_message(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        Reader(b"\x62" + uint32(length) + b"abc").string()


@pytest.mark.parametrize("value", [1, 2, 255])
def test_whatever_is_not_zero_is_true(value: int) -> None:  # RFC 4251, 5
    assert Reader(bytes((0, value))).boolean() is True
    assert Reader(bytes((0, 0))).boolean() is False


@pytest.mark.parametrize("length", range(5))
def test_a_message_without_a_whole_channel(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        m.recipient(CLOSE[:length])


@given(st.binary(max_size=80), UINT32, st.binary())
def test_what_is_written_is_read(text: bytes, number: int, tail: bytes) -> None:
    fields = Reader(b"\x62" + string(text) + uint32(number) + tail)
    assert (fields.string(), fields.uint32(), fields.rest()) == (text, number, tail)


@given(
    st.binary(max_size=40),
    st.lists(st.sampled_from([Reader.uint32, Reader.boolean, Reader.string]), max_size=8),
)
def test_garbage_is_read_or_a_violation(
    payload: bytes, reads: list[Callable[[Reader], object]]
) -> None:
    fields = Reader(payload)
    try:
        for read in reads:
            read(fields)
    except ProtocolViolation:
        pass
    assert payload.endswith(fields.rest())


@pytest.mark.parametrize("length", [0, 2, 4, 1 << 31])
def test_data_is_as_long_as_it_says(length: int) -> None:
    payload = bytes((m.CHANNEL_DATA,)) + m.uint32(1) + m.uint32(length) + b"abc"
    with pytest.raises(ProtocolViolation):
        m.body(payload, 5)
    assert m.body(DATA + string(b"abc"), 5) == b"abc"
    assert m.body(DATA + string(b""), 5) == b""
    with pytest.raises(ProtocolViolation):
        m.body(payload[:7], 5)
