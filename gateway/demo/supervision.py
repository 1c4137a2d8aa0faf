"""Servers behind the gateway that end by themselves are started again: people kill them to
see what it does. The gateway itself is not kept up like this, the demo ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from gateway.demo.processes import Child, Failed
from gateway.errors import GatewayError

# Seconds before each start anew. What ends once more, the fifth time in a row, is given up.
PAUSES = (1.0, 2.0, 4.0, 8.0)
STEADY = 60.0  # seconds: what has been ready for as long begins with the first pause again

Serve = Callable[[], AbstractAsyncContextManager[Child]]
Tell = Callable[[str], None]


@asynccontextmanager
async def kept_up(serve: Serve, tell: Tell) -> AsyncIterator[None]:
    """Run what *serve* runs; the block begins when it is ready.

    :param serve: its block begins when the program is ready
    :param tell: is handed lines for people
    :raises GatewayError: it did not come up the first time
    """
    ready = asyncio.Event()
    keeping = asyncio.ensure_future(_keep(serve, ready, tell))
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait({keeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set():
            await keeping  # raises why
        yield
    finally:
        waiting.cancel()
        keeping.cancel()
        await asyncio.wait({keeping})


async def _keep(serve: Serve, ready: asyncio.Event, tell: Tell) -> None:
    pauses = iter(PAUSES)
    while True:
        failed, seconds = await _life(serve, ready)
        if seconds >= STEADY:
            pauses = iter(PAUSES)
        pause = next(pauses, None)
        if pause is None:
            break
        tell(f"{failed}: starting it again")
        await asyncio.sleep(pause)
    for line in _given_up(failed):
        tell(line)


async def _life(serve: Serve, ready: asyncio.Event) -> tuple[Exception, float]:
    """Why the program ended, and for how many seconds it had been ready.

    :raises GatewayError: it ended and nothing has ever been ready
    """
    loop = asyncio.get_running_loop()
    begun = None
    try:
        async with serve() as child:
            ready.set()
            begun = loop.time()
            await child.ended()
    except (GatewayError, OSError) as failed:  # OSError: its directory has gone, for example
        if not ready.is_set():
            raise
        return failed, 0.0 if begun is None else loop.time() - begun
    raise AssertionError("a program that has ended raises")


def _given_up(failed: Exception) -> Iterator[str]:
    yield f"{failed}, {len(PAUSES) + 1} times in a row: it is given up, the rest goes on"
    if isinstance(failed, Failed):
        yield from (f"  {line}" for line in failed.log)
