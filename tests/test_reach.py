"""Connecting to names with several addresses, some of which do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from gateway import reach
from gateway.errors import Gone, Unreachable
from gateway.model import Address
from gateway.reach import FAILURES, connect, resolve, words
from tests.leaks import nothing_left
from tests.support import asyncio_test


@contextmanager
def listening(host: str = "127.0.0.1", backlog: int = 5) -> Iterator[int]:
    """The port of somebody who takes connections."""
    with socket.create_server((host, 0), backlog=backlog) as server:
        yield server.getsockname()[1]


def resolves(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """The name "db" has these addresses from now on."""
    real = socket.getaddrinfo

    def found(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "db"
        return [each for one in hosts for each in real(one, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@contextmanager
def silent(host: str) -> Iterator[int]:
    """The port of one whose queue is full: a connection there waits."""
    with socket.socket() as server:
        server.bind((host, 0))
        server.listen(0)
        port = server.getsockname()[1]
        held = [socket.socket() for _ in range(3)]
        for each in held:
            each.setblocking(False)
            each.connect_ex((host, port))
        try:
            yield port
        finally:
            for each in held:
                each.close()


@asyncio_test
async def test_a_name_and_an_address() -> None:
    async with nothing_left():
        with listening() as port:
            for host in ("127.0.0.1", "localhost"):
                wire = await connect(Address(host, port), 5)
                assert wire.source == ip_address("127.0.0.1")
                wire.close()


@asyncio_test
async def test_one_that_refuses_is_passed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "STAGGER", 3600)
    resolves(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with nothing_left(), asyncio.timeout(5):
        with listening() as port:
            wire = await connect(Address("db", port), 5)
            assert wire.source == ip_address("127.0.0.1")
            wire.close()


@asyncio_test
async def test_one_that_is_silent_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reach, "STAGGER", 0.01)
    resolves(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with nothing_left():
        with silent("127.0.0.2") as port, socket.create_server(("127.0.0.1", port)):
            wire = await connect(Address("db", port), 5)
            assert wire.source == ip_address("127.0.0.1")
            wire.close()


@asyncio_test
async def test_nobody_answers() -> None:
    async with nothing_left():
        with silent("127.0.0.2") as port, pytest.raises(TimeoutError):
            await connect(Address("127.0.0.2", port), 0.05)
        with pytest.raises(ConnectionRefusedError):
            await connect(Address("127.0.0.2", port), 5)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "münchen" + "n" * 60, "a..b"])
@asyncio_test
async def test_what_is_no_host_name(host: str) -> None:
    async with nothing_left():
        with pytest.raises((Unreachable, *FAILURES)) as failed:
            await connect(Address(host, 1), 5)
        assert words(failed.value)


def no_name(code: int) -> Any:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(code, "no")

    return failing


@asyncio_test
async def test_a_resolver_that_fails_takes_no_target_away(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address("db", 5432)
    monkeypatch.setattr(reach, "_last", {})
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_AGAIN))
    with pytest.raises(OSError, match="no"):
        await resolve(address)
    monkeypatch.undo()
    monkeypatch.setattr(reach, "_last", {})
    resolves(monkeypatch, "127.0.0.2", "127.0.0.3")
    places = await resolve(address)
    assert [place[0] for _, place in places] == ["127.0.0.2", "127.0.0.3"]
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_AGAIN))
    assert await resolve(address) == places
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_NONAME))
    with pytest.raises(OSError, match="no"):
        await resolve(address)
    monkeypatch.setattr(reach, "KEPT", 0.0)
    monkeypatch.setattr(socket, "getaddrinfo", no_name(socket.EAI_AGAIN))
    with pytest.raises(OSError, match="no"):
        await resolve(address)


@asyncio_test
async def test_a_resolver_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    address, answer = Address("db", 5432), threading.Event()
    monkeypatch.setattr(reach, "_last", {})
    resolves(monkeypatch, "127.0.0.2")
    places = await resolve(address)
    monkeypatch.setattr(reach, "PROMPT", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer.wait() and [])
    try:
        assert await resolve(address) == places
    finally:
        answer.set()


@asyncio_test
async def test_names_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_last", {})
    monkeypatch.setattr(reach, "MOST_NAMES", 2)
    for port in (1, 2, 1, 3):
        await resolve(Address("127.0.0.1", port))
    assert [address.port for address in reach._last] == [1, 3]


@asyncio_test
async def test_a_name_with_an_underscore_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    async with nothing_left():
        with listening() as port:
            (await connect(Address("orders_db", port), 5)).close()


@asyncio_test
async def test_giving_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "STAGGER", 0)
    resolves(monkeypatch, *["127.0.0.2"] * 20)
    async with nothing_left():
        with silent("127.0.0.2") as port:
            task = asyncio.ensure_future(connect(Address("db", port), 60))
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        (Unreachable("detail"), "detail"),
        (TimeoutError(), "no answer in time"),
        (Gone(), "closed the connection"),
        (ConnectionRefusedError(111, "call failed"), "Connection refused"),
        (OSError(), "OSError"),
    ],
)
def test_words(failed: BaseException, said: str) -> None:
    assert words(failed) == said
