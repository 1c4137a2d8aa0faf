"""What a client says before it is anyone (PostgreSQL manual, 55.2.1 and 55.7).

One :class:`Startup` per connection turns bytes into :data:`Packet` values. What may follow
what is :data:`TRANSITIONS`. Whether TLS is required is the edge's decision, not ours.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from gateway.contracts import CancelKey
from gateway.errors import NotAllowed, ProtocolViolation
from gateway.pg import frames

MAX_BODY = 10_000  # bytes behind the length: PostgreSQL's MAX_STARTUP_PACKET_LENGTH
NEWEST_MINOR = 2  # protocol 3.2
TLS_HANDSHAKE = 0x16  # as a length it would mean 369 MB, so the two cannot be confused


@frozen
class TlsHello:
    """Direct TLS: ``data`` is what was read of it and belongs to the TLS engine."""

    data: bytes = field(repr=False)


@frozen
class SslRequest:
    """Answer with :meth:`Startup.answer`."""


@frozen
class GssRequest:
    """Answer with :meth:`Startup.answer`; only no is possible."""


@frozen
class StartupMessage:
    """Who and what the client names, unproved.

    ``parameters`` in the client's order, undecodable bytes as surrogate escapes, without
    the ``_pq_.`` options; ``minor`` is the protocol 3 minor version to speak; ``reply`` is
    the NegotiateProtocolVersion to send first, empty if the client asked for nothing odd.
    """

    parameters: tuple[tuple[str, str], ...]
    minor: int = 0
    reply: bytes = b""


Packet = TlsHello | SslRequest | GssRequest | CancelKey | StartupMessage


class State(enum.Enum):
    START = "nothing said"
    TLS_HELLO = "TLS begun"
    SSL_ASKED = "TLS asked for"
    GSS_ASKED = "GSS encryption asked for"
    SSL_REFUSED = "TLS refused"
    GSS_REFUSED = "GSS encryption refused"
    SSL_ASKED_LAST = "TLS asked for after GSS encryption"
    GSS_ASKED_LAST = "GSS encryption asked for after TLS"
    CLEAR = "both refused"
    SECURED = "inside TLS"
    DONE = "over"


_LAST: Mapping[type, State] = MappingProxyType({StartupMessage: State.DONE, CancelKey: State.DONE})

TRANSITIONS: Mapping[State, Mapping[type, State]] = MappingProxyType(
    {
        State.START: {
            TlsHello: State.TLS_HELLO,
            SslRequest: State.SSL_ASKED,
            GssRequest: State.GSS_ASKED,
            **_LAST,
        },
        State.SSL_REFUSED: {GssRequest: State.GSS_ASKED_LAST, **_LAST},
        State.GSS_REFUSED: {SslRequest: State.SSL_ASKED_LAST, **_LAST},
        State.CLEAR: _LAST,
        State.SECURED: _LAST,
    }
)
"""Which packet may come in which state, and what follows. Any other is a violation."""

ANSWERS: Mapping[tuple[State, bool], State] = MappingProxyType(
    {
        (State.TLS_HELLO, True): State.SECURED,
        (State.SSL_ASKED, True): State.SECURED,
        (State.SSL_ASKED, False): State.SSL_REFUSED,
        (State.SSL_ASKED_LAST, True): State.SECURED,
        (State.SSL_ASKED_LAST, False): State.CLEAR,
        (State.GSS_ASKED, False): State.GSS_REFUSED,
        (State.GSS_ASKED_LAST, False): State.CLEAR,
    }
)
"""What our yes or no leads to."""


@define
class Startup:
    """Feed :meth:`receive`, answer requests with :meth:`answer`, until ``state`` is DONE."""

    state: State = field(default=State.START, init=False)
    _buffer: bytearray = field(factory=bytearray, repr=False, init=False)

    def receive(self, data: bytes) -> Packet | None:
        """The next packet, None if more is needed.

        :raises ProtocolViolation: malformed, out of place, or bytes waiting where none may
        :raises NotAllowed: no user is named
        """
        if self.state not in TRANSITIONS:
            raise ProtocolViolation(f"received data out of turn ({self.state.value})")
        self._buffer += data
        packet = self._packet()
        if packet is not None:
            self._advance(packet)
        return packet

    def _packet(self) -> Packet | None:
        if self.state is State.START and self._buffer[:1] == bytes((TLS_HANDSHAKE,)):
            return TlsHello(self.rest())
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big", signed=True)
        if not 8 <= length <= 4 + MAX_BODY:
            raise ProtocolViolation("invalid length of startup packet")
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[4:length])
        del self._buffer[:length]
        return _parse(body)

    def _advance(self, packet: Packet) -> None:
        following = TRANSITIONS[self.state].get(type(packet))
        if following is None:
            raise ProtocolViolation(f"{type(packet).__name__} out of place ({self.state.value})")
        # What waits behind a request was not encrypted, and may be anybody's (CVE-2021-23214).
        if self._buffer and not isinstance(packet, StartupMessage):
            raise ProtocolViolation(f"received unencrypted data after {type(packet).__name__}")
        self.state = following

    def answer(self, accepted: bool) -> bytes:
        """The byte to send for a request (none for direct TLS).

        With *accepted*, feed :meth:`receive` only what came out of TLS from here on.
        """
        asked, self.state = self.state, ANSWERS[self.state, accepted]
        if asked is State.TLS_HELLO:
            return b""
        return b"S" if accepted else b"N"

    def rest(self) -> bytes:
        """What was received behind a StartupMessage; forgotten here."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def _parse(body: bytes) -> Packet:
    (code,) = struct.unpack_from("!i", body)
    if code == frames.CANCEL_CODE:
        return _cancel_key(body[4:])
    if code in (frames.SSL_CODE, frames.GSSENC_CODE):
        if len(body) != 4:
            raise ProtocolViolation("invalid length of encryption request")
        return SslRequest() if code == frames.SSL_CODE else GssRequest()
    return _startup_message(code, body[4:])


