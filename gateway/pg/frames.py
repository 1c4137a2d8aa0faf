"""Messages of protocol 3, as bytes and back (PostgreSQL manual, 55.7 "Message Formats").

Encoders return whole messages; decoders take a body (what follows type and length) and
raise ProtocolViolation. Text is UTF-8; what is not, travels as surrogate escapes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from gateway.contracts import CancelKey
from gateway.errors import ProtocolViolation

PROTOCOL_3_0 = 3 << 16
SSL_CODE = 1234 << 16 | 5679
GSSENC_CODE = 1234 << 16 | 5680
CANCEL_CODE = 1234 << 16 | 5678

MIN_SECRET, MAX_SECRET = 4, 256  # bytes of a cancel secret: protocol 3.0 has 4, 3.2 up to 256
MAX_MECHANISMS = 16  # SASL mechanisms in one offer; PostgreSQL names at most three
MAX_FIELDS = 64  # fields of an ErrorResponse; the manual knows 18

Parameters = Iterable[tuple[str, str]]


class Kind(enum.IntEnum):
    """Message types by their byte, as far as a log-in needs them."""

    AUTHENTICATION = ord("R")
    BACKEND_KEY = ord("K")
    ERROR = ord("E")
    NEGOTIATE = ord("v")
    NOTICE = ord("N")
    PARAMETER_STATUS = ord("S")
    PASSWORD = ord("p")  # and SASLInitialResponse and SASLResponse
    QUERY = ord("Q")
    READY = ord("Z")
    TERMINATE = ord("X")


class Authentication(enum.IntEnum):
    """What an AuthenticationRequest asks for."""

    OK = 0
    CLEARTEXT = 3
    MD5 = 5
    GSS = 7
    SSPI = 9
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


# -- messages without a type ---------------------------------------------------------------


def startup_message(parameters: Parameters, version: int = PROTOCOL_3_0) -> bytes:
    pairs = b"".join(_cstring(name) + _cstring(value) for name, value in parameters)
    return _sized(struct.pack("!i", version) + pairs + b"\0")


def ssl_request() -> bytes:
    return _sized(struct.pack("!i", SSL_CODE))


def gssenc_request() -> bytes:
    return _sized(struct.pack("!i", GSSENC_CODE))


def cancel_request(key: CancelKey) -> bytes:
    return _sized(struct.pack("!iI", CANCEL_CODE, key.process_id) + key.secret)


# -- what a client says --------------------------------------------------------------------


def password_message(password: bytes) -> bytes:
    """Also for an MD5 answer. *password* must hold no NUL."""
    return message(Kind.PASSWORD, password + b"\0")


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return message(Kind.PASSWORD, _cstring(mechanism) + struct.pack("!i", len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    return message(Kind.PASSWORD, data)


def query(sql: str) -> bytes:
    return message(Kind.QUERY, _cstring(sql))


def terminate() -> bytes:
    return message(Kind.TERMINATE)


# -- what a server says --------------------------------------------------------------------


def authentication(kind: Authentication, data: bytes = b"") -> bytes:
    """*data*: the salt of MD5, the message of SASL_CONTINUE and SASL_FINAL."""
    return message(Kind.AUTHENTICATION, struct.pack("!i", kind) + data)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    names = b"".join(map(_cstring, mechanisms))
    return authentication(Authentication.SASL, names + b"\0")


def error_response(
    severity: str, sqlstate: str, text: str, detail: str = "", hint: str = ""
) -> bytes:
    """*severity* (FATAL, ERROR) goes out both localised (S) and not (V)."""
    parts = {"S": severity, "V": severity, "C": sqlstate, "M": text, "D": detail, "H": hint}
    fields = b"".join(code.encode() + _cstring(part) for code, part in parts.items() if part)
    return message(Kind.ERROR, fields + b"\0")


def parameter_status(name: str, value: str) -> bytes:
    return message(Kind.PARAMETER_STATUS, _cstring(name) + _cstring(value))


def backend_key_data(key: CancelKey) -> bytes:
    return message(Kind.BACKEND_KEY, struct.pack("!I", key.process_id) + key.secret)


def ready_for_query(status: bytes = b"I") -> bytes:
    return message(Kind.READY, status)


def negotiate_protocol_version(version: int, unrecognised: Iterable[str]) -> bytes:
    """*version* is major and minor, as PostgreSQL sends it (the manual says minor only)."""
    names = tuple(unrecognised)
    head = struct.pack("!ii", version, len(names))
    return message(Kind.NEGOTIATE, head + b"".join(map(_cstring, names)))


def message(kind: int, body: bytes = b"") -> bytes:
    return bytes((kind,)) + _sized(body)


def _sized(body: bytes) -> bytes:
    return struct.pack("!i", len(body) + 4) + body


def _cstring(text: str) -> bytes:
    """A NUL inside would begin a field of the peer's choosing."""
    return text.replace("\0", "").encode("utf-8", "surrogateescape") + b"\0"


