"""From an accepted connection to the story of its protocol.

A trusted proxy says where the client really is; a listener for several protocols tells
them apart by the first bytes, which stay where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from attrs import frozen

from gateway import greeting, proxyheader
from gateway.errors import Gone, ProtocolViolation
from gateway.greeting import Greeting, Spoken
from gateway.model import IPNetwork
from gateway.proxyheader import Header
from gateway.wire import Wire

PROXY_SECONDS = 5.0  # for a header that a proxy sends with its first packet
SILENCE = 0.3  # seconds after which a client is one that waits for the server's banner: SSH

Story = Callable[[Wire], Awaitable[None]]
T = TypeVar("T", Header, Greeting)


@frozen
class Doorstep:
    """One listener's: ``stories`` by protocol, and from whom PROXY headers are believed.

    ``seconds``: how long a client may take to begin.
    """

    stories: Mapping[Spoken, Story]
    proxies: tuple[IPNetwork, ...]
    seconds: float

    async def arrive(self, wire: Wire) -> None:
        """Learn where the client is, if it comes through a trusted proxy.

        :raises Gone: it left, or its proxy did not say
        """
        if not any(wire.source in network for network in self.proxies):
            return
        try:
            async with asyncio.timeout(PROXY_SECONDS):
                header = await _proxy_header(wire)
        except (TimeoutError, ProtocolViolation) as wrong:
            raise Gone from wrong
        await wire.discard(header.length)
        if header.source is not None:
            wire.source = header.source

    async def begin(self, wire: Wire) -> None:
        """Tell the story of the protocol that the client speaks.

        :raises Gone: it said nothing in time, or left
        """
        if len(self.stories) == 1:
            (story,) = self.stories.values()
        else:
            story = self.stories[await self._spoken(wire)]
        await story(wire)

    async def _spoken(self, wire: Wire) -> Spoken:
        """Of the protocols that are served here; what is none of them gets the words of one."""
        first = next(iter(self.stories))
        silence = SILENCE if Spoken.SSH in self.stories else self.seconds
        try:
            async with asyncio.timeout(silence):
                await wire.look(1, 1)
        except TimeoutError:
            if Spoken.SSH in self.stories:
                return Spoken.SSH
            raise Gone from None
        try:
            async with asyncio.timeout(self.seconds):
                spoken = (await _greeting(wire)).spoken
        except TimeoutError as slow:
            raise Gone from slow
        return spoken if spoken in self.stories else first


async def _proxy_header(wire: Wire) -> Header:
    found = await _told(wire, proxyheader.parse, proxyheader.LONGEST)
    if found is None:
        raise Gone
    return found


async def _greeting(wire: Wire) -> Greeting:
    return await _told(wire, greeting.tell, greeting.LONGEST) or greeting.UNKNOWN


async def _told(wire: Wire, parse: Callable[[bytes], T | int], longest: int) -> T | None:
    """What the first bytes tell, as soon as there are enough; None if no more will come."""
    least = 1
    while True:
        data = await wire.look(least, longest)
        found = parse(data)
        if not isinstance(found, int):
            return found
        if len(data) < least:
            return None
        least = found
