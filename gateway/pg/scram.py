"""SCRAM-SHA-256, both ends, without I/O (RFC 5802, RFC 7677, PostgreSQL's SASL chapter).

PostgreSQL departs from the RFCs in three places, and so do we: the user name inside SASL
is ignored (libpq sends none), a password that SASLprep prohibits is taken as its raw bytes,
and only ``tls-server-end-point`` binds a channel.

Nonces are passed in; nothing here is random. The only slow step is to derive keys,
which callers run in a thread; that, and what is kept of a password, is
:mod:`gateway.identity.password`'s.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
from collections.abc import Collection

from attrs import define, field

from gateway.errors import BadProof, ProtocolViolation
from gateway.identity.password import (
    DIGEST,
    MAX_ITERATIONS,
    MAX_SALT,
    Derivation,
    Keys,
    prepared,
)
from gateway.model import ScramVerifier, Secret

PLAIN = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"

MIN_ITERATIONS = 4096  # fewer, asked for by a replaced target, makes the proof cheap to guess from
MAX_NONCE = 256  # characters; libpq sends 24, PostgreSQL adds 24
MAX_MESSAGE = 2048  # bytes; twice PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH, holds every cap above

_BINDING = b"p=tls-server-end-point,,"

# -- our side of a user's log-in -----------------------------------------------------------


def mechanisms(channel_binding: bytes | None) -> tuple[str, ...]:
    """What to offer, best first. *channel_binding* is None where there is no TLS."""
    return (PLAIN,) if channel_binding is None else (PLUS, PLAIN)


class ServerState(enum.Enum):
    FIRST = "waiting for client-first"
    FINAL = "waiting for client-final"
    OVER = "over"


@define
class ScramServer:
    """The side that holds a verifier. Call :meth:`first`, then :meth:`final`, once each.

    :param nonce: our part, at least 18 random bytes in base64
    :param channel_binding: hash of our certificate (RFC 5929 section 4), None without TLS
    """

    verifier: ScramVerifier
    nonce: str
    channel_binding: bytes | None = None
    state: ServerState = field(default=ServerState.FIRST, init=False)
    _bound: bytes = field(default=b"", init=False)
    _full_nonce: bytes = field(default=b"", init=False)
    _said: bytes = field(default=b"", init=False)

    def first(self, mechanism: str, data: bytes) -> bytes:
        """client-first-message to server-first-message.

        :raises ProtocolViolation: malformed, a mechanism not offered, or a downgrade
        """
        self._enter(ServerState.FIRST)
        if mechanism not in mechanisms(self.channel_binding):
            raise ProtocolViolation("the client chose a SASL mechanism that was not offered")
        header, bare = _split_header(_bounded(data))
        self._judge_header(mechanism, header)
        self._full_nonce = _client_nonce(bare) + self.nonce.encode()
        salt = _b64(self.verifier.salt)
        reply = b"r=%b,s=%b,i=%d" % (self._full_nonce, salt.encode(), self.verifier.iterations)
        self._said = bare + b"," + reply
        self.state = ServerState.FINAL
        return reply

    def _judge_header(self, mechanism: str, header: bytes) -> None:
        flag = header[:1]
        if (mechanism == PLUS) != (flag == b"p"):
            raise ProtocolViolation("the SASL mechanism and its channel binding flag disagree")
        if flag == b"y" and self.channel_binding is not None:
            raise ProtocolViolation("a channel binding offer was hidden from the client")
        if flag == b"p" and header != _BINDING:
            raise ProtocolViolation("unsupported SCRAM channel binding type")
        self._bound = header + (self.channel_binding or b"" if flag == b"p" else b"")

    def final(self, data: bytes) -> bytes:
        """client-final-message to server-final-message.

        :raises BadProof: wrong password, or bound to another channel
        :raises ProtocolViolation: malformed
        """
        self._enter(ServerState.FINAL)
        without_proof, comma, proof = _bounded(data).rpartition(b",p=")
        fields = without_proof.split(b",")
        if not comma or len(fields) < 2:
            raise ProtocolViolation("malformed SCRAM client-final message")
        bound = _decoded(_value(fields[0], b"c="))
        if not hmac.compare_digest(_value(fields[1], b"r="), self._full_nonce):
            raise ProtocolViolation("the SCRAM nonce changed during authentication")
        said = self._said + b"," + without_proof
        proved = self._proves(_decoded(proof), said)  # first, so that time tells nothing
        self._judge_binding(bound)
        if not proved:
            raise BadProof("the SCRAM proof does not match the verifier")
        return b"v=" + _b64(_hmac(self.verifier.server_key, said)).encode()

    def _proves(self, proof: bytes, said: bytes) -> bool:
        if len(proof) != DIGEST:
            raise ProtocolViolation("malformed SCRAM proof")
        client_key = _xor(proof, _hmac(self.verifier.stored_key, said))
        return hmac.compare_digest(_sha256(client_key), self.verifier.stored_key)

    def _judge_binding(self, bound: bytes) -> None:
        if hmac.compare_digest(bound, self._bound):
            return
        if self._bound.startswith(b"p"):
            raise BadProof("the SCRAM proof is bound to another TLS channel")
        raise ProtocolViolation("unexpected SCRAM channel binding data")

    def _enter(self, expected: ServerState) -> None:
        if self.state is not expected:
            raise ProtocolViolation("unexpected SASL message")
        self.state = ServerState.OVER  # whatever fails from here on cannot be tried again


def _split_header(message: bytes) -> tuple[bytes, bytes]:
    """The gs2-header with its two commas, and client-first-message-bare."""
    flag, authorization, *bare = message.split(b",", 2) + [b""] * 2
    if authorization:
        raise ProtocolViolation("SCRAM authorization identities are not supported")
    if flag not in (b"n", b"y") and not flag.startswith(b"p="):
        raise ProtocolViolation("malformed SCRAM channel binding flag")
    return flag + b",,", bare[0]


def _client_nonce(bare: bytes) -> bytes:
    if bare.startswith(b"m="):
        raise ProtocolViolation("mandatory SCRAM extensions are not supported")
    name, _, rest = bare.partition(b",")
    _value(name, b"n=")  # the user is the one of the startup packet
    return _nonce(_value(rest.partition(b",")[0], b"r="))


# -- our side of a log-in on a target ------------------------------------------------------


class ClientState(enum.Enum):
    START = "nothing said"
    OFFERED = "waiting for server-first"
    DERIVING = "waiting for the keys"
    ANSWERED = "waiting for server-final"
    PROVEN = "the target knows the verifier"
    FAILED = "failed"


@define
class ScramClient:
    """The side that holds the password. The target is hostile until ``state`` is PROVEN.

    Call :meth:`first`, :meth:`challenge`, :meth:`answer` and :meth:`verify`, once each;
    between the second and the third, have the keys derived (a thread, a ``KeyCache``).
    Each raises ProtocolViolation for a target that breaks the protocol or a cap.

    :param nonce: at least 18 random bytes in base64
    :param channel_binding: hash of the target's certificate, None without TLS
    :param offered: the mechanisms the target named
    """

    password: Secret
    nonce: str
    channel_binding: bytes | None = None
    offered: Collection[str] = (PLUS, PLAIN)
    state: ClientState = field(default=ClientState.START, init=False)
    _said: bytes = field(default=b"", init=False)
    _without_proof: bytes = field(default=b"", init=False)
    _keys: Keys | None = field(default=None, init=False)

    @property
    def mechanism(self) -> str:
        """The best of *offered*."""
        if self.channel_binding is not None and PLUS in self.offered:
            return PLUS
        if PLAIN in self.offered:
            return PLAIN
        raise ProtocolViolation("the target offers no SCRAM-SHA-256")

    @property
    def _header(self) -> bytes:
        if self.mechanism == PLUS:
            return _BINDING
        return b"n,," if self.channel_binding is None else b"y,,"

    @property
    def _bare(self) -> bytes:
        return b"n=,r=" + self.nonce.encode()

    def first(self) -> bytes:
        """client-first-message, for SASLInitialResponse with :attr:`mechanism`."""
        self._enter(ClientState.START)
        message = self._header + self._bare
        self.state = ClientState.OFFERED
        return message

    def challenge(self, data: bytes) -> Derivation:
        """server-first-message to the work that it asks for, within our caps."""
        self._enter(ClientState.OFFERED)
        fields = _bounded(data).split(b",")
        if len(fields) < 3:
            raise ProtocolViolation("malformed SCRAM server-first message")
        nonce = self._extended(_value(fields[0], b"r="))
        salt = _decoded(_value(fields[1], b"s="))
        if not 1 <= len(salt) <= MAX_SALT:
            raise ProtocolViolation("the target's SCRAM salt is out of bounds")
        work = Derivation(prepared(self.password), salt, _iterations(_value(fields[2], b"i=")))
        self._without_proof = b"c=" + self._bound() + b",r=" + nonce
        self._said = b",".join((self._bare, data, self._without_proof))
        self.state = ClientState.DERIVING
        return work

    def _extended(self, nonce: bytes) -> bytes:
        ours = self.nonce.encode()
        if not nonce.startswith(ours) or nonce == ours:
            raise ProtocolViolation("the target's SCRAM nonce does not extend ours")
        return ours + _nonce(nonce[len(ours) :])

    def _bound(self) -> bytes:
        channel = self.channel_binding or b"" if self.mechanism == PLUS else b""
        return _b64(self._header + channel).encode()

    def answer(self, keys: Keys) -> bytes:
        """The derived keys to client-final-message."""
        self._enter(ClientState.DERIVING)
        self._keys = keys
        signature = _hmac(keys.stored_key, self._said)
        self.state = ClientState.ANSWERED
        return self._without_proof + b",p=" + _b64(_xor(keys.client_key, signature)).encode()

    def verify(self, data: bytes) -> None:
        """server-final-message; only after this may AuthenticationOk be believed.

        :raises BadProof: the target does not know the verifier
        """
        self._enter(ClientState.ANSWERED)
        assert self._keys is not None
        told = _bounded(data).partition(b",")[0]
        if told.startswith(b"e="):
            raise BadProof("the target ended SCRAM with an error")
        expected = _hmac(self._keys.server_key, self._said)
        if not hmac.compare_digest(_decoded(_value(told, b"v=")), expected):
            raise BadProof("the target does not know the account's password")
        self.state = ClientState.PROVEN

    def _enter(self, expected: ClientState) -> None:
        if self.state is not expected:
            raise ProtocolViolation("unexpected SASL message")
        self.state = ClientState.FAILED  # until the step has succeeded


def _iterations(text: bytes) -> int:
    if not re.fullmatch(rb"[1-9][0-9]{0,6}", text):
        raise ProtocolViolation("the target's SCRAM iteration count is out of bounds")
    count = int(text)
    if not MIN_ITERATIONS <= count <= MAX_ITERATIONS:
        raise ProtocolViolation("the target's SCRAM iteration count is out of bounds")
    return count


# -- fields --------------------------------------------------------------------------------


def _bounded(message: bytes) -> bytes:
    if len(message) > MAX_MESSAGE:
        raise ProtocolViolation("SCRAM message too long")
    return message


def _value(attribute: bytes, name: bytes) -> bytes:
    if not attribute.startswith(name):
        raise ProtocolViolation("malformed SCRAM message")
    return attribute[len(name) :]


def _nonce(text: bytes) -> bytes:
    """Printable ASCII without commas (RFC 5802 section 7)."""
    if not 1 <= len(text) <= MAX_NONCE:
        raise ProtocolViolation("SCRAM nonce out of bounds")
    if not all(0x21 <= octet <= 0x7E and octet != 0x2C for octet in text):
        raise ProtocolViolation("non-printable characters in SCRAM nonce")
    return text


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ProtocolViolation("malformed base64 in SCRAM message") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
