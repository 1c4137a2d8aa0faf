"""The first packets, as clients sent them, and as nobody should."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts import CancelKey
from gateway.errors import NotAllowed, ProtocolViolation, Refused
from gateway.pg import frames
from gateway.pg.startup import (
    ANSWERS,
    TRANSITIONS,
    GssRequest,
    Packet,
    SslRequest,
    Startup,
    StartupMessage,
    State,
    TlsHello,
)

SSL = bytes.fromhex("0000000804d2162f")
GSS = bytes.fromhex("0000000804d21630")
CANCEL = bytes.fromhex("0000001004d2162e") + struct.pack("!I", 4242) + b"\xde\xad\xbe\xef"
CANCEL_256 = bytes.fromhex("0000010c04d2162e") + struct.pack("!I", 4242) + b"k" * 256
HELLO = bytes.fromhex("160301020001000001fc0303")
MINIMAL = frames.startup_message([("user", "alice")])


@frozen
class Vector:
    name: str
    data: bytes
    packet: Packet


VECTORS = [
    Vector("SSLRequest", SSL, SslRequest()),
    Vector("GSSENCRequest", GSS, GssRequest()),
    Vector("CancelRequest", CANCEL, CancelKey(4242, b"\xde\xad\xbe\xef")),
    Vector("CancelRequest of 3.2", CANCEL_256, CancelKey(4242, b"k" * 256)),
    Vector(
        "psql 15",
        bytes.fromhex(
            "0000007d000300007573657200616c696365236f726465727300646174616261736500616c6963"
            "65236f7264657273006f7074696f6e73002d63206765716f3d6f6666006170706c69636174696f"
            "6e5f6e616d65007073716c00636c69656e745f656e636f64696e6700555446380074696d657a6f"
            "6e65005554430000"
        ),
        StartupMessage(
            (
                ("user", "alice#orders"),
                ("database", "alice#orders"),
                ("options", "-c geqo=off"),
                ("application_name", "psql"),
                ("client_encoding", "UTF8"),
                ("timezone", "UTC"),
            )
        ),
    ),
    Vector(
        "libpq 18, max_protocol_version=latest",
        bytes.fromhex(
            "00000033000300027573657200616c6963652f6170705f726f006461746162617365006f726465"
            "72732f7265706f7274730000"
        ),
        StartupMessage((("user", "alice/app_ro"), ("database", "orders/reports")), minor=2),
    ),
    Vector(
        "asyncpg",
        bytes.fromhex(
            "0000003c00030000636c69656e745f656e636f64696e6700277574662d3827007573657200616c"
            "696365006461746162617365006f72646572730000"
        ),
        StartupMessage((("client_encoding", "'utf-8'"), ("user", "alice"), ("database", "orders"))),
    ),
    Vector(
        "not UTF-8",
        b"\0\0\0\x1a\0\3\0\0user\0a\0options\0\xe4\0\0",
        StartupMessage((("user", "a"), ("options", "\udce4"))),
    ),
]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


@by_name
def test_whole(vector: Vector) -> None:
    assert Startup().receive(vector.data) == vector.packet


@by_name
def test_byte_by_byte(vector: Vector) -> None:
    startup = Startup()
    *early, last = (startup.receive(bytes((octet,))) for octet in vector.data)
    assert set(early) == {None}
    assert last == vector.packet


@by_name
def test_with_a_tail(vector: Vector) -> None:
    startup = Startup()
    if isinstance(vector.packet, StartupMessage):
        assert startup.receive(vector.data + b"tail") == vector.packet
        assert startup.rest() == b"tail"
        assert startup.rest() == b""
    else:
        with pytest.raises(ProtocolViolation, match="unencrypted data"):
            startup.receive(vector.data + b"t")


def test_direct_tls_is_known_by_its_first_byte() -> None:
    assert Startup().receive(HELLO[:1]) == TlsHello(HELLO[:1])
    assert Startup().receive(HELLO) == TlsHello(HELLO)


PACKETS = {
    SslRequest: SSL,
    GssRequest: GSS,
    CancelKey: CANCEL,
    TlsHello: HELLO,
    StartupMessage: MINIMAL,
}


def walks() -> Iterator[tuple[State, Startup, type]]:
    """A fresh machine in every state that can be reached, with each packet to try there."""
    ways: list[tuple[tuple[bytes, bool | None], ...]] = [()]
    for way in ways:
        state = _walked(way).state
        for kind, data in PACKETS.items():
            if state not in (State.TLS_HELLO, State.DONE):
                yield state, _walked(way), kind
            following = TRANSITIONS.get(state, {}).get(kind)
            answers = [yes for yes in (True, False) if following and (following, yes) in ANSWERS]
            ways.extend((*way, (data, yes)) for yes in answers)


def _walked(way: tuple[tuple[bytes, bool | None], ...]) -> Startup:
    startup = Startup()
    for data, yes in way:
        startup.receive(data)
        if yes is not None:
            startup.answer(yes)
    return startup


def test_every_state_admits_what_its_row_says() -> None:
    seen = set()
    for state, startup, kind in walks():
        seen.add(state)
        if kind in TRANSITIONS[state]:
            assert type(startup.receive(PACKETS[kind])) is kind
            assert startup.state is TRANSITIONS[state][kind]
        else:
            with pytest.raises(ProtocolViolation):
                startup.receive(PACKETS[kind])
    assert seen == TRANSITIONS.keys()


@pytest.mark.parametrize(
    ("first", "answer", "following"),
    [(SSL, b"N", GSS), (GSS, b"N", SSL), (SSL, b"S", MINIMAL), (HELLO, b"", MINIMAL)],
)
def test_answers(first: bytes, answer: bytes, following: bytes) -> None:
    startup = Startup()
    startup.receive(first)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        startup.receive(b"\0")
    assert startup.answer(answer != b"N") == answer
    assert startup.receive(following) is not None


def test_nothing_follows_a_cancel() -> None:
    startup = Startup()
    startup.receive(CANCEL)
    with pytest.raises(ProtocolViolation):
        startup.receive(b"x")


def sized(body: bytes) -> bytes:
    return struct.pack("!i", len(body) + 4) + body


V3 = b"\0\3\0\0"

MALFORMED = {
    "length 7": b"\0\0\0\7",
    "length 0": b"\0\0\0\0",
    "negative length": b"\xff\xff\xff\xff",
    "length 10,005": struct.pack("!i", 10_005),
    "HTTP": b"GET / HTTP/1.1",
    "SSLRequest with a body": sized(SSL[4:] + b"x"),
    "cancel without a secret": sized(CANCEL[4:12]),
    "cancel with 3 bytes": sized(CANCEL[4:15]),
    "cancel with 257 bytes": sized(CANCEL_256[4:] + b"k"),
    "nothing": sized(V3),
    "no terminator": sized(V3 + b"user\0alice\0"),
    "unterminated value": sized(V3 + b"user\0alice"),
    "name without value": sized(V3 + b"user\0alice\0database\0\0"),
    "empty name": sized(V3 + b"user\0alice\0\0x\0\0"),
    "two terminators": sized(V3 + b"user\0alice\0\0\0"),
    "only terminators": sized(V3 + b"\0\0"),
    "user twice": sized(V3 + b"user\0alice\0user\0bob\0\0"),
    "protocol 2": sized(b"\0\2\0\0" + b"x" * 288),
    "protocol 4": sized(b"\0\4\0\0user\0alice\0\0"),
    "negative protocol": sized(b"\xff\xff\0\0user\0alice\0\0"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Startup().receive(data)


def test_a_length_is_judged_before_its_body_comes() -> None:
    startup = Startup()
    assert startup.receive(b"\x7f\xff\xff") is None
    with pytest.raises(ProtocolViolation, match="length"):
        startup.receive(b"\xff")


def test_the_longest_startup() -> None:
    room = 10_000 - len(MINIMAL[4:]) - len(b"options\0\0")
    longest = frames.startup_message([("user", "alice"), ("options", "x" * room)])
    assert len(longest) == 10_004
    assert isinstance(Startup().receive(longest), StartupMessage)


@pytest.mark.parametrize("body", [b"\0", b"user\0\0\0", b"database\0orders\0\0"])
def test_no_user(body: bytes) -> None:
    with pytest.raises(NotAllowed, match="no PostgreSQL user name"):
        Startup().receive(sized(V3 + body))


@pytest.mark.parametrize(
    ("asked", "options", "minor", "told"),
    [
        (0, [], 0, None),
        (2, [], 2, None),
        (1, [], 0, 0),
        (3, [], 2, 2),
        (9999, [], 2, 2),
        (0, ["_pq_.cursor"], 0, 0),
        (2, ["_pq_.b", "_pq_.a"], 2, 2),
    ],
)
def test_negotiation(asked: int, options: list[str], minor: int, told: int | None) -> None:
    pairs = [(name, "1") for name in options]
    packet = Startup().receive(frames.startup_message([("user", "a"), *pairs], 3 << 16 | asked))
    assert isinstance(packet, StartupMessage)
    assert packet.minor == minor
    assert packet.parameters == (("user", "a"),)
    expected = frames.negotiate_protocol_version(3 << 16 | (told or 0), options)
    assert packet.reply == (b"" if told is None else expected)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(st.dictionaries(TEXT.filter(lambda name: not name.startswith("_pq_.")), TEXT | st.just("")))
def test_parameters_come_back(parameters: dict[str, str]) -> None:
    parameters["user"] = "alice"
    packet = Startup().receive(frames.startup_message(parameters.items(), 3 << 16 | 2))
    assert packet == StartupMessage(tuple(parameters.items()), minor=2)


@given(st.binary(max_size=60), st.sampled_from([b"", V3, SSL[4:], CANCEL[4:8]]), st.data())
def test_any_bytes_in_any_pieces(tail: bytes, head: bytes, data: st.DataObject) -> None:
    """Splits change nothing, except where a tail is the violation and has yet to come."""
    stream = sized(head + tail) if head else tail
    cut = data.draw(st.integers(0, len(stream)))
    whole, pieces = _outcome(stream), _outcome(stream[:cut], stream[cut:])
    assert pieces == whole or isinstance(whole, type)


def test_tls_begins_with_its_first_byte() -> None:
    assert Startup().receive(b"\x16") == TlsHello(b"\x16")
    assert _outcome(b"\x16", b"\0") == _outcome(b"\x16\0") == TlsHello(b"\x16\0")


def _outcome(*chunks: bytes) -> Packet | type | None:
    startup, coming = Startup(), list(chunks)
    try:
        while coming:
            packet = startup.receive(coming.pop(0))
            if isinstance(packet, TlsHello):  # what follows goes to the TLS engine as well
                return TlsHello(packet.data + b"".join(coming))
            if packet is not None:
                return packet
    except Refused as refused:
        return type(refused)
    return None
