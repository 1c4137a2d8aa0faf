"""Real sockets, real TLS, and peers that vanish, talk nonsense or never listen."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory

from gateway.errors import Gone, ProtocolViolation
from gateway.wire import RECEIVE, Adopt, Wire
from tests.leaks import nothing_left
from tests.support import asyncio_test

CA, OTHER_CA = (trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(2))
LEAF = CA.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
PATIENCE = 10.0  # seconds; nothing here takes a tenth of one
MUCH = bytes(range(256)) * 20_000  # 5 MB: more than the kernel buffers
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def serving() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    LEAF.configure_cert(context)
    return context


def trusting(ca: trustme.CA = CA) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    ca.configure_trust(context)
    context.set_verify(SSL.VERIFY_PEER)
    return context


SERVER, CLIENT = serving(), trusting()


def connected(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection, the accepted one first."""
    with socket.create_server((host, 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        near, _ = listening.accept()
    far.setblocking(False)
    return near, far


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Wire, socket.socket]]:
    """A wire and the socket at its other end; both are closed at last, and nothing is left."""
    async with nothing_left(), asyncio.timeout(PATIENCE):
        near, far = connected()
        wire = Wire(near, asyncio.get_running_loop())
        try:
            yield wire, far
        finally:
            wire.close()
            far.close()


@asynccontextmanager
async def secured() -> AsyncIterator[tuple[Wire, Wire]]:
    """A server and its client, behind their handshake."""
    async with wired() as (server, far):
        client = Wire(far, asyncio.get_running_loop())
        await asyncio.gather(server.accept_tls(SERVER), client.start_tls(CLIENT, "localhost"))
        yield server, client


