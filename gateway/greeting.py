"""Which protocol a client speaks, by the first bytes that it sends.

A pure function over bytes that were peeked at and stay where they are. A protocol is out
as soon as a byte excludes it; where none is left, the answer is UNKNOWN. Of TLS the
ClientHello is read, for the two extensions that tell where it wants to go; whether it is
good in all else is the TLS engine's to judge.

Sources: PostgreSQL manual, 55.2 and 55.7; RFC 4253, 4.2 (SSH); RFC 8446, 4.1.2, 4.2 and 5.1
(TLS); RFC 6066, 3 (server name); RFC 7301, 3.1 (ALPN); RFC 9110, 9 (HTTP).

A client that waits for the server to speak first shows nothing: that takes a timer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, frozen

LONGEST = 16384  # bytes of a hello with its records: a post-quantum key share takes 1.6 KiB
MAX_RECORDS = 64  # pieces of a hello: libraries make one or two, and each may wake the caller
MAX_RECORD = 16384  # bytes in a record: RFC 8446, 5.1

STARTUP_LENGTHS = 8, 10_004  # bytes of a startup packet: PostgreSQL's own limits


class Spoken(enum.Enum):
    """What a client speaks; the words are those of a listener's ``protocols``, and more."""

    POSTGRESQL = "postgresql"
    SSH = "ssh"
    HTTPS = "https"
    HTTP = "http"
    UNKNOWN = "unknown"


@frozen
class Greeting:
    """How a client begins.

    What a ClientHello asks for, unproved: ``alpn``, in its order, and ``server_name`` in
    lower case, None where there is none or none that a host can have.
    """

    spoken: Spoken
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()


UNKNOWN = Greeting(Spoken.UNKNOWN)

WORDS: Mapping[bytes, Spoken] = MappingProxyType(
    {
        b"SSH-": Spoken.SSH,  # only servers may send lines before it
        **dict.fromkeys(
            (
                b"GET ",
                b"HEAD ",
                b"POST ",
                b"PUT ",
                b"DELETE ",
                b"CONNECT ",
                b"OPTIONS ",
                b"TRACE ",
                b"PATCH ",
                b"PRI ",  # HTTP/2 without TLS
            ),
            Spoken.HTTP,
        ),
    }
)

CODES: Mapping[bytes, Spoken] = MappingProxyType(
    dict.fromkeys(
        (
            b"\x00\x03",  # protocol 3, any minor version
            b"\x04\xd2\x16\x2e",  # CancelRequest
            b"\x04\xd2\x16\x2f",  # SSLRequest
            b"\x04\xd2\x16\x30",  # GSSENCRequest
        ),
        Spoken.POSTGRESQL,
    )
)

HANDSHAKE = 0x16  # the type of a TLS record
VERSION = 3  # major, of every TLS record since SSL 3
CLIENT_HELLO = 1
SERVER_NAME, ALPN = 0, 16  # extensions
HOST_NAME = 0  # type of a server name

NAME = re.compile(rb"[A-Za-z0-9_.-]{1,255}")


