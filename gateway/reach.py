"""A TCP connection to a target, as a :class:`~gateway.wire.Wire`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from gateway.errors import Gone, Refused, Unreachable
from gateway.model import Address
from gateway.wire import Wire

STAGGER = 0.25  # seconds that one address has before the next is tried beside it (RFC 8305)
MOST = 16  # addresses of one name that are tried: more are a mistake, or an attack on us

FAILURES = (Refused, Gone, OSError, TimeoutError)
"""What may come of reaching for a target."""

Place = tuple[int, Any]
"""An address family, and an address of it."""


async def connect(address: Address, seconds: float) -> Wire:
    """To whichever of the host's addresses answers first (RFC 8305).

    :param seconds: until one of them has to have answered
    :raises Unreachable: *address* holds no host name; and any of :data:`FAILURES`
    """
    async with asyncio.timeout(seconds):
        return await connect_to(await resolve(address))


async def connect_to(places: Sequence[Place]) -> Wire:
    """To whichever of *places* answers first; any of :data:`FAILURES` if none does."""
    loop = asyncio.get_running_loop()
    return Wire(await _race(places, loop), loop)


async def resolve(address: Address) -> Sequence[Place]:
    """Where *address* is.

    :raises Unreachable: it holds no host name; OSError: there is none of this name
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except UnicodeError as wrong:
        raise Unreachable(f"{address.host} is no host name") from wrong
    return [(family, place) for family, _, _, _, place in found[:MOST]]


async def _race(places: Sequence[Place], loop: asyncio.AbstractEventLoop) -> socket.socket:
    """The first socket that is connected; all others are closed."""
    waiting, running = list(places), set[asyncio.Task[socket.socket]]()
    failed: OSError = OSError("the name has no addresses")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_attempt(*waiting.pop(0), loop)))
            done, running = await asyncio.wait(
                running,
                timeout=STAGGER if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    _drop(done - {attempt})
                    return attempt.result()
                failed = error if isinstance(error, OSError) else OSError(str(error))
        raise failed
    finally:
        for attempt in running:
            attempt.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        _drop(running)


async def _attempt(family: int, place: Any, loop: asyncio.AbstractEventLoop) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def _drop(attempts: set[asyncio.Task[socket.socket]]) -> None:
    """Close what came too late."""
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().close()


def words(failed: BaseException) -> str:
    """One of :data:`FAILURES`, for the audit log."""
    if isinstance(failed, Refused):
        return failed.detail
    if isinstance(failed, TimeoutError):
        return "no answer in time"
    if isinstance(failed, Gone):
        return "closed the connection"
    if isinstance(failed, OSError) and failed.errno is not None and failed.errno > 0:
        return os.strerror(failed.errno)
    return str(failed) or type(failed).__name__
