"""Whether something is left behind: descriptors, tasks, tracebacks in the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from twisted.logger import capturedLogs

TURNS = 200  # of the event loop, for what is under way to come to its end


@asynccontextmanager
async def nothing_left(*, broken: bool = False) -> AsyncIterator[list[dict[str, Any]]]:
    """What was opened within is closed again, and what was begun has ended.

    Gives the list of failures that were logged, which is to stay empty unless the test is
    about mistakes of our own (*broken*).
    """
    loop = asyncio.get_running_loop()
    before = _open()
    failures: list[dict[str, Any]] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    try:
        with capturedLogs() as events:
            yield failures
            for _ in range(TURNS):
                if _open() <= before:
                    break
                await asyncio.sleep(0)
            failures += [event for event in events if "log_failure" in event]
    finally:
        loop.set_exception_handler(handler)
    assert _open() <= before, _open() - before
    assert bool(failures) is broken, failures


def _open() -> set[object]:
    """Tasks, and descriptors but for the one that Twisted keeps in reserve."""
    found: set[object] = set(asyncio.all_tasks())
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            if (link := os.readlink(f"/proc/self/fd/{fd}")) != os.devnull:
                found.add((fd, link))
    return found
