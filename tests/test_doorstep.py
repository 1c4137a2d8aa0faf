"""What a listener does with the first bytes of a connection, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest
from attrs import define, field

from gateway import doorstep
from gateway.doorstep import Doorstep
from gateway.errors import Gone
from gateway.greeting import Spoken
from gateway.wire import Wire
from tests.leaks import nothing_left
from tests.support import asyncio_test

HERE = (ip_network("127.0.0.0/8"),)
ELSEWHERE = (ip_network("10.0.0.0/8"),)
STARTUP = b"\0\0\0\x09\0\3\0\0\0"
VERSION = b"SSH-2.0-OpenSSH_9.2\r\n"
LINE = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 5432\r\n"
BOTH = (Spoken.POSTGRESQL, Spoken.SSH)


@define
class Visit:
    """A client's socket, and what became of it."""

    far: socket.socket
    wire: Wire
    step: Doorstep
    told: list[tuple[Spoken, bytes]] = field(factory=list)
    begun: asyncio.Event = field(factory=asyncio.Event)

    async def story(self) -> tuple[Spoken, bytes]:
        await self.step.arrive(self.wire)
        await self.step.begin(self.wire)
        return self.told[0]


@asynccontextmanager
async def visit(
    *spoken: Spoken, proxies: tuple[object, ...] = (), seconds: float = 5.0
) -> AsyncIterator[Visit]:
    async with nothing_left(), asyncio.timeout(10):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = socket.create_connection(listening.getsockname())
            near, _ = listening.accept()
        far.setblocking(False)
        wire = Wire(near, asyncio.get_running_loop())
        told: list[tuple[Spoken, bytes]] = []
        begun = asyncio.Event()

        def story(protocol: Spoken):
            async def tell(wire: Wire) -> None:
                begun.set()
                told.append((protocol, await wire.look(1, 100)))

            return tell

        step = Doorstep({each: story(each) for each in spoken}, proxies, seconds)
        try:
            yield Visit(far, wire, step, told, begun)
        finally:
            wire.close()
            far.close()


async def dripped(visitor: Visit, data: bytes) -> tuple[Spoken, bytes]:
    """Byte by byte, each after the one before has been looked at."""
    task = asyncio.ensure_future(visitor.story())
    for place in range(len(data)):
        visitor.far.send(data[place : place + 1])
        for _ in range(3):
            await asyncio.sleep(0)
    return await task


@pytest.mark.parametrize(
    ("data", "spoken"), [(STARTUP, Spoken.POSTGRESQL), (VERSION, Spoken.SSH)], ids=["pg", "ssh"]
)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytes"])
@asyncio_test
async def test_protocols_are_told_apart(data: bytes, spoken: Spoken, split: bool) -> None:
    async with visit(*BOTH) as visitor:
        if split:
            protocol, seen = await dripped(visitor, data)
        else:
            visitor.far.send(data)
            protocol, seen = await visitor.story()
        assert protocol is spoken
        assert data.startswith(seen)
        assert await visitor.wire.look(len(data), 100) == data, "nothing was taken"


@asyncio_test
async def test_who_says_nothing_waits_for_the_banner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "SILENCE", 0.01)
    async with visit(*BOTH) as visitor:
        task = asyncio.ensure_future(visitor.story())
        await visitor.begun.wait()
        visitor.far.send(VERSION)
        assert await task == (Spoken.SSH, VERSION)


@asyncio_test
async def test_what_is_neither_gets_the_words_of_the_first() -> None:
    async with visit(*BOTH) as visitor:
        visitor.far.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await visitor.story())[0] is Spoken.POSTGRESQL


@asyncio_test
async def test_who_begins_and_does_not_go_on_is_gone_in_time() -> None:
    async with visit(*BOTH, seconds=0.05) as visitor:
        visitor.far.send(b"\0\0")
        with pytest.raises(Gone):
            await visitor.story()


@asyncio_test
async def test_who_hangs_up_half_way_is_nobody() -> None:
    async with visit(*BOTH) as visitor:
        visitor.far.send(b"SS")
        visitor.far.shutdown(socket.SHUT_WR)
        assert (await visitor.story())[0] is Spoken.POSTGRESQL


@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytes"])
@asyncio_test
async def test_a_trusted_proxy_says_where_the_client_is(split: bool) -> None:
    async with visit(Spoken.POSTGRESQL, proxies=HERE) as visitor:
        if split:
            protocol = await dripped(visitor, LINE + STARTUP)
        else:
            visitor.far.send(LINE + STARTUP)
            protocol = await visitor.story()
        assert visitor.wire.source == ip_address("192.0.2.7")
        assert protocol[0] is Spoken.POSTGRESQL
        assert await visitor.wire.look(len(STARTUP), 100) == STARTUP


@asyncio_test
async def test_nobody_else_is_asked_or_believed() -> None:
    async with visit(Spoken.POSTGRESQL, proxies=ELSEWHERE) as visitor:
        visitor.far.send(LINE)
        assert (await visitor.story())[1] == LINE
        assert visitor.wire.source == ip_address("127.0.0.1")


@pytest.mark.parametrize("said", [STARTUP, b"PROXY TCP4 nonsense\r\n", b"PROXY TC"])
@asyncio_test
async def test_a_trusted_proxy_must_say(said: bytes) -> None:
    async with visit(Spoken.POSTGRESQL, proxies=HERE) as visitor:
        visitor.far.send(said)
        visitor.far.shutdown(socket.SHUT_WR)
        with pytest.raises(Gone):
            await visitor.story()


@asyncio_test
async def test_a_silent_proxy_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "PROXY_SECONDS", 0.02)
    async with visit(Spoken.POSTGRESQL, proxies=HERE) as visitor:
        with pytest.raises(Gone):
            await visitor.story()
