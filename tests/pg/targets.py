"""Targets that follow a script, and keep what they hear. Most of the scripts are hostile."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import trustme
from cryptography import x509
from OpenSSL import SSL

from gateway.certificates import tls_server_end_point
from gateway.contracts import CancelKey
from gateway.errors import Gone, NotRecorded, ProtocolViolation
from gateway.identity.password import Derivation, derive, make_verifier
from gateway.model import (
    Account,
    Address,
    Ask,
    End,
    Grant,
    Identity,
    Protocol,
    Resource,
    Secret,
    Target,
    TargetTls,
    Terms,
    TlsMode,
)
from gateway.pg import frames
from gateway.pg.frames import Authentication
from gateway.pg.scram import ScramServer, mechanisms
from gateway.wire import Wire

PASSWORD = "correct horse battery staple"
VERIFIER = make_verifier(PASSWORD, b"pepper and salt.")
KEY = CancelKey(4242, b"\xca\xfe\xba\xbe")
ANY = Terms()
SETTINGS = {"server_version": "17.2", "in_hot_standby": "off"}
CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
HOST = "localhost"
LEAF = CA.issue_cert(HOST, "127.0.0.1", key_type=trustme.KeyType.ECDSA)


class Talk:
    """One connection, as the target sees it. ``heard`` is all that came, out of TLS."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.heard = b""
        self.startup: dict[str, str] = {}
        self.at = asyncio.Event()  # the script has come to where it stalls
        self._read = 0

    async def take(self, length: int) -> bytes:
        while len(self.heard) - self._read < length:
            self.heard += await self.wire.receive()
        self._read += length
        return self.heard[self._read - length : self._read]

    async def packet(self) -> bytes:
        """The body of a message without a type."""
        return await self.take(struct.unpack("!i", await self.take(4))[0] - 4)

    async def frame(self) -> tuple[bytes, bytes]:
        return await self.take(1), await self.packet()

    async def say(self, *messages: bytes) -> None:
        await self.wire.send(b"".join(messages))

    async def begin(self) -> None:
        """Read the start-up message."""
        body = await self.packet()
        assert body[:4] == b"\0\3\0\0"
        words = body[4:-2].decode().split("\0")
        self.startup = dict(zip(words[::2], words[1::2], strict=True))

    async def secure(self, leaf: trustme.LeafCert = LEAF) -> None:
        """Read the SSLRequest, and do what it asks for."""
        assert await self.packet() == frames.ssl_request()[4:]
        await self.say(b"S")
        await self.wire.accept_tls(context(leaf))

    async def scram(self, leaf: trustme.LeafCert = LEAF) -> None:
        """An honest log-in by password, up to and without AuthenticationOk."""
        binding = tls_server_end_point(certificate(leaf)) if self.wire.tls else None
        server = ScramServer(VERIFIER, "nonce-of-the-target", binding)
        await self.say(frames.authentication_sasl(mechanisms(binding)))
        challenge = server.first(*frames.parse_sasl_initial_response((await self.frame())[1]))
        await self.say(frames.authentication(Authentication.SASL_CONTINUE, challenge))
        final = server.final((await self.frame())[1])
        await self.say(frames.authentication(Authentication.SASL_FINAL, final))

    async def challenged(self) -> tuple[bytes, bytes]:
        """Ask for SCRAM; the client's first message and its nonce."""
        await self.say(frames.authentication_sasl(["SCRAM-SHA-256"]))
        first = (await self.frame())[1]
        return first, first.rpartition(b"r=")[2]

    async def stall(self) -> None:
        self.at.set()
        await asyncio.Event().wait()

    async def drain(self) -> None:
        """Hear the peer out, and close."""
        with suppress(Gone):
            while True:
                self.heard += await self.wire.receive()
        self.wire.close()


Script = Callable[[Talk], Awaitable[None]]

OK = frames.authentication(Authentication.OK)
READY = frames.ready_for_query()


def ready(key: CancelKey | None = KEY, **settings: str) -> bytes:
    """All that follows the proof."""
    told = {**SETTINGS, **settings}
    parameters = b"".join(frames.parameter_status(*pair) for pair in told.items())
    return OK + parameters + (frames.backend_key_data(key) if key else b"") + READY


def answer(value: bytes | None) -> bytes:
    """One row with one column, as a simple query gets it."""
    length = -1 if value is None else len(value)
    row = struct.pack("!hi", 1, length) + (value or b"")
    parts = ((b"T", b"\0\1?column?\0" + bytes(18)), (b"D", row), (b"C", b"SELECT 1\0"))
    return b"".join(frames.message(kind[0], body) for kind, body in parts) + READY


