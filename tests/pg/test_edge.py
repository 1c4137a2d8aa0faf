"""The client's side, over real sockets: every way in, and what is not let in."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import trustme
from attrs import evolve, frozen
from OpenSSL import SSL

from gateway.certificates import Certificates, ServerTls, tls_server_end_point
from gateway.contracts import CancelKey, Credentials
from gateway.errors import Gone, ProtocolViolation, Refused
from gateway.health import RefusedAccounts, Sightings
from gateway.identity.password import derive
from gateway.model import Ask, End, EndReason, Secret
from gateway.pg import frames
from gateway.pg.cancel import CancelKeys
from gateway.pg.dial import PostgresDialer
from gateway.pg.edge import PostgresDoor, PostgresEdge
from gateway.pg.frames import Authentication, ErrorFields
from gateway.pg.pump import Pump
from gateway.pg.rehome import Movers
from gateway.pg.scram import ScramClient
from gateway.record.format import CLIENT, NOTE
from gateway.wire import Wire
from tests.pg.targets import (
    CA,
    KEY,
    PASSWORD,
    SETTINGS,
    VERIFIER,
    Log,
    Notes,
    Talk,
    anyone,
    granted,
    no_descriptor_left,
    playing,
    ready,
    tcp_pair,
)
from tests.support import asyncio_test

QUOTE = "a1b2c3"
SESSION = "0123456789abcdef"
NAMES = frozenset({"localhost", "127.0.0.1", "*.gw.test"})
GSS = struct.pack("!ii", 8, frames.GSSENC_CODE)
SSL_REQUEST = frames.ssl_request()
STARTUP = (("user", "alice"), ("database", "orders"), ("application_name", "psql"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    state = tmp_path_factory.mktemp("state")
    client_ca = state / "clients.crt"
    CA.cert_pem.write_to_path(str(client_ca))
    return Certificates(state, ServerTls(client_ca=client_ca), NAMES, lambda: datetime.now(UTC))


@pytest.fixture(scope="module")
def ca_file(certificates: Certificates) -> Path:
    return certificates._state_dir / "ca.crt"


@frozen
class House:
    """A door and what is behind it."""

    door: PostgresDoor
    seen: Sightings


@contextmanager
def opened(certificates: Certificates, *, tls_required: bool = False) -> Iterator[House]:
    pump = Pump(asyncio.get_running_loop())
    seen = Sightings(lambda: 0.0)
    accounts = RefusedAccounts(lambda: 0.0, lambda spot, account, why: None)
    movers = Movers(PostgresDialer(seen, accounts, lambda: 0.0, 10), lambda grant: grant, Notes())
    try:
        yield House(
            PostgresDoor(certificates, movers, pump, CancelKeys(), tls_required, "gw.test"), seen
        )
    finally:
        assert len(pump) == 0
        pump.close()


class Client:
    """Speaks the protocol by hand."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._buffer = b""

    async def take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._buffer += await self.wire.receive()
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    async def frame(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack("!ci", await self.take(5))
        return kind, await self.take(length - 4)

    async def until(self, last: bytes) -> list[tuple[bytes, bytes]]:
        """The frames up to the first of kind *last*."""
        found = [await self.frame()]
        while found[-1][0] != last:
            found.append(await self.frame())
        return found

    async def say(self, *messages: bytes) -> None:
        await self.wire.send(b"".join(messages))

    async def tls(self, context: SSL.Context | None = None, name: str | None = None) -> None:
        await self.wire.start_tls(context or anyone(), name)

    async def secure(self, context: SSL.Context | None = None, name: str | None = None) -> None:
        await self.say(SSL_REQUEST)
        assert await self.take(1) == b"S"
        await self.tls(context, name)

    def binding(self) -> bytes | None:
        assert self.wire.tls is not None
        shown = self.wire.tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        return tls_server_end_point(shown)

    async def first(self, password: str, binding: bytes | None = None) -> ScramClient:
        """Up to our first SASL message."""
        kind, body = await self.frame()
        assert kind == b"R"
        offered = frames.parse_mechanisms(frames.parse_authentication(body)[1])
        scram = ScramClient(Secret(password.encode()), "nonce-of-the-client", binding, offered)
        await self.say(frames.sasl_initial_response(scram.mechanism, scram.first()))
        return scram

    async def log_in(self, password: str = PASSWORD, binding: bytes | None = None) -> ScramClient:
        """Up to our proof."""
        scram = await self.first(password, binding)
        challenge = frames.parse_authentication((await self.frame())[1])[1]
        await self.say(frames.sasl_response(scram.answer(derive(scram.challenge(challenge)))))
        return scram

    async def refusal(self) -> ErrorFields:
        """The next frame is an error, and then nothing comes."""
        kind, body = await self.frame()
        assert kind == b"E"
        assert await self.rest() == b""
        return frames.parse_error(body)

    async def rest(self) -> bytes:
        """All that still comes; and we close, too."""
        rest = b""
        with suppress(Gone):
            while True:
                rest += await self.take(1)
        self.wire.close()
        return rest

    async def leave(self) -> None:
        await self.say(frames.message(frames.Kind.TERMINATE))
        self.wire.close()


def showing(leaf: trustme.LeafCert) -> SSL.Context:
    context = anyone()
    leaf.configure_cert(context)
    return context


Outcome = Ask | CancelKey | Refused | str | None


async def story(edge: PostgresEdge) -> Outcome:
    """As much as concerns the edge of what happens to every connection."""
    try:
        asked = await edge.ask()
        if isinstance(asked, Ask):
            await edge.prove(Credentials(asked.user, VERIFIER))
    except Refused as refused:
        await edge.refuse(refused, QUOTE)
        edge.close()
        return refused
    except Gone:
        edge.close()
        return None
    return asked


@asynccontextmanager
async def meeting(
    house: House, tell: Callable[[PostgresEdge], Awaitable[Outcome]] = story
) -> AsyncIterator[tuple[Client, PostgresEdge, asyncio.Future[Outcome]]]:
    """A client at the door, and its story."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    client, edge = Client(Wire(near, loop)), PostgresEdge(Wire(far, loop), house.door)
    told = asyncio.ensure_future(tell(edge))
    try:
        async with asyncio.timeout(10):
            yield client, edge, told
    finally:
        client.wire.close()
        if not told.done():
            told.cancel()
        await asyncio.gather(told, return_exceptions=True)
        edge.close()


# -- every way in --------------------------------------------------------------------------

Way = Callable[[Client], Awaitable[None]]


async def clear(client: Client) -> None:
    """Straight in, in clear text."""


async def tls_asked(client: Client) -> None:
    await client.secure()


async def tls_direct(client: Client) -> None:
    await client.tls(anyone(b"postgresql"))


async def tls_direct_among_others(client: Client) -> None:
    await client.tls(anyone(b"h2", b"postgresql"))


async def gss_then_tls(client: Client) -> None:
    await client.say(GSS)
    assert await client.take(1) == b"N"
    await client.secure()


async def gss_then_clear(client: Client) -> None:
    await client.say(GSS)
    assert await client.take(1) == b"N"


WAYS = [clear, tls_asked, tls_direct, tls_direct_among_others, gss_then_tls, gss_then_clear]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytes"])
@each_way
@asyncio_test
async def test_ways_in(way: Way, split: bool, certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            send = client.wire.send

            async def bit_by_bit(data: bytes) -> None:
                for octet in data:
                    await send(bytes((octet,)))
                    await asyncio.sleep(0)

            if split:
                client.wire.send = bit_by_bit  # type: ignore[method-assign]
            await way(client)
            await client.say(frames.startup_message(STARTUP))
            await client.log_in()
            asked = await told
            assert isinstance(asked, Ask)
            assert (asked.user, asked.resource, str(asked.source)) == (
                "alice",
                "orders",
                "127.0.0.1",
            )


@pytest.mark.parametrize("way", [clear, tls_asked, tls_direct, gss_then_clear])
@pytest.mark.parametrize("secret", [b"1234", b"k" * 32, b"k" * 256], ids=len)
@asyncio_test
async def test_a_cancel_request_needs_no_tls(
    way: Way, secret: bytes, certificates: Certificates
) -> None:
    with opened(certificates, tls_required=True) as house:
        async with meeting(house) as (client, _, told):
            await way(client)
            await client.say(frames.cancel_request(CancelKey(77, secret)))
            assert await told == CancelKey(77, secret)


@pytest.mark.parametrize(
    ("version", "options", "told_version"),
    [(3 << 16, (), None), (3 << 16 | 2, (), None), (3 << 16 | 9999, (), 2), (3 << 16, ("x",), 0)],
)
@asyncio_test
async def test_versions(
    version: int, options: tuple[str, ...], told_version: int | None, certificates: Certificates
) -> None:
    with opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            unknown = tuple((f"_pq_.{name}", "on") for name in options)
            await client.say(frames.startup_message((*STARTUP, *unknown), version))
            if told_version is not None:
                kind, body = await client.frame()
                assert kind == b"v"
                names = [f"_pq_.{name}" for name in options]
                message = frames.negotiate_protocol_version(3 << 16 | told_version, names)
                assert body == message[5:]
            await client.log_in()
            assert isinstance(await told, Ask)


@asyncio_test
async def test_the_server_name_is_a_resource(certificates: Certificates) -> None:
    with opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await client.secure(name="orders.gw.test")
            await client.say(frames.startup_message((("user", "alice"), ("database", "x"))))
            await client.log_in()
            asked = await told
            assert isinstance(asked, Ask)
            assert (asked.resource, asked.database) == ("orders", "x")


# -- proofs --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [tls_asked, tls_direct])
@asyncio_test
async def test_a_proof_bound_to_the_channel(way: Way, certificates: Certificates) -> None:
    with opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await way(client)
            await client.say(frames.startup_message(STARTUP))
            scram = await client.log_in(binding=client.binding())
            assert scram.mechanism == "SCRAM-SHA-256-PLUS"
            assert isinstance(await told, Ask)


@asyncio_test
async def test_a_proof_bound_to_another_channel(certificates: Certificates) -> None:
    with opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await client.secure()
            await client.say(frames.startup_message(STARTUP))
            await client.log_in(binding=b"x" * 32)
            said = await client.refusal()
            assert (said.sqlstate, said.message) == (
                "28P01",
                f"authentication failed (audit id {QUOTE})",
            )
            refused = await told
            assert isinstance(refused, Refused)
            assert "another TLS channel" in refused.detail


@asyncio_test
async def test_a_wrong_password(certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, _):
            await client.say(frames.startup_message(STARTUP))
            await client.log_in("guess")
            assert (await client.refusal()).sqlstate == "28P01"


@asyncio_test
async def test_certified_names(certificates: Certificates) -> None:
    leaf = CA.issue_cert("a@example.com", common_name="alice", key_type=trustme.KeyType.ECDSA)
    with opened(certificates) as house:
        async with meeting(house) as (client, edge, told):
            assert edge.certified_names() == frozenset()
            await client.secure(showing(leaf))
            await client.say(frames.startup_message(STARTUP))
            assert isinstance(await told, Ask)
            assert edge.certified_names() == {"alice", "a@example.com"}


@pytest.mark.parametrize(
    ("user", "enabled", "method"),
    [
        ("alice", True, "certificate"),
        ("alice", False, "password"),  # a disabled user walks the path of a stranger
        ("a@example.com", True, "certificate"),
        ("bob", True, "password"),
        ("", True, "password"),
    ],
)
@asyncio_test
async def test_a_certificate_counts_for_those_whom_it_names(
    user: str, enabled: bool, method: str, certificates: Certificates
) -> None:
    async def proved(edge: PostgresEdge) -> str:
        await edge.ask()
        return await edge.prove(Credentials(user, VERIFIER, enabled=enabled))

    leaf = CA.issue_cert("a@example.com", common_name="alice", key_type=trustme.KeyType.ECDSA)
    with opened(certificates) as house:
        async with meeting(house, proved) as (client, _, told):
            await client.secure(showing(leaf))
            await client.say(frames.startup_message(STARTUP))
            if method == "password":
                await client.log_in()
            assert await told == method


@asyncio_test
async def test_a_certificate_of_another_ca_is_no_way_in(certificates: Certificates) -> None:
    other = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = other.issue_cert(common_name="alice", key_type=trustme.KeyType.ECDSA)
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, edge, told):
            await client.secure(showing(leaf))  # TLS 1.3 tells the client later
            assert await client.rest() == b""
            assert isinstance(await told, ProtocolViolation)
            assert edge.certified_names() == frozenset()


# -- who is not let in ---------------------------------------------------------------------


def saying(*messages: bytes) -> Way:
    async def script(client: Client) -> None:
        await client.say(*messages)

    return script


def through_tls(*messages: bytes) -> Way:
    async def script(client: Client) -> None:
        await client.secure()
        await client.say(*messages)

    return script


async def direct_without_alpn(client: Client) -> None:
    await client.tls()


def asked_for_a_password(*messages: bytes, tls: bool = False) -> Way:
    async def script(client: Client) -> None:
        if tls:
            await client.secure()
        await client.say(frames.startup_message(STARTUP))
        await client.frame()
        await client.say(*messages)

    return script


def challenged(*messages: bytes) -> Way:
    async def script(client: Client) -> None:
        await client.say(frames.startup_message(STARTUP))
        await client.first(PASSWORD)
        await client.frame()
        await client.say(*messages)

    return script


def initial(mechanism: str, data: bytes) -> bytes:
    return frames.sasl_initial_response(mechanism, data)


def password(body: bytes) -> bytes:
    return frames.message(ord("p"), body)


MINIMAL = frames.startup_message(STARTUP)
STARTUPS = [
    ("bytes behind SSLRequest", saying(SSL_REQUEST + MINIMAL), "08P01", "unencrypted data"),
    ("bytes behind GSSENCRequest", saying(GSS + SSL_REQUEST), "08P01", "unencrypted data"),
    ("bytes behind a cancel", saying(frames.cancel_request(KEY) + b"x"), "08P01", "unencrypted"),
    ("direct TLS without ALPN", direct_without_alpn, "08P01", "needs ALPN"),
    ("HTTP", saying(b"GET / HTTP/1.1\r\n\r\n"), "08P01", "length of startup packet"),
    ("too long", saying(struct.pack("!i", 10_005)), "08P01", "length of startup packet"),
    ("negative", saying(b"\xff\xff\xff\xff"), "08P01", "length of startup packet"),
    ("protocol 2", saying(struct.pack("!ii", 8, 2 << 16)), "08P01", "unsupported frontend"),
    ("SSLRequest in TLS", through_tls(SSL_REQUEST), "08P01", "out of place"),
    ("GSSENCRequest in TLS", through_tls(GSS), "08P01", "out of place"),
    ("a short cancel", saying(struct.pack("!iii", 12, frames.CANCEL_CODE, 1)), "08P01", "cancel"),
    ("no user", saying(frames.startup_message([("database", "x")])), "28000", "no PostgreSQL"),
    ("no resource", saying(frames.startup_message([("user", "a")])), "28000", "dbname=RESOURCE"),
    (
        "two resources",
        saying(frames.startup_message([("user", "a#b"), ("database", "c/d")])),
        "28000",
        "two different resources",
    ),
]
PROOFS = [
    ("a query first", asked_for_a_password(frames.query("x")), "08P01", "type 0x51"),
    ("a second startup", asked_for_a_password(MINIMAL), "08P01", "type 0x00"),
    ("a clear password", asked_for_a_password(frames.password_message(b"x")), "08P01", "SASLInit"),
    ("a long one", asked_for_a_password(b"p" + struct.pack("!i", 2053)), "08P01", "length"),
    ("a negative one", asked_for_a_password(b"p\xff\xff\xff\xff"), "08P01", "length"),
    ("2 GB", asked_for_a_password(b"p\x7f\xff\xff\xff"), "08P01", "length"),
    ("an empty one", asked_for_a_password(password(b"")), "08P01", "SASLInit"),
    (
        "no data",
        asked_for_a_password(password(b"SCRAM-SHA-256\0\xff\xff\xff\xff")),
        "08P01",
        "SASL",
    ),
    ("PLAIN", asked_for_a_password(initial("PLAIN", b"\0a\0b")), "08P01", "not offered"),
    (
        "PLUS without TLS",
        asked_for_a_password(initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=x")),
        "08P01",
        "not offered",
    ),
    (
        "a hidden offer",
        asked_for_a_password(initial("SCRAM-SHA-256", b"y,,n=,r=x"), tls=True),
        "08P01",
        "hidden from the client",
    ),
    ("no proof", challenged(password(b"c=biws")), "08P01", "client-final"),
    ("another nonce", challenged(password(b"c=biws,r=x,p=" + b"A" * 44)), "08P01", "nonce"),
    ("a query for a proof", challenged(frames.query("x")), "08P01", "type 0x51"),
]


@pytest.mark.parametrize(
    ("script", "sqlstate", "words"),
    [pytest.param(*rest, id=name) for name, *rest in STARTUPS + PROOFS],
)
@asyncio_test
async def test_refused(script: Way, sqlstate: str, words: str, certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await script(client)
            said = await client.refusal()
            assert (said.severity, said.sqlstate) == ("FATAL", sqlstate)
            assert words in said.message
            assert said.message.endswith(f"(audit id {QUOTE})")
            assert isinstance(await told, Refused)


@pytest.mark.parametrize("way", [clear, gss_then_clear])
@asyncio_test
async def test_clear_text_where_tls_is_required(way: Way, certificates: Certificates) -> None:
    with opened(certificates, tls_required=True) as house:
        async with meeting(house) as (client, _, _):
            await way(client)
            await client.say(MINIMAL)
            said = await client.refusal()
            assert (said.sqlstate, said.hint) == (
                "28000",
                "Connect with sslmode=require, or better.",
            )


@pytest.mark.parametrize("protocols", [(b"h2",), (b"http/1.1", b"ssh")])
@asyncio_test
async def test_inside_a_handshake_that_fails_nothing_is_said(
    protocols: tuple[bytes, ...], certificates: Certificates
) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            with pytest.raises((ProtocolViolation, Gone)):
                await client.tls(anyone(*protocols))
            client.wire.close()
            assert isinstance(await told, ProtocolViolation)


@asyncio_test
async def test_clear_text_in_place_of_a_handshake(certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await client.say(SSL_REQUEST)
            assert await client.take(1) == b"S"
            await client.say(MINIMAL)
            assert len(await client.rest()) in (0, 7)  # an alert of TLS at most
            client.wire.close()
            assert isinstance(await told, ProtocolViolation)


@pytest.mark.parametrize(
    "said",
    [b"", b"\0", SSL_REQUEST[:7], SSL_REQUEST, b"\x16", b"\x16\x03\x01", MINIMAL[:-1], MINIMAL],
)
@asyncio_test
async def test_who_leaves_is_let_go(said: bytes, certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with meeting(house) as (client, _, told):
            await client.say(said)
            client.wire.close()
            outcome = await told
            assert outcome is None or "TLS" in str(outcome)


# -- from the log-in to the session --------------------------------------------------------


@asynccontextmanager
async def session(
    house: House, script, minor: int = 0, *, certificate: bool = False, behind: bytes = b""
) -> AsyncIterator[tuple[Client, Talk, Log, asyncio.Future[End]]]:
    """A client, its target, and what is recorded between them."""
    log, done = Log(), asyncio.get_running_loop().create_future()
    async with playing(script) as target, meeting(house) as (client, edge, told):
        leaf = CA.issue_cert(common_name="alice", key_type=trustme.KeyType.ECDSA)
        await client.secure(showing(leaf) if certificate else None)
        version = frames.PROTOCOL_3_0 | minor
        await client.say(frames.startup_message(STARTUP, version) + behind)
        if not certificate:
            await client.log_in(binding=client.binding())
        asked = await told
        assert isinstance(asked, Ask)
        grant = evolve(granted(target.address), ask=asked)
        upstream = await edge.dial(grant, SESSION)
        edge.splice(upstream, grant, log, done.set_result)
        yield client, target.talks[0], log, done
        await done
    assert house.seen.seen(granted(target.address).resource)[target.address].open_sessions == 0


async def echo(talk: Talk) -> None:
    """Answers each query with a tag of as many rows as it had before."""
    await talk.begin()
    await talk.scram()
    await talk.say(ready(), frames.message(ord("N"), b"SNOTICE\0C00000\0Mfirst\0\0"))
    count = 0
    while (await talk.frame())[0] == b"Q":
        count += 1
        await talk.say(frames.message(ord("C"), b"SELECT %d\0" % count), frames.ready_for_query())


@pytest.mark.parametrize(("minor", "secret"), [(0, 4), (2, 32)])
@asyncio_test
async def test_a_session(minor: int, secret: int, certificates: Certificates) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with session(house, echo, minor) as (client, talk, log, done):
            greeting = await client.until(b"N")
            kinds = b"".join(kind for kind, _ in greeting)
            assert kinds == b"RR" + b"S" * len(SETTINGS) + b"KZN"
            assert greeting[0][1].startswith(struct.pack("!i", Authentication.SASL_FINAL) + b"v=")
            told = [frames.parse_parameter_status(body) for kind, body in greeting if kind == b"S"]
            assert dict(told) == SETTINGS
            key = frames.parse_backend_key_data(greeting[-3][1])
            assert key.process_id == KEY.process_id
            assert len(key.secret) == secret
            assert key.secret != KEY.secret
            await client.say(frames.query("SELECT 1"))
            assert await client.until(b"Z") == [(b"C", b"SELECT 1\0"), (b"Z", b"I")]
            await client.leave()
            assert await done == End(EndReason.CLIENT)
    assert talk.startup["user"] == "app_ro"
    assert talk.startup["application_name"] == f"psql [alice {SESSION[:8]}]"
    assert log.of(CLIENT) == frames.query("SELECT 1") + frames.message(frames.Kind.TERMINATE)


@asyncio_test
async def test_what_comes_right_behind_the_startup_is_carried(certificates: Certificates) -> None:
    """A client with a certificate waits for nothing."""
    queries = frames.query("SELECT 1") + frames.query("SELECT 2")
    with no_descriptor_left(), opened(certificates) as house:
        async with session(house, echo, certificate=True, behind=queries) as (client, _, log, _):
            await client.until(b"N")
            tags = [body for kind, body in await client.until(b"Z") if kind == b"C"]
            tags += [body for kind, body in await client.until(b"Z") if kind == b"C"]
            assert tags == [b"SELECT 1\0", b"SELECT 2\0"]
            await client.leave()
    assert log.of(CLIENT) == queries + frames.message(frames.Kind.TERMINATE)


@asyncio_test
async def test_a_cancel_key_leads_to_the_target_and_ends_with_the_session(
    certificates: Certificates,
) -> None:
    cancelled: list[bytes] = []

    async def script(talk: Talk) -> None:
        head = await talk.packet()
        if head[:4] != b"\0\3\0\0":
            cancelled.append(head)
            return
        talk._read = 0
        await echo(talk)

    with no_descriptor_left(), opened(certificates) as house:
        async with session(house, script) as (client, _, log, done):
            key = frames.parse_backend_key_data(dict(await client.until(b"Z"))[b"K"])
            async with meeting(house) as (canceller, _, told):
                await canceller.say(frames.cancel_request(key))
                asked = await told
                assert isinstance(asked, CancelKey)
                await house.door.cancels.cancel(asked)
            assert cancelled == [frames.cancel_request(KEY)[4:]]
            assert b'"cancel"' in log.of(NOTE)
            await client.leave()
            await done
            await house.door.cancels.cancel(key)
            assert len(cancelled) == 1
    assert not house.door.cancels._keys


@asyncio_test
async def test_a_target_without_a_key_gives_none(certificates: Certificates) -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(ready(None))
        await talk.drain()

    with opened(certificates) as house:
        async with session(house, script) as (client, _, _, _):
            assert b"K" not in dict(await client.until(b"Z"))
            client.wire.close()


@asyncio_test
async def test_a_client_that_has_gone_before_its_session_leaves_nothing(
    certificates: Certificates,
) -> None:
    with no_descriptor_left(), opened(certificates) as house:
        async with session(house, echo) as (client, _, _, _):
            client.wire.close()


LIBPQ = [
    "sslmode=disable",
    "sslmode=verify-full channel_binding=require",
    "sslmode=verify-full sslnegotiation=direct channel_binding=require",
    "sslmode=verify-full channel_binding=disable",
    "sslmode=verify-full max_protocol_version=latest",
]


@pytest.mark.parametrize("how", LIBPQ)
@asyncio_test
async def test_libpq(how: str, certificates: Certificates, ca_file: Path) -> None:
    """A client that we did not write, with each of its ways in."""

    async def answers(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(ready())
        while (await talk.frame())[0] == b"Q":
            await talk.say(frames.message(ord("C"), b"SELECT 1\0"), frames.ready_for_query())

    def visit(port: int) -> int:
        text = (
            f"host=localhost port={port} user=alice dbname=orders gssencmode=disable {how}"
            f" sslrootcert={ca_file} sslcert=/none sslkey=/none connect_timeout=10"
        )
        with psycopg.connect(text, password=PASSWORD, autocommit=True) as connection:
            connection.pgconn.exec_(b"SELECT 1")
            return connection.info.backend_pid

    loop = asyncio.get_running_loop()
    log, done = Log(), loop.create_future()
    with opened(certificates) as house:
        async with playing(answers) as target, at_a_port(house) as (port, come):
            visiting = asyncio.ensure_future(asyncio.to_thread(visit, port))
            edge, asked = await come
            grant = evolve(granted(target.address), ask=asked)
            upstream = await edge.dial(grant, SESSION)
            edge.splice(upstream, grant, log, done.set_result)
            assert await visiting == KEY.process_id
            assert await done == End(EndReason.CLIENT)
    assert b"SELECT 1\0" in log.of(CLIENT)


@asynccontextmanager
async def at_a_port(
    house: House,
) -> AsyncIterator[tuple[int, asyncio.Future[tuple[PostgresEdge, Ask]]]]:
    """The door at a port of its own, for one visitor."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def come() -> tuple[PostgresEdge, Ask]:
            sock, _ = await loop.sock_accept(listening)
            edge = PostgresEdge(Wire(sock, loop), house.door)
            asked = await story(edge)
            assert isinstance(asked, Ask), asked
            return edge, asked

        coming = asyncio.ensure_future(come())
        async with asyncio.timeout(20):
            yield listening.getsockname()[1], coming
