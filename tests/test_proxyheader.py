"""PROXY headers, as proxies sent them, and as nobody should."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.model import IPAddress
from gateway.proxyheader import LONGEST, SIGNATURE, Header, parse

PUBLIC = "invalid PROXY protocol header"


def binary(command: int, family: int, block: bytes = b"", length: int | None = None) -> bytes:
    following = len(block) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, following) + block


def inet(source: str, destination: str = "192.0.2.1", ports: tuple[int, int] = (1, 2)) -> bytes:
    addresses = ip_address(source).packed + ip_address(destination).packed
    return addresses + struct.pack("!HH", *ports)


def inet6(source: str) -> bytes:
    return inet(source, "2001:db8::1")


IPV6_LONGEST = b"ffff:" * 7 + b"ffff"
LONGEST_LINE = b"PROXY UNKNOWN " + b" ".join([IPV6_LONGEST] * 2 + [b"65535"] * 2) + b"\r\n"
V4 = binary(0x21, 0x11, inet("203.0.113.9"))


@frozen
class Vector:
    name: str
    data: bytes
    source: str | None


VECTORS = [
    Vector(
        "haproxy, version 1",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 43580 58797\r\n",
        "127.0.0.1",
    ),
    Vector("haproxy, version 1, IPv6", b"PROXY TCP6 ::1 ::1 45450 58797\r\n", "::1"),
    Vector("haproxy, version 1, from a Unix socket", b"PROXY UNKNOWN\r\n", None),
    Vector("curl", b"PROXY TCP4 127.0.0.1 127.0.0.1 37394 56249\r\n", "127.0.0.1"),
    Vector(
        "haproxy, health check",
        bytes.fromhex("0d0a0d0a000d0a515549540a20000000"),
        None,
    ),
    Vector(
        "haproxy, version 2",
        bytes.fromhex("0d0a0d0a000d0a515549540a2111000c7f0000017f000001ec808d19"),
        "127.0.0.1",
    ),
    Vector(
        "haproxy, version 2, IPv6",
        bytes.fromhex(
            "0d0a0d0a000d0a515549540a2121002400000000000000000000000000000001"
            "00000000000000000000000000000001d90c8d19"
        ),
        "::1",
    ),
    Vector(
        "haproxy, version 2, checksum, unique id and TLS",
        bytes.fromhex(
            "0d0a0d0a000d0a515549540a211100307f0000017f000001af7ec6f703000410"
            "023e6a05001237463030303030313a414637455f30303036200005"
            "0000000000"
        ),
        "127.0.0.1",
    ),
    Vector(
        "haproxy, version 2, a health check with a checksum",
        bytes.fromhex(
            "0d0a0d0a000d0a515549540a20000012030004955e6a000500002000050000000000",
        ),
        None,
    ),
    Vector("mapped, version 1", b"PROXY TCP6 ::ffff:10.1.2.3 ::1 0 0\r\n", "10.1.2.3"),
    Vector("mapped, version 2", binary(0x21, 0x21, inet6("::ffff:10.1.2.3")), "10.1.2.3"),
    Vector("upper case", b"PROXY TCP6 2001:DB8::A 2001:DB8::B 1 2\r\n", "2001:db8::a"),
    Vector("the longest line", LONGEST_LINE, None),
    Vector("unknown, and odd bytes", b"PROXY UNKNOWN \xff\0  x\r\n", None),
    Vector("the highest port", b"PROXY TCP4 1.2.3.4 5.6.7.8 65535 65535\r\n", "1.2.3.4"),
    Vector("over UDP", binary(0x21, 0x12, inet("203.0.113.9")), "203.0.113.9"),
    Vector("over UDP, IPv6", binary(0x21, 0x22, inet6("2001:db8::9")), "2001:db8::9"),
    Vector("unspecified", binary(0x21, 0x00), None),
    Vector("unspecified, with something to skip", binary(0x21, 0x00, b"skip me"), None),
    Vector("a Unix socket", binary(0x21, 0x31, b"/run/x".ljust(216, b"\0")), None),
    Vector("a Unix datagram socket", binary(0x21, 0x32, bytes(216)), None),
    Vector("local, the family is ignored", binary(0x20, 0xFF, b"any"), None),
    Vector("local, an address is ignored", binary(0x20, 0x11, inet("203.0.113.9")), None),
    Vector(
        "the longest header",
        binary(0x21, 0x11, inet("203.0.113.9").ljust(LONGEST - 16, b"\x04")),
        "203.0.113.9",
    ),
]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


def expected(vector: Vector) -> Header:
    return Header(len(vector.data), ip_address(vector.source) if vector.source else None)


def waited(data: bytes) -> tuple[list[int], Header]:
    """What a caller goes through that looks at exactly what it was told to wait for."""
    waits, outcome = [], parse(b"")
    while isinstance(outcome, int):
        waits.append(outcome)
        assert outcome <= len(data), "waits for more than there will be"
        outcome = parse(data[:outcome])
    return waits, outcome


@by_name
@pytest.mark.parametrize("tail", [b"", b"\0\0\0\x08", b"\r\n", V4], ids=repr)
def test_whole_and_with_a_tail(vector: Vector, tail: bytes) -> None:
    assert parse(vector.data + tail) == expected(vector)


@by_name
def test_byte_by_byte(vector: Vector) -> None:
    *early, last = (parse(vector.data[:end]) for end in range(len(vector.data) + 1))
    assert last == expected(vector)
    for seen, wanted in enumerate(early):
        assert isinstance(wanted, int)
        assert seen < wanted <= len(vector.data)


@by_name
def test_waiting_for_what_is_wanted_gets_there(vector: Vector) -> None:
    _, header = waited(vector.data + b"tail")
    assert header == expected(vector)


def test_a_binary_header_is_waited_for_as_a_whole() -> None:
    assert waited(V4)[0] == [*range(1, 13), 16, 28]


BAD_LINES = [
    b"PROXY \r\n",
    b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1  2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY unknown\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP6 ::1 5.6.7.8 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP6 ::1::2 ::1 1 2\r\n",
    b"PROXY TCP6 [::1] ::1 1 2\r\n",
    b"PROXY TCP6 2001:db8::12345 ::1 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4/8 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 localhost 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 \xd9\xa1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 \xd9\xa1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 00 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
    b"PROXY TCP4 1.2.3.4\r5.6.7.8 1 2\r\n",
    b"PROXY UNKNOWN \n\r\n",
    LONGEST_LINE.replace(b"\r\n", b"ff"),
    LONGEST_LINE.replace(b"\r\n", b"f\r\n"),
]


@pytest.mark.parametrize("data", BAD_LINES, ids=repr)
def test_a_bad_line(data: bytes) -> None:
    for tail in (b"", b"x" * 200):
        with pytest.raises(ProtocolViolation) as refused:
            parse(data + tail)
        assert refused.value.public == PUBLIC


@pytest.mark.parametrize(
    "data",
    [
        binary(0x11, 0x11, inet("203.0.113.9")),
        binary(0x31, 0x11, inet("203.0.113.9")),
        binary(0x22, 0x11, inet("203.0.113.9")),
        binary(0x2F, 0x00),
        binary(0x21, 0x10, inet("203.0.113.9")),
        binary(0x21, 0x13, inet("203.0.113.9")),
        binary(0x21, 0x01, inet("203.0.113.9")),
        binary(0x21, 0x41, inet("203.0.113.9")),
        binary(0x21, 0x11, inet("203.0.113.9")[:-1]),
        binary(0x21, 0x21, inet("203.0.113.9")),
        binary(0x21, 0x21, inet6("2001:db8::9")[:-1]),
        binary(0x21, 0x12, inet("203.0.113.9")[:-1]),
        binary(0x21, 0x22, inet6("2001:db8::9")[:-1]),
        binary(0x21, 0x31, bytes(215)),
        binary(0x21, 0x32, bytes(215)),
        binary(0x21, 0x11, length=LONGEST - 15),
        binary(0x20, 0x00, length=LONGEST - 15),
        binary(0x21, 0x11, length=0xFFFF),
    ],
    ids=lambda data: data[12:16].hex(),
)
def test_a_bad_binary_header_is_refused_before_its_addresses_are_waited_for(data: bytes) -> None:
    assert parse(data[:15]) == 16
    with pytest.raises(ProtocolViolation) as refused:
        parse(data[:16])
    assert refused.value.public == PUBLIC


OTHERS = [
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"GET / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b" PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\nPROXY",
    b"PROXY\tTCP4",
    b"PROXY\r\n",
    b"\r\nPROXY",
    SIGNATURE[:-1] + b"\r",
]


@pytest.mark.parametrize("data", OTHERS, ids=repr)
def test_anything_else_is_refused_at_the_first_byte_that_tells(data: bytes) -> None:
    telling = next(
        seen
        for seen in range(1, len(data) + 1)
        if not any(start.startswith(data[:seen]) for start in (b"PROXY ", SIGNATURE))
    )
    assert parse(data[: telling - 1]) == telling
    for seen in range(telling, len(data) + 1):
        with pytest.raises(ProtocolViolation):
            parse(data[:seen])


def test_what_was_sent_is_not_repeated() -> None:
    with pytest.raises(ProtocolViolation) as refused:
        parse(b"PROXY TCP4 \x1b[2J 5.6.7.8 1 2\r\n")
    assert "\x1b" not in refused.value.public + refused.value.detail


# -- properties ----------------------------------------------------------------------------

PORTS = st.integers(0, 65535)
ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


def unmapped(address: IPAddress) -> IPAddress:
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


@given(ADDRESSES, PORTS, PORTS, st.binary(max_size=300))
def test_every_address_comes_through(addresses, source_port, destination_port, tlvs) -> None:
    source, destination = addresses
    ipv4 = isinstance(source, IPv4Address)
    name, family = ("TCP4", 0x11) if ipv4 else ("TCP6", 0x21)
    line = f"PROXY {name} {source} {destination} {source_port} {destination_port}\r\n".encode()
    assert parse(line) == Header(len(line), unmapped(source))
    block = inet(str(source), str(destination), (source_port, destination_port))
    header = binary(0x21, family, block + tlvs)
    assert parse(header) == Header(len(header), unmapped(source))


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good header with some bytes that are not its own, or none."""
    data = bytearray(draw(st.sampled_from(VECTORS)).data[:200])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


STREAMS = st.one_of(
    spoilt(),
    st.binary(max_size=40),
    st.binary(max_size=120).map(lambda data: b"PROXY " + data),
    st.binary(max_size=120).map(lambda data: SIGNATURE + data),
)


def outcome(data: bytes) -> Header | int | None:
    """None for a violation; any other exception is a failure."""
    try:
        return parse(data)
    except ProtocolViolation:
        return None


@given(STREAMS)
def test_no_split_changes_the_outcome_and_no_wait_delays_it(data: bytes) -> None:
    seen = 0
    while isinstance(now := outcome(data[:seen]), int):
        assert seen < now <= LONGEST
        for fewer in range(seen, min(now, len(data) + 1)):
            assert outcome(data[:fewer]) == now
        if now > len(data):
            return
        seen = now
    for more in range(seen, len(data) + 1):
        assert outcome(data[:more]) == now
    assert now is None or now.length == seen
