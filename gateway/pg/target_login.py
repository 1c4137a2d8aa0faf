"""The conversation of a log-in at a target (PostgreSQL manual, 55.2.1)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import struct
from types import MappingProxyType

from gateway.contracts import CancelKey, Purpose
from gateway.errors import ProtocolViolation, Refused
from gateway.identity.password import Derivation, KeyCache, Keys
from gateway.model import Secret, TargetKind, TlsMode
from gateway.pg import frames
from gateway.pg.frames import Authentication, ErrorFields, Frame, FrameReader, Kind, Limits
from gateway.pg.scram import ScramClient
from gateway.routing import ServerKind
from gateway.wire import Wire

_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"
SYSTEM = "SELECT system_identifier FROM pg_catalog.pg_control_system()"
LAG = (  # all that came has been replayed says something only while something may come
    "CASE WHEN pg_catalog.pg_last_wal_receive_lsn()"
    " OPERATOR(pg_catalog.<=) pg_catalog.pg_last_wal_replay_lsn()"  # less: just reconnected
    " AND (SELECT pid IS NOT NULL FROM pg_catalog.pg_stat_get_wal_receiver()) THEN 0 ELSE"
    " pg_catalog.extract('epoch', pg_catalog.clock_timestamp()"
    " OPERATOR(pg_catalog.-) pg_catalog.pg_last_xact_replay_timestamp()) END"
)

ROW = ord("D")
_ANSWER = Limits(
    MappingProxyType(
        {
            ROW: 256,  # one number or letter, or the few of a probe
            ord("T"): 256,  # its description
            ord("C"): 64,  # "SELECT 1"
            Kind.ERROR: 30_000,  # libpq's MAX_ERRLEN
            Kind.NOTICE: 30_000,  # as errors
            Kind.PARAMETER_STATUS: 65_536,  # as at log-in
            Kind.READY: 1,  # the transaction state
        }
    ),
    frames=100,  # an answer is four, and notices may come between
    octets=1 << 17,  # bytes; room for one long parameter
)


class TargetRefused(Refused):
    """The target said no: what it said is for the audit log."""

    def __init__(self, said: ErrorFields) -> None:
        super().__init__(str(said))
        self.said = said


class WrongKind(Refused):
    """The target works, and is not what the grant's terms ask for."""