def reset(sock: socket.socket) -> None:
    """Close without a goodbye: the peer gets an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def everything(wire: Wire) -> bytes:
    data = b""
    with suppress(Gone):
        while True:
            data += await wire.receive()
    return data


async def heard(far: socket.socket) -> bytes:
    """All that comes until the stream ends in good order."""
    data = b""
    while part := await asyncio.get_running_loop().sock_recv(far, 65536):
        data += part
    return data


# -- a conversation ------------------------------------------------------------------------


@asyncio_test
async def test_what_is_sent_is_received_and_then_the_peer_is_gone() -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(wire.receive())
        await asyncio.sleep(0)
        far.send(b"hello")
        assert await waiting == b"hello"
        await wire.send(b"good day")
        wire.close()
        assert await heard(far) == b"good day"
        far.close()
        with pytest.raises(Gone):
            await wire.receive()


@asyncio_test
async def test_a_peek_leaves_the_byte_where_it_is() -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(wire.peek())
        await asyncio.sleep(0)
        far.send(b"xyz")
        assert await waiting == b"x"
        assert await wire.receive() == b"xyz"
        far.close()
        assert await wire.peek() == b""


@asyncio_test
async def test_a_look_waits_for_enough_and_takes_nothing() -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(wire.look(5, 8))
        for part in (b"a", b"bc", b"d"):
            far.send(part)
            await asyncio.sleep(0)
            assert not waiting.done()
        far.send(b"efghij")
        assert await waiting == b"abcdefgh"
        assert await wire.look(1, 3) == b"abc"
        await wire.discard(2)
        assert await wire.receive() == b"cdefghij"
        waiting = asyncio.ensure_future(wire.receive())
        await asyncio.sleep(0)
        far.send(b"k")
        assert await waiting == b"k", "one byte is enough again"


@asyncio_test
async def test_a_look_ends_where_the_stream_does() -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(wire.look(5, 8))
        far.send(b"abc")
        await asyncio.sleep(0)
        far.close()
        assert await waiting == b"abc"
        assert await wire.look(4, 8) == b"abc"
        await wire.discard(3)
        assert await wire.look(1, 8) == b""
        with pytest.raises(Gone):
            await wire.discard(1)


@asyncio_test
async def test_a_look_that_is_given_up_wants_no_more_than_others() -> None:
    async with wired() as (wire, far):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wire.look(100, 100)
        waiting = asyncio.ensure_future(wire.receive())
        await asyncio.sleep(0)
        far.send(b"a")
        assert await waiting == b"a"


@asyncio_test
async def test_a_peer_that_stops_sending_can_still_be_told() -> None:
    async with wired() as (wire, far):
        far.send(b"last words")
        far.shutdown(socket.SHUT_WR)
        assert await everything(wire) == b"last words"
        await wire.send(MUCH[:1000])
        wire.close()
        assert await heard(far) == MUCH[:1000]


@asyncio_test
async def test_much_is_sent_to_a_slow_reader() -> None:
    async with wired() as (wire, far):
        sending = asyncio.ensure_future(wire.send(MUCH))
        await asyncio.sleep(0)
        assert not sending.done()
        reading = asyncio.ensure_future(heard(far))
        await sending
        wire.close()
        assert await reading == MUCH


WAITS: dict[str, Callable[[Wire], Awaitable[object]]] = {
    "receive": lambda wire: wire.receive(),
    "peek": lambda wire: wire.peek(),
    "look": lambda wire: wire.look(10, 100),
    "send": lambda wire: wire.send(MUCH),
    "accept_tls": lambda wire: wire.accept_tls(SERVER),
    "start_tls": lambda wire: wire.start_tls(CLIENT, None),
}


@pytest.mark.parametrize("wait", WAITS)
@asyncio_test
async def test_a_reset_is_gone_wherever_it_meets_us(wait: str) -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(WAITS[wait](wire))
        await asyncio.sleep(0)
        assert not waiting.done()
        reset(far)
        with pytest.raises(Gone):
            await waiting


@pytest.mark.parametrize("wait", ["receive", "peek", "look", "send"])
@asyncio_test
async def test_a_closed_wire_is_gone(wait: str) -> None:
    async with wired() as (wire, _):
        wire.close()
        with pytest.raises(Gone):
            await WAITS[wait](wire)


@pytest.mark.parametrize("wait", [*WAITS, "linger"])
@asyncio_test
async def test_who_is_cancelled_while_waiting_watches_nothing_any_more(wait: str) -> None:
    loop = asyncio.get_running_loop()
    async with wired() as (wire, _):
        sock, _ = wire.take()
        fd = sock.fileno()
        waiting = asyncio.ensure_future({**WAITS, "linger": Wire.linger}[wait](wire))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not loop.remove_reader(fd)
        assert not loop.remove_writer(fd)


@asyncio_test
async def test_a_cancel_that_meets_what_was_waited_for_loses_no_byte() -> None:
    async with wired() as (wire, far):
        waiting = asyncio.ensure_future(wire.receive())
        await asyncio.sleep(0)
        far.send(b"just in time")
        select.select([wire.take()[0]], [], [])  # the loop does not know of it yet
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await wire.receive() == b"just in time"


# -- who it is -----------------------------------------------------------------------------


@asyncio_test
async def test_the_source_is_the_peer() -> None:
    async with wired() as (wire, _):
        assert wire.source == ip_address("127.0.0.1")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@asyncio_test
async def test_a_mapped_source_is_ipv4_again() -> None:
    async with nothing_left():
        with socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        ) as listening:
            port = listening.getsockname()[1]
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, port)):
                    wire = Wire(listening.accept()[0], asyncio.get_running_loop())
                    assert wire.source == ip_address(host)
                    wire.close()


@asyncio_test
async def test_the_source_is_what_a_trusted_proxy_says() -> None:
    async with wired() as (wire, _):
        wire.source = ip_address("192.0.2.7")
        assert wire.source == ip_address("192.0.2.7")


@asyncio_test
async def test_a_peer_that_was_reset_has_no_source() -> None:
    async with wired() as (wire, far):
        reset(far)
        with pytest.raises(Gone):
            await wire.receive()
        with pytest.raises(Gone):
            _ = wire.source


# -- TLS -----------------------------------------------------------------------------------


@asyncio_test
async def test_a_secured_conversation() -> None:
    async with secured() as (server, client):
        assert server.tls is not None
        assert server.tls.get_servername() == b"localhost"
        waiting = asyncio.ensure_future(server.receive())
        await client.send(b"hello")
        assert await waiting == b"hello"
        sending = asyncio.ensure_future(server.send(MUCH))
        await asyncio.sleep(0)
        assert not sending.done()
        reading = asyncio.ensure_future(everything(client))
        await sending
        server.close()
        assert await reading == MUCH


@asyncio_test
async def test_no_name_is_sent_where_there_is_none() -> None:
    async with wired() as (server, far):
        client = Wire(far, asyncio.get_running_loop())
        await asyncio.gather(server.accept_tls(SERVER), client.start_tls(CLIENT, None))
        assert server.take()[1] is server.tls is not None
        assert server.tls.get_servername() is None


@asyncio_test
async def test_a_goodbye_inside_tls_leaves_the_other_way_open() -> None:
    async with secured() as (server, client):
        assert client.tls is not None
        client.tls.shutdown()
        assert await everything(server) == b""
        await server.send(b"answer")
        assert await client.receive() == b"answer"


@asyncio_test
async def test_a_close_says_goodbye_as_tls_has_it() -> None:
    async with secured() as (server, client):
        server.close()
        server.close()
        assert client.tls is not None
        await client._readable()
        with pytest.raises(SSL.ZeroReturnError):
            client.tls.recv(1)


@asyncio_test
async def test_a_peer_that_leaves_tls_without_a_goodbye_is_gone() -> None:
    async with secured() as (server, client):
        reset(client.take()[0])
        with pytest.raises(Gone):
            await server.receive()
        with pytest.raises(Gone):
            await server.send(b"x")
        server.close()


@asyncio_test
async def test_a_chain_that_does_not_verify_is_told_to_both_sides() -> None:
    async with wired() as (server, far):
        client = Wire(far, asyncio.get_running_loop())
        outcomes = await asyncio.gather(
            server.accept_tls(SERVER),
            client.start_tls(trusting(OTHER_CA), "localhost"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [ProtocolViolation] * 2
        assert [outcome.public for outcome in outcomes] == ["TLS handshake failed"] * 2
        assert "unknown ca" in outcomes[0].detail
        assert "certificate verify failed" in outcomes[1].detail
        assert server.tls is client.tls is None


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "postgresql": SSL_REQUEST,
    "record too long": b"\x16\x03\x01\xff\xff" + bytes(64),
    "no hello in it": b"\x16\x03\x01\x00\x05hello",
    "alert": b"\x15\x03\x01\x00\x02\x02\x28",
}


@pytest.mark.parametrize("side", ["accept_tls", "start_tls"])
@pytest.mark.parametrize("garbage", GARBAGE)
@asyncio_test
async def test_garbage_instead_of_a_hello(garbage: str, side: str) -> None:
    async with wired() as (wire, far):
        far.send(GARBAGE[garbage])
        with pytest.raises(ProtocolViolation) as refused:
            await WAITS[side](wire)
        assert refused.value.public == "TLS handshake failed"
        assert len(refused.value.detail) > len("TLS failed"), "OpenSSL's own words"
        await _close_lingering(wire, far)


async def _close_lingering(wire: Wire, far: socket.socket) -> None:
    """Who failed a handshake can be told so: the stream ends in good order."""
    lingering = asyncio.ensure_future(wire.linger())
    await heard(far)
    far.close()
    await lingering


@asyncio_test
async def test_a_hello_that_never_ends_is_cut_short_by_the_deadline() -> None:
    async with wired() as (wire, far):
        far.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wire.accept_tls(SERVER)
        assert wire.tls is None


class Engine:
    """A client's TLS apart from any socket: what it would say, flight by flight."""

    def __init__(self) -> None:
        self._tls = SSL.Connection(CLIENT, None)
        self._tls.set_tlsext_host_name(b"localhost")
        self._tls.set_connect_state()

    def flight(self) -> bytes:
        with suppress(SSL.WantReadError):
            self._tls.do_handshake()
        return self._tls.bio_read(65536)

    async def answer(self, far: socket.socket) -> bytes:
        """The flight with which it answers all that the server says."""
        loop = asyncio.get_running_loop()
        while True:
            self._tls.bio_write(await loop.sock_recv(far, 65536))
            with suppress(SSL.WantReadError):
                return self.flight()


