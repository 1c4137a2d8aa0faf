"""What tests of several rooms share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import psutil
import pytest_twisted
from twisted.internet.defer import Deferred

P = ParamSpec("P")


def over(pid: int) -> bool:
    """Whether a process has ended; also if whoever has inherited it has not looked yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def asyncio_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Any]:
    """Let a test be a plain asyncio coroutine under the asyncio reactor."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(test(*args, **kwargs)))

    return pytest_twisted.inlineCallbacks(_yielding(run))


def _yielding(run: Callable[..., Deferred[None]]) -> Callable[..., Any]:
    @functools.wraps(run)
    def steps(*args: Any, **kwargs: Any) -> Any:
        yield run(*args, **kwargs)

    return steps
