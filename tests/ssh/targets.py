"""SSH targets that follow a script, or say whatever a test wants said."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncssh

from gateway.model import Address, Target
from tests.ssh.doors import HOST, public
from tests.ssh.raw import RawServer

Script = Callable[[RawServer], Awaitable[None]]


@asynccontextmanager
async def playing(script: Script, key: asyncssh.SSHKey = HOST) -> AsyncIterator[Target]:
    """A target that knows how to exchange keys, and then follows *script*."""
    loop = asyncio.get_running_loop()
    servers: list[RawServer] = []
    played: list[asyncio.Task[None]] = []

    def connected() -> RawServer:
        servers.append(server := RawServer(loop, key))
        played.append(asyncio.ensure_future(play(server)))
        return server

    async def play(server: RawServer) -> None:
        await server.begin()
        await script(server)

    listener = await loop.create_server(connected, "127.0.0.1", 0)
    try:
        yield Target(Address(*listener.sockets[0].getsockname()), host_key=public(HOST))
    finally:
        listener.close()
        for task in played:
            task.cancel()
        await asyncio.gather(*played, return_exceptions=True)
        for server in servers:
            server.abort()
            await server.gone.wait()


@asynccontextmanager
async def saying(*said: bytes, stays: bool = False) -> AsyncIterator[Target]:
    """A target that says so, whatever it hears; *stays*: and then nothing more."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for part in said:
                writer.write(part)
            if stays:
                await reader.read(-1)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Target(Address(*listener.sockets[0].getsockname()), host_key=public(HOST))
    finally:
        listener.close()


def nobody() -> Target:
    """A target that does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return Target(Address(*probe.getsockname()), host_key=public(HOST))
