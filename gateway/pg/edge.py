"""The client's side of a PostgreSQL connection, until it is a session."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping

from attrs import frozen

from gateway.certificates import Certificates, certified_names
from gateway.contracts import CancelKey, Credentials, SessionLog
from gateway.errors import ProtocolViolation, Refused, TlsRequired
from gateway.model import Ask, End, Grant, ScramVerifier
from gateway.pg import frames, words
from gateway.pg.cancel import CancelKeys
from gateway.pg.channel import channel
from gateway.pg.dial import Upstream
from gateway.pg.effects import startup_pins
from gateway.pg.frames import Authentication, FrameReader
from gateway.pg.login import parse_login, target_parameters
from gateway.pg.pump import Pump
from gateway.pg.rehome import Home, Movers
from gateway.pg.scram import ScramServer, mechanisms
from gateway.pg.splice import Sides, Splice
from gateway.pg.startup import (
    MAX_BODY,
    TLS_HANDSHAKE,
    GssRequest,
    SslRequest,
    Startup,
    StartupMessage,
    State,
)
from gateway.pg.state import SessionState
from gateway.wire import Wire

TLS_HELLO = bytes((TLS_HANDSHAKE,))


@frozen
class PostgresDoor:
    """What every PostgreSQL connection shares."""

    certificates: Certificates
    movers: Movers
    pump: Pump
    cancels: CancelKeys
    tls_required: bool
    domain: str | None


class PostgresEdge:
    """One client; implements :class:`gateway.contracts.Edge`."""

    def __init__(self, wire: Wire, door: PostgresDoor) -> None:
        self._wire = wire
        self._door = door
        self._startup = Startup()
        self._reader = FrameReader(frames.CLIENT_LOGIN)
        self._parameters: Mapping[str, str] = {}
        self._minor = 0
        self._binding: bytes | None = None
        self._authenticated = b""
        self._session_id = ""

    async def ask(self) -> Ask | CancelKey:
        """The start-up packets, TLS among them.

        :raises ProtocolViolation: they are malformed or out of order
        :raises TlsRequired: the client goes on in clear text
        """
        await self._direct_tls()
        while True:
            packet = self._startup.receive(await self._wire.receive())
            match packet:
                case SslRequest():
                    await self._wire.send(self._startup.answer(accepted=True))
                    await self._secure()
                case GssRequest():
                    await self._wire.send(self._startup.answer(accepted=False))
                case CancelKey():
                    return packet
                case StartupMessage():
                    return await self._asked(packet)
                case _:
                    pass  # more is needed

    async def _direct_tls(self) -> None:
        """Look before reading: a TLS hello belongs to the TLS engine, which reads by itself."""
        first = await self._wire.peek()
        if first != TLS_HELLO:
            return
        self._startup.receive(first)
        self._startup.answer(accepted=True)
        await self._secure()
        assert self._wire.tls is not None
        if self._wire.tls.get_alpn_proto_negotiated() != b"postgresql":
            raise ProtocolViolation("direct TLS needs ALPN protocol postgresql")

    async def _secure(self) -> None:
        serving = self._door.certificates.current
        await self._wire.accept_tls(serving.context)
        self._binding = serving.end_point

    async def _asked(self, message: StartupMessage) -> Ask:
        tls = self._wire.tls
        if tls is None and self._door.tls_required:
            raise TlsRequired("clear text")
        self._parameters = dict(message.parameters)
        self._minor = message.minor
        self._reader.feed(self._startup.rest())
        await self._wire.send(message.reply)
        name = tls.get_servername() if tls is not None else None
        server_name = name.decode("ascii", "replace") if name else None
        return parse_login(self._parameters, server_name, self._door.domain, self._wire.source)

    async def prove(self, credentials: Credentials) -> str:
        """A certificate if it names the user, else a password."""
        if credentials.enabled and credentials.user in self.certified_names():
            return "certificate"
        await self.password(credentials.verifier)
        return "password"

    def certified_names(self) -> frozenset[str]:
        tls = self._wire.tls
        certificate = tls.get_peer_certificate(as_cryptography=True) if tls is not None else None
        return certified_names(certificate) if certificate is not None else frozenset()

    async def password(self, verifier: ScramVerifier) -> None:
        """SCRAM-SHA-256, bound to the TLS channel if the client can."""
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        scram = ScramServer(verifier, nonce, self._binding)
        await self._wire.send(frames.authentication_sasl(mechanisms(self._binding)))
        mechanism, first = frames.parse_sasl_initial_response(await self._password_message())
        challenge = scram.first(mechanism, first)
        await self._wire.send(frames.authentication(Authentication.SASL_CONTINUE, challenge))
        proof = scram.final(await self._password_message())
        self._authenticated = frames.authentication(Authentication.SASL_FINAL, proof)

    async def _password_message(self) -> bytes:
        while (frame := self._reader.next()) is None:
            self._reader.feed(await self._wire.receive())
        return frame.body

    async def refuse(self, refusal: Refused, quote: str) -> None:
        if self._startup.state is State.SECURED and self._wire.tls is None:
            # The protocol has no words inside a handshake that failed; TLS has its alert.
            await self._wire.linger()
            return
        await self._wire.send(words.refusal(refusal, quote))
        await self._wire.linger()

    def close(self) -> None:
        self._wire.close()

    async def dial(self, grant: Grant, session_id: str) -> Upstream:
        self._session_id = session_id
        parameters = self._for_target(grant)
        if len(frames.startup_message(parameters)) > MAX_BODY:
            # With what we add: the target would hang up, and must not be blamed for it.
            raise ProtocolViolation("invalid length of startup packet")
        return await self._door.movers.dialer.dial(grant, parameters)

    def _for_target(self, grant: Grant) -> tuple[tuple[str, str], ...]:
        return target_parameters(self._parameters, grant, self._session_id)

    def splice(
        self, upstream: Upstream, grant: Grant, log: SessionLog, done: Callable[[End], None]
    ) -> Splice:
        """Tell the client that it is logged in, and carry its session from here on."""
        cancels = self._door.cancels
        home = Home(self._door.movers, grant, upstream, self._for_target)
        ways = home if grant.resource.move_idle_sessions else None
        state = SessionState(upstream.parameters, self._pinned(upstream, grant))
        key: CancelKey | None = None

        def over(end: End) -> None:
            cancels.forget(key)
            home.leave()
            done(end)

        splice = Splice(self._session_id, log, grant.terms, home.cancel, over, ways, state)
        if upstream.key is not None:
            key = cancels.mint(upstream.key.process_id, self._minor, splice.cancelled)
        splice.begin(self._door.pump, self._sides(upstream), self._greeting(upstream, key))
        return splice

    def _pinned(self, upstream: Upstream, grant: Grant) -> str:
        """What keeps a session at its target from the beginning."""
        if grant.ask.replication:
            return "replication"
        if not upstream.system:
            return "the target does not tell whose data it has"
        return startup_pins(self._parameters)

    def _sides(self, upstream: Upstream) -> Sides:
        return Sides(
            client=channel(*self._wire.take()),
            target=channel(*upstream.wire.take()),
            from_client=self._reader.rest(),
            from_target=upstream.rest,
        )

    def _greeting(self, upstream: Upstream, key: CancelKey | None) -> bytes:
        status = [frames.parameter_status(*pair) for pair in upstream.parameters.items()]
        if key is not None:
            status.append(frames.backend_key_data(key))
        ok = frames.authentication(Authentication.OK)
        return b"".join((self._authenticated, ok, *status, frames.ready_for_query()))
