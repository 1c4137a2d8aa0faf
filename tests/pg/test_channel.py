"""Sockets as the pump sees them, plain and with TLS."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.pg.channel import CHUNK, Channel, channel
from gateway.wire import Wire
from tests.pg.targets import LEAF, anyone, context, tcp_pair, until
from tests.support import asyncio_test


@asynccontextmanager
async def joined(tls: bool) -> AsyncIterator[tuple[Channel, Channel, socket.socket]]:
    """Two ends of one connection, and the socket under the second."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    wires = Wire(near, loop), Wire(far, loop)
    if tls:
        shaking = wires[0].start_tls(anyone(), None), wires[1].accept_tls(context(LEAF))
        await asyncio.gather(*shaking)
    ends = channel(*wires[0].take()), channel(*wires[1].take())
    try:
        yield *ends, far
    finally:
        for end in ends:
            end.close()


async def received(end: Channel) -> bytes | None:
    found: list[bytes | None] = []

    def come() -> bool:
        data = end.receive()
        if data is not None:
            found.append(data)
        return bool(found)

    async with asyncio.timeout(5):
        await until(come)
    return found[0]


@pytest.mark.parametrize("tls", [False, True])
@asyncio_test
async def test_bytes_come_through_and_then_the_end(tls: bool) -> None:
    async with joined(tls) as (near, far, _):
        assert near.receive() is None
        assert far.transmit(b"hello") == 5
        assert await received(near) == b"hello"
        far.half_close()
        assert await received(near) == b""


@pytest.mark.parametrize("tls", [False, True])
@asyncio_test
async def test_a_full_socket_takes_nothing(tls: bool) -> None:
    async with joined(tls) as (near, _, _):
        while near.transmit(bytes(CHUNK)):
            pass
        assert near.transmit(bytes(CHUNK)) == 0


@pytest.mark.parametrize("tls", [False, True])
@asyncio_test
async def test_a_reset_is_an_error(tls: bool) -> None:
    async with joined(tls) as (near, _, sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        with pytest.raises(ConnectionResetError):
            await received(near)
        with pytest.raises(OSError):
            near.transmit(b"x")


@asyncio_test
async def test_what_tls_has_read_ahead_is_pending() -> None:
    async with joined(tls=True) as (near, far, _):
        assert not near.pending()
        assert far.transmit(b"x" * 100) == 100
        assert await received(near) == b"x" * 100
        assert not near.pending()


@asyncio_test
async def test_a_closed_one_has_no_descriptor() -> None:
    async with joined(tls=False) as (near, _, _):
        assert near.fileno() >= 0
        near.close()
        assert near.fileno() == -1