def _cancel_key(body: bytes) -> CancelKey:
    if not 4 + frames.MIN_SECRET <= len(body) <= 4 + frames.MAX_SECRET:
        raise ProtocolViolation("invalid length of cancel request")
    (process_id,) = struct.unpack_from("!I", body)
    return CancelKey(process_id, body[4:])


def _startup_message(version: int, body: bytes) -> StartupMessage:
    minor = _negotiated(version)
    named = _parameters(body)
    unrecognised = tuple(name for name, _ in named if name.startswith("_pq_."))
    parameters = tuple(pair for pair in named if not pair[0].startswith("_pq_."))
    if not dict(parameters).get("user"):
        words = "no PostgreSQL user name specified in startup packet"
        raise NotAllowed(words, words)
    if minor == version & 0xFFFF and not unrecognised:
        return StartupMessage(parameters, minor)
    reply = frames.negotiate_protocol_version(frames.PROTOCOL_3_0 | minor, unrecognised)
    return StartupMessage(parameters, minor, reply)


def _negotiated(version: int) -> int:
    major, minor = version >> 16 & 0xFFFF, version & 0xFFFF
    if major != 3:
        raise ProtocolViolation(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"
        )
    return 0 if minor < NEWEST_MINOR else NEWEST_MINOR  # 3.1 is reserved and never existed


def _parameters(body: bytes) -> tuple[tuple[str, str], ...]:
    """Pairs of NUL-terminated strings, then exactly one NUL, then nothing."""
    if body == b"\0":
        return ()
    if not body.endswith(b"\0\0"):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    texts = [text.decode("utf-8", "surrogateescape") for text in body[:-2].split(b"\0")]
    if len(texts) % 2 or not all(texts[::2]):
        raise ProtocolViolation("invalid startup packet layout: a name or a value is missing")
    pairs = tuple(zip(texts[::2], texts[1::2], strict=True))
    if len(dict(pairs)) != len(pairs):  # the last would win in one place, the first in another
        raise ProtocolViolation("invalid startup packet layout: a parameter is repeated")
    return pairs