HELLO = len(Engine().flight())
CUTS = sorted({0, 1, 4, 5, 6, *range(9, HELLO, 173), HELLO - 1, HELLO})


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("cut", CUTS)
@asyncio_test
async def test_a_peer_that_vanishes_within_its_hello(
    cut: int, leave: Callable[[socket.socket], None]
) -> None:
    async with wired() as (wire, far):
        shaking = asyncio.ensure_future(wire.accept_tls(SERVER))
        far.send(Engine().flight()[:cut])
        await asyncio.sleep(0)
        leave(far)
        with pytest.raises(Gone):
            await shaking


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("cut", [0, 1, 6, 20, -1])
@asyncio_test
async def test_a_peer_that_vanishes_before_it_has_finished(
    cut: int, leave: Callable[[socket.socket], None]
) -> None:
    async with wired() as (wire, far):
        shaking = asyncio.ensure_future(wire.accept_tls(SERVER))
        engine = Engine()
        far.send(engine.flight())
        last = await engine.answer(far)
        far.send(last[:cut])
        leave(far)
        with pytest.raises(Gone):
            await shaking


@asyncio_test
async def test_a_handshake_that_comes_byte_by_byte() -> None:
    async with wired() as (wire, far):
        shaking = asyncio.ensure_future(wire.accept_tls(SERVER))
        engine = Engine()
        await _dribble(far, engine.flight())
        await _dribble(far, await engine.answer(far))
        await shaking
        assert wire.tls is not None


