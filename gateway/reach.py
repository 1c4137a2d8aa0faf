"""A TCP connection to a target, as a :class:`~gateway.wire.Wire`."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gateway.errors import Gone, Refused, Unreachable
from gateway.model import Address
from gateway.wire import Wire

STAGGER = 0.25  # seconds that one address has before the next is tried beside it (RFC 8305)
PROMPT = 0.5  # seconds for a resolver to answer, where what it said before is at hand
KEPT = 300.0  # seconds for which that is used: addresses are given to others after a while
MOST_NAMES = 10_000  # whose addresses are kept: more than a company has targets
MOST = 16  # addresses of one name that are tried: more are a mistake, or an attack on us

_NAMES = ThreadPoolExecutor(16, "names")
"""Look-ups have threads of their own: a resolver that stalls must not hold up log-ins, whose
passwords and keys are checked in the event loop's. Sixteen, since each may stall for long."""

FAILURES = (Refused, Gone, OSError, TimeoutError)
"""What may come of reaching for a target."""

Place = tuple[int, Any]
"""An address family, and an address of it."""

_last: dict[Address, tuple[Sequence[Place], float]] = {}


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
    """Where *address* is. A resolver that fails or is silent does not take the targets away:
    for a while what it last said holds, unless it says that there is no such name.

    :raises Unreachable: it holds no host name; OSError: there is none of this name
    """
    known = _known(address)
    try:
        async with asyncio.timeout(PROMPT if known else None):
            found = await _look_up(address)
    except UnicodeError as wrong:
        raise Unreachable(f"{address.host} is no host name") from wrong
    except TimeoutError:
        return known
    except socket.gaierror as failed:
        if failed.errno == socket.EAI_AGAIN and known:
            return known
        raise
    _remember(address, found)
    return found


async def _look_up(address: Address) -> Sequence[Place]:
    """In threads of its own: a resolver that hangs holds up nothing else."""
    ask = partial(socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_NAMES, ask)
    return [(family, place) for family, _, _, _, place in found[:MOST]]


def _known(address: Address) -> Sequence[Place]:
    """What was last said, if that is not too long ago."""
    places, at = _last.get(address, ((), 0.0))
    return places if time.monotonic() - at < KEPT else ()


def _remember(address: Address, places: Sequence[Place]) -> None:
    _last.pop(address, None)
    if len(_last) >= MOST_NAMES:
        del _last[next(iter(_last))]
    _last[address] = places, time.monotonic()


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