class _Short(Exception):
    """Undecided until the stream has ``total`` bytes."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total


class _Excluded(Exception):
    """It cannot be this protocol."""


def tell(data: bytes) -> Greeting | int:
    """How the stream that begins with *data* greets us. Raises nothing.

    An int means: undecided until the stream has that many bytes, counted from its first.
    To wait for them delays no answer; no answer changes with bytes that come later.
    """
    try:
        if data.startswith(b"\0"):
            return _postgresql(data)
        if data.startswith(b"\x16"):
            return _tls(_Records(data))
        return Greeting(_told(data, 0, WORDS))
    except _Short as short:
        return short.total
    except _Excluded:
        return UNKNOWN


def _told(data: bytes, at: int, words: Mapping[bytes, Spoken]) -> Spoken:
    """What the word at *at* stands for."""
    for word, spoken in words.items():
        if data.startswith(word, at):
            return spoken
    if any(word.startswith(data[at:]) for word in words):
        raise _Short(len(data) + 1)
    raise _Excluded


def _postgresql(data: bytes) -> Greeting:
    """A length that some startup packet has, as far as it can be seen, and then its code."""
    shortest, longest = STARTUP_LENGTHS
    least, most = (int.from_bytes(data[:4].ljust(4, fill), "big") for fill in (b"\0", b"\xff"))
    if most < shortest or least > longest:
        raise _Excluded
    return Greeting(_told(data, 4, CODES))


# -- TLS -----------------------------------------------------------------------------------


@define
class _Records:
    """The stream of handshake bytes that a run of TLS records carries."""

    _data: bytes
    _at: int = 0
    _left: int = 0
    _begun: int = 0

    def take(self, count: int) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            if not self._left:
                self._begin()
            piece = self._raw(min(count - len(taken), self._left))
            self._left -= len(piece)
            taken += piece
        return bytes(taken)

    def _begin(self) -> None:
        self._begun += 1
        if self._begun > MAX_RECORDS:
            raise _Excluded
        if self._raw(2) != bytes((HANDSHAKE, VERSION)):
            raise _Excluded
        self._left = int.from_bytes(self._raw(3)[1:], "big")
        if not 1 <= self._left <= MAX_RECORD:
            raise _Excluded

    def _raw(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if end > LONGEST:
            raise _Excluded
        if end > len(self._data):
            raise _Short(end)
        self._at = end
        return self._data[start:end]

    def end(self) -> None:
        """A hello ends with its record: nothing may follow before the server has spoken."""
        if self._left:
            raise _Excluded


def _tls(records: _Records) -> Greeting:
    if records.take(1)[0] != CLIENT_HELLO:
        raise _Excluded
    size = int.from_bytes(records.take(3), "big")
    if size > LONGEST:
        raise _Excluded
    hello = records.take(size)
    records.end()
    return _asked_for(_extensions(hello))


@define
class _Fields:
    """A cursor over what TLS calls vectors: a length, and as many bytes."""

    _data: bytes
    _at: int = 0

    def take(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if end > len(self._data):
            raise _Excluded
        self._at = end
        return self._data[start:end]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    @property
    def over(self) -> bool:
        return self._at == len(self._data)


def _extensions(hello: bytes) -> dict[int, bytes]:
    fields = _Fields(hello)
    fields.take(2 + 32)  # version and random
    fields.vector(1)  # session
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    if fields.over:
        return {}
    block = _Fields(fields.vector(2))
    if not fields.over:
        raise _Excluded
    found: dict[int, bytes] = {}
    while not block.over:
        kind = block.number(2)
        if kind in found:  # one reader would take the first, another the last
            raise _Excluded
        found[kind] = block.vector(2)
    return found


def _asked_for(extensions: Mapping[int, bytes]) -> Greeting:
    alpn = _protocols(extensions[ALPN]) if ALPN in extensions else ()
    name = _server_name(extensions[SERVER_NAME]) if SERVER_NAME in extensions else None
    spoken = Spoken.POSTGRESQL if b"postgresql" in alpn else Spoken.HTTPS
    return Greeting(spoken, name, alpn)


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    names = _list(extension)
    found = []
    while not names.over:
        found.append(names.vector(1))
    if not all(found):
        raise _Excluded
    return tuple(found)


def _server_name(extension: bytes) -> str | None:
    """The one name there is: other types were never defined, nor a second of this one."""
    names = _list(extension)
    kind, name = names.number(1), names.vector(2)
    if kind != HOST_NAME or not names.over:
        raise _Excluded
    return name.decode("ascii").lower() if NAME.fullmatch(name) else None


def _list(extension: bytes) -> _Fields:
    """The elements of an extension that is one list, which is never empty."""
    fields = _Fields(extension)
    elements = fields.vector(2)
    if not elements or not fields.over:
        raise _Excluded
    return _Fields(elements)