async def _dribble(far: socket.socket, data: bytes) -> None:
    for index in range(len(data)):
        far.send(data[index : index + 1])
        await asyncio.sleep(0)


# -- goodbyes ------------------------------------------------------------------------------


@asyncio_test
async def test_a_close_never_raises_and_never_waits() -> None:
    async with wired() as (wire, far):
        sending = asyncio.ensure_future(wire.send(MUCH))
        await asyncio.sleep(0)
        sending.cancel()
        wire.close()
        wire.close()
        far.close()
    async with wired() as (wire, far):
        reset(far)
        wire.close()
    async with secured() as (server, client):
        reset(client.take()[0])
        server.close()


@asyncio_test
async def test_who_lingers_is_heard_by_a_peer_that_is_still_talking() -> None:
    loop = asyncio.get_running_loop()
    async with wired() as (wire, far):
        talking = asyncio.ensure_future(loop.sock_sendall(far, MUCH))
        await asyncio.sleep(0)
        await wire.send(b"no")
        lingering = asyncio.ensure_future(wire.linger())
        await talking
        assert await heard(far) == b"no"
        assert not lingering.done()
        far.close()
        await lingering


@asyncio_test
async def test_who_lingers_inside_tls_says_goodbye_first() -> None:
    async with secured() as (server, client):
        await client.send(MUCH[:50_000])
        await server.send(b"no")
        lingering = asyncio.ensure_future(server.linger())
        assert await everything(client) == b"no"
        client.close()
        await lingering


@asyncio_test
async def test_a_peer_that_talks_without_end_leaves_the_others_their_turn() -> None:
    loop = asyncio.get_running_loop()
    chunks = 30
    async with wired() as (wire, far):
        wire.take()[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * chunks * RECEIVE)
        await loop.sock_sendall(far, bytes(chunks * RECEIVE))
        far.close()
        lingering = asyncio.ensure_future(wire.linger())
        turns = 0
        while not lingering.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > chunks


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@asyncio_test
async def test_nobody_lingers_for_a_peer_that_has_left(
    leave: Callable[[socket.socket], None],
) -> None:
    async with wired() as (wire, far):
        leave(far)
        await wire.linger()
        await wire.linger()


@asyncio_test
async def test_the_deadline_of_who_lingers_closes_too() -> None:
    async with wired() as (wire, far):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wire.linger()
        assert wire.take()[0].fileno() < 0
        assert await heard(far) == b""


# -- out of Twisted's hands ----------------------------------------------------------------


@asyncio_test
async def test_connections_are_adopted_with_every_byte_that_came() -> None:
    loop = asyncio.get_running_loop()
    async with nothing_left(), asyncio.timeout(PATIENCE):
        accepted: asyncio.Future[socket.socket] = loop.create_future()
        made: asyncio.Future[socket.socket] = loop.create_future()
        factory = Factory.forProtocol(lambda: Adopt(accepted.set_result))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        endpoint = HostnameEndpoint(reactor, b"127.0.0.1", port.getHost().port)
        connecting = Factory.forProtocol(lambda: Adopt(made.set_result))
        await endpoint.connect(connecting).asFuture(loop)
        client = Wire(await made, loop)
        await client.send(b"first words")
        server = Wire(await accepted, loop)
        assert await server.receive() == b"first words"
        await server.send(b"answer")
        assert await client.receive() == b"answer"
        server.close()
        client.close()
        await port.stopListening().asFuture(loop)