class TargetLogin:
    """:param binding: the target's channel binding (RFC 5929), None without TLS

    ``admitted``: the target has let the account in; what goes wrong from then on may be due
    to the session's own settings.
    """

    def __init__(self, wire: Wire, grant: Purpose, binding: bytes | None, keys: KeyCache) -> None:
        self._wire = wire
        self._grant = grant
        self.admitted = False
        self._binding = binding
        self._cache = keys
        self._reader = FrameReader(frames.TARGET_LOGIN)
        self._scram: ScramClient | None = None
        self._proved = False  # by a password of ours that it could check, or that it knew
        self.key: CancelKey | None = None
        self.parameters: dict[str, str] = {}

    async def run(self, parameters: frames.Parameters) -> None:
        """Send the start-up message and answer what is asked, up to ReadyForQuery.

        :raises TargetRefused: the target refused, in its words
        :raises ProtocolViolation: it broke the protocol, or asked for what it may not have
        """
        await self._wire.send(frames.startup_message(parameters))
        while (frame := await self._frame()).kind == Kind.AUTHENTICATION:
            request, data = frames.parse_authentication(frame.body)
            if request is Authentication.OK:
                self._judge_ok()
                self.admitted = True
                break
            await self._answer(request, data)
        else:
            raise ProtocolViolation("the target skipped authentication")
        while (frame := await self._frame()).kind != Kind.READY:
            self._note(frame)
        frames.parse_ready_for_query(frame.body)

    def rest(self) -> bytes:
        return self._reader.rest()

    async def kind(self) -> ServerKind | None:
        """Primary or standby; None where it would have to be asked and nobody wants to know.

        PostgreSQL 14 and later say so by themselves.
        """
        told = self.parameters.get("in_hot_standby")
        if told is not None:
            return "standby" if told == "on" else "primary"
        terms = self._grant.terms
        if terms.targets is TargetKind.ANY and terms.max_lag_seconds is None:
            return None
        return "standby" if await self.value(_RECOVERY) == "t" else "primary"

    async def judge(self, kind: ServerKind | None, wanted: TargetKind) -> None:
        """:raises WrongKind: it is not what is wanted, or lags too far behind"""
        if wanted in (TargetKind.PRIMARY, TargetKind.STANDBY) and kind != wanted.value:
            raise WrongKind(f"is a {kind}, not a {wanted.value}")
        most = self._grant.terms.max_lag_seconds
        if kind == "standby" and most is not None:
            lag = _seconds(await self.value(f"SELECT {LAG}"))
            if lag is None or not lag <= most:  # "NaN" is no lag that one may have
                raise WrongKind("lag unknown" if lag is None else f"lags {lag:.1f} s behind")

    async def _frame(self) -> Frame:
        while True:
            frame = self._reader.next()
            if frame is None:
                self._reader.feed(await self._wire.receive())
            elif frame.kind == Kind.ERROR:
                raise TargetRefused(frames.parse_error(frame.body))
            elif frame.kind not in (Kind.NOTICE, Kind.NEGOTIATE):
                return frame

    def _note(self, frame: Frame) -> None:
        if frame.kind == Kind.PARAMETER_STATUS:
            name, value = frames.parse_parameter_status(frame.body)
            self.parameters[name] = value
        elif frame.kind == Kind.BACKEND_KEY:
            self.key = frames.parse_backend_key_data(frame.body)
        else:
            raise ProtocolViolation("the target asks for authentication twice")

    # -- answers ---------------------------------------------------------------------------

    async def _answer(self, request: Authentication, data: bytes) -> None:
        match request:
            case Authentication.SASL:
                await self._sasl(frames.parse_mechanisms(data))
            case Authentication.SASL_CONTINUE if self._scram is not None:
                keys = await self._derived(self._scram.challenge(data))
                await self._wire.send(frames.sasl_response(self._scram.answer(keys)))
            case Authentication.SASL_FINAL if self._scram is not None:
                self._scram.verify(data)
                self._proved = True
            case Authentication.MD5:
                self._may("md5")
                await self._wire.send(frames.password_message(self._md5(data)))
                self._proved = True
            case Authentication.CLEARTEXT:
                await self._clear_text()
            case _:
                raise ProtocolViolation(f"the target asks for {request.name}")

    async def _sasl(self, offered: tuple[str, ...]) -> None:
        self._may("scram-sha-256")
        if self._scram is not None:
            raise ProtocolViolation("the target begins SASL twice")
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        self._scram = scram = ScramClient(self._password(), nonce, self._binding, offered)
        await self._wire.send(frames.sasl_initial_response(scram.mechanism, scram.first()))

    async def _derived(self, work: Derivation) -> Keys:
        """In a thread: the target chooses the number of iterations."""
        seen = self._cache.seen(work)
        return seen if seen is not None else await asyncio.to_thread(self._cache.derive, work)

    def _md5(self, salt: bytes) -> bytes:
        """``md5`` + hex(md5(hex(md5(password + user)) + salt)), as the protocol has it."""
        secret = self._password().reveal() + self._grant.account.name.encode()
        inner = hashlib.md5(secret, usedforsecurity=False).hexdigest().encode()
        outer = hashlib.md5(inner + salt, usedforsecurity=False).hexdigest()
        return b"md5" + outer.encode()

    async def _clear_text(self) -> None:
        self._may("password")
        if self._grant.resource.tls.mode not in (TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL):
            raise ProtocolViolation("a clear-text password goes only over verified TLS")
        await self._wire.send(frames.password_message(self._password().reveal()))
        self._proved = True

    def _judge_ok(self) -> None:
        """AuthenticationOk is believed only where it follows something we agreed to."""
        if self._proved:
            return
        if self._scram is not None:
            raise ProtocolViolation("the target left out its SCRAM signature")
        if self._wire.tls is not None and self._grant.account.certificate is not None:
            self._may("certificate")
        else:
            self._may("trust")

    def _may(self, method: str) -> None:
        if method not in self._grant.resource.authentication:
            raise ProtocolViolation(f"the target wants authentication by {method}")

    def _password(self) -> Secret:
        password = self._grant.account.password
        if password is None:
            raise ProtocolViolation("the target wants a password, and the account has none")
        return password

    # -- questions of our own --------------------------------------------------------------

    async def system(self) -> str:
        """What a primary and its standbys have in common; "" if the target does not tell: one
        may not ask, or a session has settings with which nothing goes well."""
        try:
            return await self.value(SYSTEM) or ""
        except TargetRefused:
            while (await self._frame()).kind != Kind.READY:
                pass
            return ""

    async def value(self, sql: str) -> str | None:
        """The one value that *sql* gives; None for NULL."""
        await self._wire.send(frames.query(sql))
        reader, self._reader = self._reader, FrameReader(_ANSWER)
        self._reader.feed(reader.rest())
        value: str | None = None
        while (frame := await self._frame()).kind != Kind.READY:
            if frame.kind == ROW:
                value = single_value(frame.body)
            elif frame.kind == Kind.PARAMETER_STATUS:
                self._note(frame)
        return value


def single_value(row: bytes) -> str | None:
    """The one column of a DataRow."""
    if len(row) < 6:
        raise ProtocolViolation("malformed DataRow")
    columns, length = struct.unpack_from("!hi", row)
    if columns != 1 or length > len(row) - 6:
        raise ProtocolViolation("malformed DataRow")
    return None if length < 0 else row[6 : 6 + length].decode("ascii", "replace")


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError as malformed:
        raise ProtocolViolation("malformed replication lag") from malformed
