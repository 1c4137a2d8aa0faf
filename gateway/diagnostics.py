"""``/livez``, ``/readyz`` and ``/metrics`` for machines. No secrets, no names of people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IListeningPort, IReactorTCP
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from gateway.model import Address, SessionInfo
from gateway.session import Observer

QUIET = 10  # seconds before a silent connection is closed: a scrape is one short request
TEXT = "text/plain; charset=utf-8"
ADMISSION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

Sample = tuple[str, Mapping[str, str], float]
"""A gauge's name, its labels, its value."""

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class Metrics(Observer):
    """What is counted; told by the story and by the list of live sessions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._logins = self._counter("logins", "Log-ins by outcome", "outcome")
        self._ended = self._counter("sessions_ended", "Ended sessions", "protocol", "reason")
        self._statements = self._counter("statements", "Statements carried", "protocol")
        self._bytes = self._counter("bytes", "Bytes of ended sessions", "direction")
        self._admission = Histogram(
            "gateway_admission_seconds",
            "From a connection's first word to its session",
            buckets=ADMISSION,
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read whenever somebody asks."""
        Gauge(f"gateway_{name}", text, registry=self.registry).set_function(read)

    def gauges(self, read: Callable[[], Iterable[Sample]]) -> None:
        """Values with labels, whose number changes: read whenever somebody asks."""
        self.registry.register(_Samples(read))

    def login(self, outcome: str, seconds: float = 0) -> None:
        self._logins.labels(outcome).inc()
        if outcome == "admitted":
            self._admission.observe(seconds)

    def session_ended(self, info: SessionInfo) -> None:
        reason = info.reason.partition(":")[0]  # what follows is free text
        self._ended.labels(info.protocol, reason).inc()
        self._statements.labels(info.protocol).inc(info.statements)
        self._bytes.labels("in").inc(info.bytes_in)
        self._bytes.labels("out").inc(info.bytes_out)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gateway_{name}", text, labels, registry=self.registry)


class _Samples(Collector):
    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in self._read():
            if name not in families:
                text = name.replace("_", " ").capitalize()
                families[name] = GaugeMetricFamily(f"gateway_{name}", text, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()


class Diagnostics:
    """:param ready: None if sessions are taken, otherwise why not"""

    def __init__(self, metrics: Metrics, ready: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._ready = ready
        self._port: IListeningPort | None = None

    def open(self, reactor: IReactorTCP, address: Address) -> None:
        """:raises twisted.internet.error.CannotListenError: the address is taken"""
        pages = _Pages(
            {
                b"/livez": lambda: (200, TEXT, b"alive\n"),
                b"/readyz": self._readiness,
                b"/metrics": self._values,
            }
        )
        site: Any = _Site(pages, timeout=QUIET)  # type: ignore[no-untyped-call]
        self._port = reactor.listenTCP(address.port, site, 50, address.host)

    async def close(self) -> None:
        if self._port is not None:
            stopping = self._port.stopListening()
            if stopping is not None:
                await stopping.asFuture(asyncio.get_running_loop())

    def _readiness(self) -> Answer:
        why = self._ready()
        return (200, TEXT, b"ready\n") if why is None else (503, TEXT, why.encode() + b"\n")

    def _values(self) -> Answer:
        return 200, CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry)


class _Question(Request):
    """A request of which only the path counts."""

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted would keep a body of any length in a file."""


class _Site(Site):
    requestFactory = _Question
    noisy = False

    def log(self, request: object) -> None:
        """Probes come every other second: a log of them would be a log of nothing else."""


class _Pages(Resource):
    """Pages by their exact path, for GET and HEAD; what else is asked is told no in a line."""

    isLeaf = True

    def __init__(self, pages: Mapping[bytes, Callable[[], Answer]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pages = pages

    def render(self, request: Request) -> bytes:
        code, kind, body = self._answer(request)
        request.setResponseCode(code)
        request.setHeader(b"content-type", kind.encode())
        if request.method != b"HEAD":
            return body
        request.setHeader(b"content-length", b"%d" % len(body))
        return b""

    def _answer(self, request: Request) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return 405, TEXT, b"method not allowed\n"
        page = self._pages.get(request.path)
        return page() if page is not None else (404, TEXT, b"not found\n")
