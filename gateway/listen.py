"""The doors: accepts connections, counts strangers, begins each one's story."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.interfaces import IListeningPort, IReactorTCP
from twisted.internet.protocol import ServerFactory

from gateway.errors import Gone
from gateway.model import Address, IPAddress
from gateway.wire import Adopt, Wire

BACKLOG = 1024  # connections the kernel holds for us: a restart of a pool comes all at once

Begin = Callable[[Wire], Coroutine[Any, Any, None]]
"""The story of one connection."""


class Strangers:
    """Connections that nobody has logged in on yet, by address.

    An IPv6 network of 64 bits counts as one address: a single machine has all of them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: Counter[int] = Counter()

    def enter(self, source: IPAddress) -> bool:
        """False if *source* has as many as it may."""
        place = _place(source)
        if self._waiting[place] >= self.most:
            return False
        self._waiting[place] += 1
        return True

    def leave(self, source: IPAddress) -> None:
        place = _place(source)
        self._waiting[place] -= 1
        if not self._waiting[place]:
            del self._waiting[place]


def _place(source: IPAddress) -> int:
    """IPv4 addresses as they are, IPv6 networks above them."""
    return int(source) if source.version == 4 else (1 << 64) + (int(source) >> 64)


class Listener:
    """One address on which connections are accepted.

    :param begin: the story of a connection; ends when it is spliced or refused
    :param full: what is said to an address that has too many strangers already
    :param arrive: learns where a client really is, before it is counted
    """

    def __init__(
        self,
        begin: Begin,
        full: Callable[[Wire], Awaitable[None]],
        strangers: Strangers,
        arrive: Callable[[Wire], Awaitable[None]] | None = None,
    ) -> None:
        self._arrive = arrive
        self._begin = begin
        self._full = full
        self._strangers = strangers
        self._stories: set[asyncio.Task[None]] = set()
        self._port: IListeningPort | None = None

    def open(self, reactor: IReactorTCP, address: Address) -> None:
        """:raises twisted.internet.error.CannotListenError: the address is taken"""
        factory: ServerFactory[Any] = ServerFactory()
        factory.protocol = self._adopt
        factory.noisy = False
        self._port = reactor.listenTCP(address.port, factory, BACKLOG, address.host)

    async def close(self) -> None:
        """Accept no more. Stories that have begun go on, until they are :meth:`cut_off`."""
        if self._port is not None:
            port, self._port = self._port, None
            stopping = port.stopListening()
            if stopping is not None:
                await stopping.asFuture(asyncio.get_running_loop())

    async def cut_off(self) -> None:
        """End the stories that are still being told."""
        for story in self._stories:
            story.cancel()
        if self._stories:
            await asyncio.wait(self._stories)

    def _adopt(self) -> Adopt:
        return Adopt(self._accepted)

    def _accepted(self, sock: socket.socket) -> None:
        story = asyncio.ensure_future(self._run(Wire(sock, asyncio.get_running_loop())))
        self._stories.add(story)  # the loop itself holds tasks only weakly
        story.add_done_callback(self._stories.discard)

    async def _run(self, wire: Wire) -> None:
        """A story that ends has closed its wire or given it away; one that breaks off has not."""
        try:
            if self._arrive is not None:
                await self._arrive(wire)
            await self._tell(wire, wire.source)
        except Gone:
            wire.close()
        except BaseException:
            wire.close()
            raise

    async def _tell(self, wire: Wire, source: IPAddress) -> None:
        if not self._strangers.enter(source):
            await self._full(wire)
            return
        try:
            await self._begin(wire)
        finally:
            self._strangers.leave(source)