# -- what a client said --------------------------------------------------------------------


def parse_sasl_initial_response(body: bytes) -> tuple[str, bytes]:
    """The mechanism and client-first-message."""
    name, nul, rest = body.partition(b"\0")
    if not nul or len(rest) < 4:
        raise _malformed("SASLInitialResponse")
    (length,) = struct.unpack_from("!i", rest)
    if length != len(rest) - 4:  # -1 stands for "no data", which SCRAM cannot begin with
        raise _malformed("SASLInitialResponse")
    return _text(name), rest[4:]


# -- what a target said --------------------------------------------------------------------


def parse_authentication(body: bytes) -> tuple[Authentication, bytes]:
    """What is asked for, and its data."""
    if len(body) < 4:
        raise _malformed("AuthenticationRequest")
    (code,) = struct.unpack_from("!i", body)
    if code not in frozenset(Authentication):
        raise ProtocolViolation(f"unknown authentication request {code}")
    kind, data = Authentication(code), body[4:]
    expected = _AUTHENTICATION_DATA.get(kind)
    if expected is not None and len(data) != expected:
        raise _malformed("AuthenticationRequest")
    return kind, data


_AUTHENTICATION_DATA = {Authentication.OK: 0, Authentication.CLEARTEXT: 0, Authentication.MD5: 4}


def parse_mechanisms(data: bytes) -> tuple[str, ...]:
    """The data of AuthenticationSASL."""
    names = _strings(data, "AuthenticationSASL")
    if not names or names[-1] or not all(names[:-1]) or not 1 < len(names) <= MAX_MECHANISMS + 1:
        raise _malformed("AuthenticationSASL")
    return names[:-1]


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    match _strings(body, "ParameterStatus"):
        case (name, value) if name:
            return name, value
    raise _malformed("ParameterStatus")


def parse_backend_key_data(body: bytes) -> CancelKey:
    if not 4 + MIN_SECRET <= len(body) <= 4 + MAX_SECRET:
        raise _malformed("BackendKeyData")
    (process_id,) = struct.unpack_from("!I", body)
    return CancelKey(process_id, body[4:])


def parse_ready_for_query(body: bytes) -> bytes:
    """The transaction state: ``I``, ``T`` or ``E``."""
    if body not in (b"I", b"T", b"E"):
        raise _malformed("ReadyForQuery")
    return body


@frozen
class ErrorFields:
    """An ErrorResponse or NoticeResponse as its sender wrote it."""

    severity: str
    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.message} (SQLSTATE {self.sqlstate})"


def parse_error(body: bytes) -> ErrorFields:
    if body[-1:] != b"\0":
        raise _malformed("ErrorResponse")
    parts = _strings(body[:-1], "ErrorResponse")
    if len(parts) > MAX_FIELDS or not all(parts):
        raise _malformed("ErrorResponse")
    fields = {part[0]: part[1:] for part in parts}
    severity = fields.get("V") or fields.get("S", "")
    texts = (fields.get(code, "") for code in "CMDH")
    return ErrorFields(severity, *texts)


