"""A fresh log-in made the same session: what is said to it, and when it is not the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import Gone, ProtocolViolation
from gateway.model import Address
from gateway.pg import frames
from gateway.pg.dial import Upstream
from gateway.pg.restore import Arrival, Unrestored, judge, news, restore, uptime
from gateway.pg.state import Restoration
from gateway.pg.target_login import SYSTEM
from gateway.wire import Wire
from tests.pg.targets import READY, answer, tcp_pair
from tests.support import asyncio_test

PARSE = frames.message(ord("P"), b"s\0SELECT 1\0\0\0")
PREPARE = frames.query("PREPARE p AS SELECT 1")
SYNC = frames.message(ord("S"))
TOLD = {"TimeZone": "UTC", "server_version": "15.3", "in_hot_standby": "off"}
NOTHING = Restoration((), (), (), TOLD)


def done(tag: bytes) -> bytes:
    return frames.message(ord("C"), tag + b"\0") + READY


@asynccontextmanager
async def logged_in(rest: bytes = b"") -> AsyncIterator[tuple[Upstream, Wire]]:
    """A log-in that reported :data:`TOLD`, and its target's end."""
    loop = asyncio.get_running_loop()
    near, far = (Wire(sock, loop) for sock in tcp_pair())
    try:
        async with asyncio.timeout(5):
            yield Upstream(near, Address("db", 5432), None, TOLD, rest, lambda: None), far
    finally:
        near.close()
        far.close()


async def begun(
    upstream: Upstream, target: Wire, wanted: Restoration, system: bytes | None = b"7001"
) -> asyncio.Future[Arrival]:
    """A restoration whose target has said whose data it has."""
    restoring = asyncio.ensure_future(restore(upstream, wanted, "7001"))
    await heard(target, frames.query(SYSTEM))
    await target.send(answer(system))
    return restoring


async def heard(target: Wire, expected: bytes) -> None:
    data = b""
    while len(data) < len(expected):
        data += await target.receive()
    assert data == expected


@asyncio_test
async def test_all_is_said_in_order() -> None:
    """And statements last: what their literals mean, settings decide."""
    wanted = Restoration((b"SET a = 1", b"SET b = 1"), (b"LISTEN c",), (PARSE, PREPARE), TOLD)
    async with logged_in(frames.parameter_status("x", "1")) as (upstream, target):
        restoring = await begun(upstream, target, wanted)
        texts = ("SET a = 1", "SET b = 1", "LISTEN c")
        await heard(target, b"".join(map(frames.query, texts)))
        note = frames.message(ord("A"), b"\0\0\0\1c\0\0")
        zone = frames.parameter_status("TimeZone", "CET")
        await target.send(zone + done(b"SET") * 2 + done(b"LISTEN") + note)
        amend = frames.query("SELECT pg_catalog.set_config(E'TimeZone', E'UTC', false)")
        await heard(target, amend + PREPARE + PARSE + SYNC)
        await target.send(frames.parameter_status("TimeZone", "UTC") + done(b"SELECT 1"))
        await target.send(done(b"PREPARE"))
        assert not restoring.done()
        await target.send(frames.message(ord("1")) + READY + note)
        arrival = await restoring
        assert arrival.upstream is upstream
        assert arrival.reported == {**TOLD, "x": "1"}
        assert arrival.rest == note


@asyncio_test
async def test_of_a_session_without_a_state_nothing_else_is_asked() -> None:
    async with logged_in() as (upstream, target):
        arrival = await (await begun(upstream, target, NOTHING))
        assert (arrival.reported, arrival.rest) == (TOLD, b"")


@pytest.mark.parametrize(
    ("said", "seconds"), [(b"12.5", 12.5), (b"x", None), (None, None), (b"", None)]
)
@asyncio_test
async def test_for_how_long_a_target_is_up(said: bytes | None, seconds: float | None) -> None:
    async with logged_in() as (upstream, target):
        asking = asyncio.ensure_future(uptime(upstream))
        assert b"pg_postmaster_start_time" in await target.receive()
        await target.send(answer(said))
        if seconds is None:
            with pytest.raises(ProtocolViolation):
                await asking
        else:
            assert await asking == seconds


@pytest.mark.parametrize("system", [b"7002", b"", None])
@asyncio_test
async def test_other_data_are_not_the_same(system: bytes | None) -> None:
    async with logged_in() as (upstream, target):
        restoring = await begun(upstream, target, NOTHING, system)
        with pytest.raises(Unrestored, match="holds other data"):
            await restoring


@asyncio_test
async def test_whoever_may_not_ask_is_not_taken_along() -> None:
    async with logged_in() as (upstream, target):
        restoring = asyncio.ensure_future(restore(upstream, NOTHING, ""))
        await heard(target, frames.query(SYSTEM))
        await target.send(answer(b""))
        with pytest.raises(Unrestored, match="holds other data"):
            await restoring


@asyncio_test
async def test_a_setting_that_cannot_be_made_again() -> None:
    wanted = Restoration((), (), (), {**TOLD, "TimeZone": "Asia/Tokyo"})
    async with logged_in() as (upstream, target):
        restoring = await begun(upstream, target, wanted)
        text = "SELECT pg_catalog.set_config(E'TimeZone', E'Asia/Tokyo', false)"
        await heard(target, frames.query(text))
        await target.send(done(b"SELECT 1"))
        with pytest.raises(Unrestored, match="TimeZone is 'UTC', not 'Asia/Tokyo'"):
            await restoring


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (frames.error_response("ERROR", "42704", "no such setting"), Unrestored),
        (frames.message(ord("C"), b"SET\0") + frames.ready_for_query(b"T"), ProtocolViolation),
        (frames.message(ord("G"), b"\0\0\0"), ProtocolViolation),
        (frames.message(ord("C"), b"SET" * 100), ProtocolViolation),
        (None, Gone),
    ],
)
@asyncio_test
async def test_a_target_that_does_not_do_it(said: bytes | None, error: type[Exception]) -> None:
    async with logged_in() as (upstream, target):
        restoring = await begun(upstream, target, Restoration((b"SET a = 1",), (), (), TOLD))
        await heard(target, frames.query("SET a = 1"))
        if said is None:
            target.close()
        else:
            await target.send(said)
        with pytest.raises(error):
            await restoring


@pytest.mark.parametrize(
    ("over", "same"),
    [
        ({}, True),
        ({"in_hot_standby": "on"}, True),
        ({"server_version": "15.9 (Debian)"}, True),
        ({"server_version": "16.3"}, False),
        ({"TimeZone": "CET"}, False),
        ({"more": "than before"}, True),
    ],
)
def test_what_is_the_same(over: dict[str, str], same: bool) -> None:
    now = {**TOLD, **over}
    if same:
        judge(TOLD, now)
    else:
        with pytest.raises(Unrestored):
            judge(TOLD, now)


def test_an_older_server_reports_less() -> None:
    judge(TOLD, {"server_version": "15.1"})


def test_news_are_what_has_changed() -> None:
    assert news(TOLD, TOLD) == b""
    changed = {**TOLD, "in_hot_standby": "on", "new": "x"}
    told = frames.parameter_status("in_hot_standby", "on") + frames.parameter_status("new", "x")
    assert news(TOLD, changed) == told
