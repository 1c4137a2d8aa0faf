"""Messages, out and back; and a reader that nobody can make buffer."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts import CancelKey
from gateway.errors import ProtocolViolation
from gateway.pg import frames
from gateway.pg.frames import Authentication, ErrorFields, Frame, FrameReader, Kind

# -- vectors: as the manual lays them out -------------------------------------------------

VECTORS = {
    "AuthenticationOk": (frames.authentication(Authentication.OK), "52 00000008 00000000"),
    "AuthenticationMD5Password": (
        frames.authentication(Authentication.MD5, b"salt"),
        "52 0000000c 00000005 73616c74",
    ),
    "AuthenticationSASL": (
        frames.authentication_sasl(["SCRAM-SHA-256"]),
        "52 00000017 0000000a 534352414d2d5348412d323536 00 00",
    ),
    "BackendKeyData": (
        frames.backend_key_data(CancelKey(258, b"abcd")),
        "4b 0000000c 00000102 61626364",
    ),
    "ReadyForQuery": (frames.ready_for_query(), "5a 00000005 49"),
    "ParameterStatus": (frames.parameter_status("a", "b"), "53 00000008 6100 6200"),
    "NegotiateProtocolVersion": (
        frames.negotiate_protocol_version(3 << 16 | 2, ["_pq_.x"]),
        "76 00000013 00030002 00000001 5f70715f2e7800",
    ),
    "SASLInitialResponse": (
        frames.sasl_initial_response("S", b"n,,"),
        "70 0000000d 5300 00000003 6e2c2c",
    ),
    "SASLResponse": (frames.sasl_response(b"c="), "70 00000006 633d"),
    "PasswordMessage": (frames.password_message(b"pw"), "70 00000007 707700"),
    "Query": (frames.query("ä"), "51 00000007 c3a400"),
    "Terminate": (frames.message(Kind.TERMINATE), "58 00000004"),
    "SSLRequest": (frames.ssl_request(), "00000008 04d2162f"),
    "CancelRequest": (
        frames.cancel_request(CancelKey(1, b"abcd")),
        "00000010 04d2162e 00000001 61626364",
    ),
    "StartupMessage": (
        frames.startup_message([("user", "\udce4")]),
        "00000010 00030000 7573657200 e400 00",
    ),
    "ErrorResponse": (
        frames.error_response("FATAL", "28000", "no", hint="h\0x"),
        "45 00000022 53464154414c00 56464154414c00 43323830303000 4d6e6f00 48687800 00",
    ),
}


@pytest.mark.parametrize(("made", "expected"), VECTORS.values(), ids=VECTORS.keys())
def test_encoding(made: bytes, expected: str) -> None:
    assert made.hex() == expected.replace(" ", "")


ROUND_TRIPS: list[tuple[bytes, Callable[[bytes], Any], Any]] = [
    (
        frames.authentication(Authentication.SASL_FINAL, b"v="),
        frames.parse_authentication,
        (Authentication.SASL_FINAL, b"v="),
    ),
    (frames.parameter_status("a", ""), frames.parse_parameter_status, ("a", "")),
    (
        frames.backend_key_data(CancelKey(2**32 - 1, b"k" * 256)),
        frames.parse_backend_key_data,
        CancelKey(2**32 - 1, b"k" * 256),
    ),
    (frames.ready_for_query(b"T"), frames.parse_ready_for_query, b"T"),
    (
        frames.sasl_initial_response("SCRAM-SHA-256", b""),
        frames.parse_sasl_initial_response,
        ("SCRAM-SHA-256", b""),
    ),
    (
        frames.error_response("FATAL", "28000", "no", "d", "h"),
        frames.parse_error,
        ErrorFields("FATAL", "28000", "no", "d", "h"),
    ),
]


@pytest.mark.parametrize(("made", "parse", "expected"), ROUND_TRIPS)
def test_round_trip(made: bytes, parse: Callable[[bytes], Any], expected: Any) -> None:
    assert parse(made[5:]) == expected


def test_mechanisms() -> None:
    _, data = frames.parse_authentication(frames.authentication_sasl(["A", "B"])[5:])
    assert frames.parse_mechanisms(data) == ("A", "B")


BAD = [
    (frames.parse_authentication, [b"", b"\0\0\0", b"\0\0\0\0x", b"\0\0\0\5sal", b"\0\0\0\x63"]),
    (frames.parse_mechanisms, [b"", b"\0", b"A\0", b"A\0\0\0", b"\0A\0\0", b"A\0" * 17 + b"\0"]),
    (frames.parse_parameter_status, [b"", b"a\0", b"\0b\0", b"a\0b", b"a\0b\0c\0"]),
    (frames.parse_backend_key_data, [b"", b"\0\0\0\1abc", b"\0\0\0\1" + b"k" * 257]),
    (frames.parse_ready_for_query, [b"", b"X", b"II"]),
    (
        frames.parse_sasl_initial_response,
        [b"", b"S", b"S\0", b"S\0\0\0\0\2x", b"S\0\0\0\0\0x", b"S\0\xff\xff\xff\xff"],
    ),
    (frames.parse_error, [b"", b"S", b"SFATAL\0", b"\0\0", b"M\0" * 65 + b"\0"]),
]
CASES = [(parse, body) for parse, bodies in BAD for body in bodies]


@pytest.mark.parametrize(("parse", "body"), CASES, ids=lambda case: getattr(case, "__name__", None))
def test_malformed(parse: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse(body)


@given(st.sampled_from([parse for parse, _ in BAD]), st.binary(max_size=80))
def test_any_body_is_a_value_or_a_violation(parse: Callable[[bytes], Any], body: bytes) -> None:
    try:
        parse(body)
    except ProtocolViolation:
        return


# -- reading ------------------------------------------------------------------------------

LOGIN = (
    frames.authentication(Authentication.OK)
    + frames.parameter_status("server_version", "15.1")
    + frames.backend_key_data(CancelKey(1, b"abcd"))
    + frames.ready_for_query()
)
KINDS = [Kind.AUTHENTICATION, Kind.PARAMETER_STATUS, Kind.BACKEND_KEY, Kind.READY]


@pytest.mark.parametrize("step", [1, 2, 7, len(LOGIN)])
def test_reader_takes_any_split(step: int) -> None:
    reader = FrameReader(frames.TARGET_LOGIN)
    got: list[Frame] = []
    for at in range(0, len(LOGIN), step):
        reader.feed(LOGIN[at : at + step])
        while (frame := reader.next()) is not None:
            got.append(frame)
    assert [frame.kind for frame in got] == KINDS
    assert frames.parse_backend_key_data(got[2].body) == CancelKey(1, b"abcd")
    assert reader.rest() == b""


def test_what_follows_is_left_to_the_next_reader() -> None:
    reader = FrameReader(frames.TARGET_LOGIN)
    reader.feed(frames.ready_for_query() + b"T\0\0\0")
    assert reader.next() == Frame(Kind.READY, b"I")
    assert reader.rest() == b"T\0\0\0"
    assert reader.next() is None


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (frames.CLIENT_LOGIN, b"Q"),
        (frames.CLIENT_LOGIN, b"X"),
        (frames.CLIENT_LOGIN, b"\0"),  # a second StartupMessage
        (frames.CLIENT_LOGIN, b"p\0\0\0\3"),
        (frames.CLIENT_LOGIN, b"p\xff\xff\xff\xff"),
        (frames.CLIENT_LOGIN, b"p\x7f\xff\xff\xff"),
        (frames.CLIENT_LOGIN, b"p" + struct.pack("!i", 4 + 2049)),
        (frames.CLIENT_LOGIN, frames.sasl_response(b"x") * 3),
        (frames.TARGET_LOGIN, b"D"),
        (frames.TARGET_LOGIN, b"Z\0\0\0\6"),
        (frames.TARGET_LOGIN, b"K" + struct.pack("!i", 4 + 261)),
        (frames.TARGET_LOGIN, frames.parameter_status("a", "b") * 1001),
        (frames.TARGET_LOGIN, frames.parameter_status("a", "b" * 60_000) * 18),
    ],
)
def test_refused_from_the_header_on(limits: frames.Limits, data: bytes) -> None:
    assert isinstance(_read([data], limits)[-1], str)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_reader_splits_alike(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert _read([data]) == _read(pieces)


def _read(
    pieces: list[bytes], limits: frames.Limits = frames.TARGET_LOGIN
) -> list[Frame | str | None]:
    """The frames, then the violation's words, or None if there is none."""
    reader = FrameReader(limits)
    got: list[Frame | str | None] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (frame := reader.next()) is not None:
                got.append(frame)
    except ProtocolViolation as violation:
        return [*got, violation.public]
    return [*got, None]


def test_a_frame_does_not_show_its_body() -> None:
    assert "pw" not in repr(Frame(Kind.PASSWORD, b"pw\0"))
