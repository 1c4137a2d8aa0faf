"""What a proxy in front of us says of the client: the PROXY protocol, versions 1 and 2.

Source: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt. A pure function over
bytes that were peeked at and stay where they are. Who may send a header is the caller's to
know: from anybody but a trusted proxy it is a lie about an address. A trusted proxy must
send one: whether there is a header is never guessed.

The type-length-values behind the addresses are skipped. So is the checksum among them: TCP
has its own against accidents, and neither helps against intent.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType

from attrs import frozen

from gateway.errors import ProtocolViolation
from gateway.model import IPAddress, unmapped

MAX_LINE = 107  # bytes of a version 1 header with its CRLF: the specification's longest line
LONGEST = 4096  # bytes of a header: 536 are promised, names out of certificates may need more

LINE_START = b"PROXY "
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = 16  # bytes of a version 2 header before its addresses
LOCAL, PROXY = 0x20, 0x21  # version 2 and the command

LINE_FAMILIES: Mapping[bytes, type[IPv4Address] | type[IPv6Address]] = MappingProxyType(
    {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
)
PORT = re.compile(r"0|[1-9][0-9]{0,4}")

BLOCKS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {
        0x00: (0, 0),
        0x11: (4, 12),
        0x12: (4, 12),
        0x21: (16, 36),
        0x22: (16, 36),
        0x31: (0, 216),
        0x32: (0, 216),
    }
)
"""By family and transport: bytes of the source's IP address, and of all addresses and ports."""


@frozen
class Header:
    """A whole header: ``length`` bytes, to be taken off the stream.

    ``source`` is the client's address, IPv4 again if it came mapped; None: the proxy speaks
    for itself (a health check) or does not know, and the connection's own peer stands.
    """

    length: int
    source: IPAddress | None


def parse(data: bytes) -> Header | int:
    """The header at the beginning of the stream that begins with *data*.

    An int means: undecided until the stream has that many bytes, counted from its first.
    To wait for them delays no outcome; no outcome changes with bytes that come later.

    :raises ProtocolViolation: this is no header, or none that we take
    """
    if _may_become(data, LINE_START):
        return _line(data)
    if _may_become(data, SIGNATURE):
        return _binary(data)
    raise _violation("there is none")


def _may_become(data: bytes, start: bytes) -> bool:
    return data[: len(start)] == start[: len(data)]


def _violation(why: str) -> ProtocolViolation:
    return ProtocolViolation("invalid PROXY protocol header", f"PROXY protocol header: {why}")


# -- version 1 -----------------------------------------------------------------------------


def _line(data: bytes) -> Header | int:
    line, _, rest = data[:MAX_LINE].partition(b"\r")
    if b"\n" in line or rest[:1] not in (b"", b"\n"):
        raise _violation("a line ends in CR and LF")
    if rest:
        return Header(len(line) + 2, _line_source(line))
    if len(data) >= MAX_LINE:
        raise _violation("the line is too long")
    return len(data) + 1


def _line_source(line: bytes) -> IPAddress | None:
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return None  # whatever follows is to be ignored
    family = LINE_FAMILIES.get(words[1])
    if family is None:
        raise _violation("the protocol is not TCP4, TCP6 or UNKNOWN")
    if len(words) != 6:
        raise _violation("two addresses and two ports are wanted, single spaces between them")
    try:
        source, _ = (_address(word.decode("ascii"), family) for word in words[2:4])
        _, _ = (_port(word.decode("ascii")) for word in words[4:6])
    except ValueError:
        raise _violation("an address or a port is malformed") from None
    return source


def _address(text: str, family: type[IPv4Address] | type[IPv6Address]) -> IPAddress:
    """:raises ValueError: *text* is no address of *family*"""
    if "%" in text:  # a zone means something on the proxy only
        raise ValueError
    return unmapped(family(text))


def _port(text: str) -> int:
    """:raises ValueError: *text* is no port"""
    if not PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError
    return int(text)


# -- version 2 -----------------------------------------------------------------------------


def _binary(data: bytes) -> Header | int:
    if len(data) < len(SIGNATURE):
        return len(data) + 1
    if len(data) < FIXED:
        return FIXED
    command, family, following = struct.unpack_from("!BBH", data, len(SIGNATURE))
    length: int = FIXED + following
    if length > LONGEST:
        raise _violation("it is too long")
    size = _source_size(command, family, following)
    if len(data) < length:
        return length
    source = data[FIXED : FIXED + size]
    return Header(length, unmapped(ip_address(source)) if source else None)


def _source_size(command: int, family: int, following: int) -> int:
    """Bytes of the source's IP address, which comes first; 0 if there is none to use."""
    if command == LOCAL:
        return 0  # the family is to be ignored, and what follows to be skipped
    if command != PROXY:
        raise _violation("the version is not 2, or the command not LOCAL or PROXY")
    if family not in BLOCKS:
        raise _violation("the address family or the transport is unknown")
    size, block = BLOCKS[family]
    if following < block:
        raise _violation("the addresses are cut short")
    return size
