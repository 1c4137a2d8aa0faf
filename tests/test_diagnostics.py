"""Over real HTTP: alive, ready, counted, and nothing kept of what is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from attrs import define, evolve
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.logger import capturedLogs

from gateway.diagnostics import Diagnostics, Metrics
from gateway.errors import BadProof
from gateway.model import Address, EndReason, SessionInfo
from tests.leaks import nothing_left
from tests.support import asyncio_test

PATIENCE = 30.0  # seconds; nothing here takes a tenth of them
INFO = SessionInfo(
    "0123456789abcdef",
    "alice",
    "orders",
    "app_ro",
    "db:5432",
    "postgresql",
    "10.1.1.1",
    1_795_000_000.0,
    statements=3,
    bytes_in=20,
    bytes_out=100,
)


@define
class Site:
    metrics: Metrics
    diagnostics: Diagnostics
    unready: str | None = None

    @property
    def address(self) -> Address:
        assert self.diagnostics._port is not None
        host = self.diagnostics._port.getHost()
        return Address(host.host, host.port)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, body

    async def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        request = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        return await self.ask(request.encode())


@asynccontextmanager
async def site(*, broken: bool = False) -> AsyncIterator[Site]:
    async with nothing_left(broken=broken), asyncio.timeout(PATIENCE):
        metrics = Metrics()
        here = Site(metrics, Diagnostics(metrics, lambda: here.unready))
        here.diagnostics.open(reactor, Address("127.0.0.1", 0))
        try:
            yield here
        finally:
            await here.diagnostics.close()


@asyncio_test
async def test_alive_and_ready() -> None:
    async with site() as here:
        assert (await here.get("/livez"))[::2] == (200, b"alive\n")
        assert (await here.get("/readyz"))[::2] == (200, b"ready\n")
        here.unready = "transcripts: disk full"
        assert (await here.get("/livez"))[::2] == (200, b"alive\n")
        status, headers, body = await here.get("/readyz")
        assert (status, body) == (503, b"transcripts: disk full\n")
        assert headers["content-type"] == "text/plain; charset=utf-8"


@asyncio_test
async def test_nothing_else_is_there_and_nothing_can_be_told() -> None:
    async with site() as here:
        for path in ("/", "/metrics.json", "/..%2fetc%2fpasswd"):
            assert (await here.get(path))[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "DANCE"):
            status, headers, _ = await here.get("/livez", method)
            assert (status, headers["allow"]) == (405, "get, head")
        status, headers, body = await here.get("/livez", "HEAD")
        assert (status, headers["content-length"], body) == (200, "6", b"")


@asyncio_test
async def test_gauges_whose_number_changes() -> None:
    rows: list[tuple[str, dict[str, str], float]] = []
    async with site() as here:
        here.metrics.gauges(lambda: rows)
        assert b"target_up" not in (await here.get("/metrics"))[2]
        rows += [("target_up", {"target": name}, up) for name, up in (("a:1", 1.0), ("b:1", 0.0))]
        rows.append(("target_lag_seconds", {"target": 'a"\n'}, 0.5))
        lines = (await here.get("/metrics"))[2].decode().splitlines()
        assert 'gateway_target_up{target="a:1"} 1.0' in lines
        assert 'gateway_target_up{target="b:1"} 0.0' in lines
        assert 'gateway_target_lag_seconds{target="a\\"\\n"} 0.5' in lines


@asyncio_test
async def test_metrics_have_counters_and_no_names() -> None:
    async with site() as here:
        here.metrics.login("admitted", 0.02)
        here.metrics.login(BadProof.__name__)
        ended = evolve(INFO, status="ended", reason=f"{EndReason.KILLED.value}: alice: lunch")
        here.metrics.session_ended(ended)
        here.metrics.gauge("sessions_live", "Running sessions", lambda: 7)
        status, headers, body = await here.get("/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=")
        lines = body.decode().splitlines()
        for line in (
            'gateway_logins_total{outcome="admitted"} 1.0',
            'gateway_logins_total{outcome="BadProof"} 1.0',
            'gateway_sessions_ended_total{protocol="postgresql",reason="killed"} 1.0',
            'gateway_statements_total{protocol="postgresql"} 3.0',
            'gateway_bytes_total{direction="in"} 20.0',
            'gateway_bytes_total{direction="out"} 100.0',
            'gateway_admission_seconds_bucket{le="0.01"} 0.0',
            'gateway_admission_seconds_bucket{le="0.025"} 1.0',
            "gateway_admission_seconds_count 1.0",
            "gateway_sessions_live 7.0",
        ):
            assert line in lines
        for name in ("alice", "orders", "app_ro", "db:5432", "10.1.1.1", "lunch"):
            assert name not in body.decode()


@pytest.mark.parametrize("reason", EndReason)
def test_reasons_carry_no_free_text(reason: EndReason) -> None:
    metrics = Metrics()
    for detail in ("", ": secret", ": secret: secret"):
        metrics.session_ended(evolve(INFO, reason=reason.value + detail))
    labels = {"protocol": "postgresql", "reason": reason.value}
    assert metrics.registry.get_sample_value("gateway_sessions_ended_total", labels) == 3


@asyncio_test
async def test_a_value_that_cannot_be_read_is_an_error_without_details() -> None:
    async with site(broken=True) as here:
        here.metrics.gauge("broken", "Broken", lambda: 1 / 0)
        status, _, body = await here.get("/metrics")
        assert status == 500
        assert b"ZeroDivisionError" not in body
        assert (await here.get("/livez"))[0] == 200


@asyncio_test
async def test_a_body_is_not_kept() -> None:
    async with site() as here:
        reader, writer = await asyncio.open_connection(here.address.host, here.address.port)
        writer.write(b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        before = _nameless()
        for _ in range(300):  # more than the kernel buffers: most of it has been read by then
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
        assert _nameless() - before < 65536
        writer.write(b"0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"405"
        writer.close()
        await writer.wait_closed()


def _nameless() -> int:
    """Bytes in temporary files that have no name any more."""
    size = 0
    for fd in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{fd}"
        if os.path.lexists(path) and os.readlink(path).endswith("(deleted)"):
            size += os.stat(path).st_size
    return size


@asyncio_test
async def test_probes_leave_no_lines_in_the_log() -> None:
    async with site() as here:
        with capturedLogs() as events:
            await here.get("/livez")
            (await asyncio.open_connection(here.address.host, here.address.port))[1].close()
            await here.ask(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert not events


@asyncio_test
async def test_a_taken_address_is_an_error() -> None:
    async with site() as here:
        other = Diagnostics(here.metrics, lambda: None)
        with pytest.raises(CannotListenError):
            other.open(reactor, here.address)
        await other.close()