def _strings(data: bytes, what: str) -> tuple[str, ...]:
    """NUL-terminated strings, nothing else."""
    if not data:
        return ()
    if data[-1]:
        raise _malformed(what)
    return tuple(map(_text, data[:-1].split(b"\0")))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _malformed(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed {what}")


# -- reading -------------------------------------------------------------------------------


@frozen
class Limits:
    """What one peer may send in one phase.

    ``bodies``: the types admitted, each with the longest body in bytes; ``octets`` and
    ``frames`` bound the whole phase.
    """

    bodies: Mapping[int, int]
    frames: int
    octets: int


CLIENT_LOGIN = Limits(
    MappingProxyType({Kind.PASSWORD: 2048}),  # twice PG_MAX_SASL_MESSAGE_LENGTH: we speak only SASL
    frames=2,  # SCRAM has two messages
    octets=8192,  # both, with headers; the phase ends long before
)

TARGET_LOGIN = Limits(
    MappingProxyType(
        {
            Kind.AUTHENTICATION: 4096,  # the longest is SCRAM's server-first, capped at 2,048
            Kind.BACKEND_KEY: 4 + MAX_SECRET,  # protocol 3.2's bound
            Kind.ERROR: 30_000,  # libpq's MAX_ERRLEN
            Kind.NEGOTIATE: 4096,  # echoes our own options, of which we send none
            Kind.NOTICE: 30_000,  # as errors; event triggers at log-in may raise some
            Kind.PARAMETER_STATUS: 65_536,  # search_path is one and has no bound of its own
            Kind.READY: 1,  # the transaction state
        }
    ),
    frames=1000,  # PostgreSQL sends about 20; extensions and log-in triggers add a few
    octets=1 << 20,  # bytes; a flood must not fill memory or the transcript
)


@frozen
class Frame:
    kind: int
    body: bytes = field(repr=False)  # may be a password


@define
class FrameReader:
    """Cuts a stream into messages; a length is judged as soon as its header is there.

    Feed and drain in turns; :meth:`rest` is for whoever reads the stream next.
    """

    limits: Limits
    _buffer: bytearray = field(factory=bytearray, repr=False, init=False)
    _frames: int = field(default=0, init=False)
    _octets: int = field(default=0, init=False)

    def feed(self, data: bytes) -> None:
        """*data* is one read from the socket; call :meth:`next` until it returns None."""
        self._buffer += data

    def next(self) -> Frame | None:
        """The next message, None if more is needed.

        :raises ProtocolViolation: a type or length that this phase does not admit
        """
        if not self._buffer:
            return None
        kind = self._buffer[0]
        if kind not in self.limits.bodies:
            raise ProtocolViolation(f"unexpected message type {kind:#04x} during log-in")
        if len(self._buffer) < 5:
            return None
        length: int = struct.unpack_from("!i", self._buffer, 1)[0]
        self._judge(kind, length)
        if len(self._buffer) < 1 + length:
            return None
        return self._take(kind, length)

    def _judge(self, kind: int, length: int) -> None:
        if not 4 <= length <= 4 + self.limits.bodies[kind]:
            raise ProtocolViolation(f"invalid length of message type {kind:#04x} during log-in")
        over = self._octets + 1 + length > self.limits.octets
        if over or self._frames >= self.limits.frames:
            raise ProtocolViolation("too many messages during log-in")

    def _take(self, kind: int, length: int) -> Frame:
        frame = Frame(kind, bytes(self._buffer[5 : 1 + length]))
        del self._buffer[: 1 + length]
        self._frames += 1
        self._octets += 1 + length
        return frame

    def rest(self) -> bytes:
        """What was fed and not yet cut; the reader forgets it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