def no_secret(heard: bytes) -> bool:
    """True if *heard* holds no form of the password that would be of use to its hearer."""
    password = PASSWORD.encode()
    keys = derive(Derivation(Secret(password), VERIFIER.salt, VERIFIER.iterations))
    forms = (password, keys.client_key, keys.server_key, keys.stored_key)
    digests = [hashlib.md5(password + b"app_ro").digest(), *forms]
    written = [form(secret) for secret in digests for form in (bytes, b64encode, hexed)]
    return not any(form in heard for form in written)


def hexed(data: bytes) -> bytes:
    return data.hex().encode()


async def honest(talk: Talk) -> None:
    """What a good server does, up to the first ReadyForQuery."""
    await talk.begin()
    await talk.scram()
    await talk.say(ready())


def certificate(leaf: trustme.LeafCert) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())


def context(leaf: trustme.LeafCert) -> SSL.Context:
    """As a server's administrator makes it: OpenSSL's defaults, client certificates wanted."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    leaf.configure_cert(made)
    CA.configure_trust(made)
    made.set_verify(SSL.VERIFY_PEER)
    return made


async def play(script: Script, talk: Talk) -> None:
    with suppress(Gone, ProtocolViolation):  # the other side has had enough
        await script(talk)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until *condition* is true."""
    while not condition():  # noqa: ASYNC110 -- nobody tells us
        await asyncio.sleep(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
        return near, far


def anyone(*protocols: bytes) -> SSL.Context:
    """A client's TLS that believes everybody, and offers these protocols."""
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if protocols:
        made.set_alpn_protos(list(protocols))
    return made


class ScriptedTarget:
    """Listens on a port of 127.0.0.1 and plays its script to each that comes."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.address = Address(HOST, self._listening.getsockname()[1])
        self.talks: list[Talk] = []
        self._came = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            self.talks.append(Talk(Wire(sock, loop)))
            self._tasks.append(asyncio.ensure_future(self._play(self.talks[-1])))
            self._came.set()

    async def first(self) -> Talk:
        """The first connection, as soon as there is one."""
        await self._came.wait()
        return self.talks[0]

    async def _play(self, talk: Talk) -> None:
        try:
            await play(self._script, talk)
        finally:
            talk.wire.close()

    async def close(self) -> None:
        """Fails if a script did."""
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def heard(self) -> bytes:
        return b"".join(talk.heard for talk in self.talks)


@asynccontextmanager
async def playing(script: Script) -> AsyncIterator[ScriptedTarget]:
    """A target that is up for as long as the context."""
    target = ScriptedTarget(script)
    serving = asyncio.ensure_future(target.serve())
    try:
        yield target
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await target.close()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Fails if more descriptors are open afterwards than were before."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def granted(
    *targets: Address, terms: Terms = ANY, account: Account | None = None, **resource: object
) -> Grant:
    """A permission to use *targets*, as somebody else minted it."""
    account = account or Account("app_ro", Secret(PASSWORD.encode()))
    resource.setdefault("tls", TargetTls(TlsMode.DISABLE))
    resource.setdefault("move_idle_sessions", False)
    return Grant(
        Ask(Protocol.POSTGRESQL, "alice", "orders", ip_address("10.0.0.1")),
        Identity("alice", "password"),
        Resource("orders", Protocol.POSTGRESQL, tuple(map(Target, targets)), **resource),
        account,
        terms,
        binding="readers",
        role="reader",
    )


class Notes:
    """An audit log in memory (a :class:`gateway.contracts.Audit`)."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.full = False  # takes nothing more

    def write(self, event: str, **facts: Any) -> str:
        if self.full:
            raise NotRecorded("the device is full")
        self.entries.append({"event": event, **facts})
        return "quote"


class Log:
    """A transcript in memory (a :class:`gateway.contracts.SessionLog`)."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.full = False  # takes nothing more
        self.slow = False  # what is committed is durable only after :meth:`sync`
        self._durable = 0
        self._waiting: list[Callable[[], None]] = []

    def add(self, kind: int, payload: bytes) -> None:
        if self.full:
            raise NotRecorded("the device is full")
        self.records.append((kind, bytes(payload)))

    def commit(self, resume: Callable[[], None]) -> bool:
        if self.full:
            raise NotRecorded("the device is full")
        if self.slow and self._durable < len(self.records):
            self._waiting.append(resume)
            return False
        self._durable = len(self.records)
        return True

    def sync(self) -> None:
        self._durable = len(self.records)
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def close(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        return ""

    def of(self, kind: int) -> bytes:
        """All payloads of one kind of record."""
        return b"".join(payload for each, payload in self.records if each == kind)
