"""Doors: how many strangers an address may send, and that all they took comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.error import CannotListenError

from gateway.errors import Gone
from gateway.listen import Begin, Listener, Strangers
from gateway.model import Address
from gateway.wire import Wire
from tests.leaks import nothing_left
from tests.support import asyncio_test

PATIENCE = 30.0  # seconds; nothing here takes a tenth of them
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
ANY_PORT = Address(HERE, 0)


@define
class Door:
    """A listener, and clients before it."""

    listener: Listener
    strangers: Strangers
    clients: list[socket.socket] = field(factory=list)

    @property
    def address(self) -> tuple[str, int]:
        assert self.listener._port is not None
        host = self.listener._port.getHost()
        return host.host, host.port

    async def knock(self, source: str = HERE) -> socket.socket:
        """A client from the address *source*."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        self.clients.append(sock)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return sock


async def say_full(wire: Wire) -> None:
    await wire.send(b"full")
    wire.close()


async def echo(wire: Wire) -> None:
    """The story of a client that says one thing."""
    await wire.send(await wire.receive())
    wire.close()


async def hold(wire: Wire) -> None:
    """The story of a client that says nothing: it hears that it is in, and stays."""
    await wire.send(b"in")
    await wire.receive()
    wire.close()


@asynccontextmanager
async def door(begin: Begin, most: int = 1000, *, broken: bool = False) -> AsyncIterator[Door]:
    async with nothing_left(broken=broken), asyncio.timeout(PATIENCE):
        strangers = Strangers(most)
        here = Door(Listener(begin, say_full, strangers), strangers)
        here.listener.open(reactor, ANY_PORT)
        try:
            yield here
        finally:
            await here.listener.close()
            for client in here.clients:
                client.close()
            await here.listener.cut_off()
        assert not strangers._waiting


async def heard(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 100)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asyncio_test
async def test_each_connection_is_told_its_own_story() -> None:
    async with door(echo) as here:
        alice, bob = await here.knock(), await here.knock()
        bob.send(b"bob")
        assert await heard(bob) == b"bob"
        alice.send(b"alice")
        assert await heard(alice) == b"alice"
        assert await heard(alice) == b""


@asyncio_test
async def test_an_address_has_only_so_many_strangers() -> None:
    async with door(hold, most=2) as here:
        first, second, third = [await here.knock() for _ in range(3)]
        assert [await heard(client) for client in (first, second, third)] == [
            b"in",
            b"in",
            b"full",
        ]
        assert await heard(third) == b""
        assert await heard(await here.knock(ELSEWHERE)) == b"in"
        first.send(b"over")
        assert await heard(first) == b""
        assert await heard(await here.knock()) == b"in"
        assert await heard(await here.knock()) == b"full"


@asyncio_test
async def test_doors_count_together() -> None:
    async with door(hold, most=1) as here:
        other = Listener(hold, say_full, here.strangers)
        other.open(reactor, ANY_PORT)
        assert await heard(await here.knock()) == b"in"
        assert await heard(await Door(other, here.strangers, here.clients).knock()) == b"full"
        await other.close()


def test_nothing_is_remembered_of_an_address_that_has_left() -> None:
    strangers = Strangers(1)
    source = ip_address(HERE)
    assert strangers.enter(source)
    assert not strangers.enter(source)
    strangers.leave(source)
    assert strangers.enter(source)
    strangers.leave(source)
    assert not strangers._waiting


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@asyncio_test
async def test_who_leaves_at_once_leaves_no_trace(leave) -> None:
    async with door(hold) as here:
        for _ in range(50):
            leave(await here.knock())
        assert await heard(await here.knock()) == b"in"


@asyncio_test
async def test_a_thousand_connections_give_everything_back() -> None:
    async with door(echo) as here:
        await asyncio.gather(*(_visit(here, number) for number in range(8)))
        while here.listener._stories:
            await asyncio.wait(here.listener._stories)
        assert not here.strangers._waiting


async def _visit(here: Door, number: int) -> None:
    """125 times, in each way in which a client may behave."""
    for turn in range(number, 125 + number):
        client = await here.knock()
        if turn % 4 == 0:
            client.send(b"hello")
            assert await heard(client) == b"hello"
        elif turn % 4 == 1:
            client.send(b"hello")
        [socket.socket.close, reset][turn % 3 == 0](client)


@asyncio_test
async def test_a_story_that_fails_takes_its_connection_with_it() -> None:
    async def fail(wire: Wire) -> None:
        await wire.send(b"in")
        raise ZeroDivisionError

    async with door(fail, most=1, broken=True) as here:
        for _ in range(2):
            client = await here.knock()
            assert await heard(client) == b"in"
            assert await heard(client) == b""


@asyncio_test
async def test_a_story_may_give_its_connection_away() -> None:
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def splice(wire: Wire) -> None:
        taken.put_nowait(wire.take()[0])

    async with door(splice, most=1) as here:
        for _ in range(2):
            client = await here.knock()
            client.send(b"hello")
            with await taken.get() as carried:
                assert await heard(carried) == b"hello"


@asyncio_test
async def test_a_closed_door_lets_those_within_finish() -> None:
    async with door(hold) as here:
        address, client = here.address, await here.knock()
        assert await heard(client) == b"in"
        await here.listener.close()
        await here.listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert len(here.listener._stories) == 1
        client.send(b"over")
        assert await heard(client) == b""


@asyncio_test
async def test_stories_that_are_cut_off_close_their_connections() -> None:
    async def never_full(wire: Wire) -> None:
        await wire.send(b"wait")
        await asyncio.Event().wait()

    async with door(hold, most=1) as here:
        here.listener._full = never_full
        inside, outside = await here.knock(), await here.knock()
        assert (await heard(inside), await heard(outside)) == (b"in", b"wait")
        await here.listener.cut_off()
        assert not here.listener._stories
        assert (await heard(inside), await heard(outside)) == (b"", b"")


@asyncio_test
async def test_a_taken_address_is_an_error() -> None:
    async with door(echo) as here:
        other = Listener(echo, say_full, here.strangers)
        with pytest.raises(CannotListenError):
            other.open(reactor, Address(*here.address))
        await other.close()


@asyncio_test
async def test_a_client_that_is_turned_away_and_does_not_listen() -> None:
    async def shout(wire: Wire) -> None:
        with suppress(Gone):
            await wire.send(bytes(10_000_000))
        wire.close()

    async with door(hold, most=1) as here:
        here.listener._full = shout
        assert await heard(await here.knock()) == b"in"
        deaf = await here.knock()
        assert await heard(deaf) == bytes(100)
        reset(deaf)


def test_who_counts_as_one() -> None:
    strangers = Strangers(1)
    for source, room in (
        ("10.0.0.1", True),
        ("10.0.0.1", False),
        ("10.0.0.2", True),
        ("2001:db8::1", True),
        ("2001:db8::ffff:1", False),
        ("2001:db8:0:1::1", True),
        ("::a00:1", True),
    ):
        assert strangers.enter(ip_address(source)) is room, source
