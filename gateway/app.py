"""Where the parts are put together: the only place that knows all of them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from gateway import config, objects
from gateway.audit import FileAudit
from gateway.ca import server_names
from gateway.catalog import Catalog
from gateway.certificates import Certificates
from gateway.commands import Commands
from gateway.config import Config
from gateway.control import Control
from gateway.diagnostics import Diagnostics, Metrics
from gateway.errors import GatewayError, LimitReached, NotRecorded
from gateway.health import Sightings
from gateway.identity import Authenticators
from gateway.listen import Listener, Strangers
from gateway.live import Live
from gateway.model import Snapshot
from gateway.pg import words
from gateway.pg.cancel import CancelKeys
from gateway.pg.dial import IReactor, PostgresDialer
from gateway.pg.edge import PostgresDoor, PostgresEdge
from gateway.pg.pump import Pump
from gateway.places import Places
from gateway.record.keys import signing_key
from gateway.record.writer import FileRecorder, purge
from gateway.session import Door, serve
from gateway.store import Store
from gateway.vault import FileVault
from gateway.wire import Wire

TICK = 1.0  # seconds between looks at limits, hours and the transcripts' leftovers
TIDY = 3600.0  # seconds between looks for what is past its retention

log = Logger()


class Gateway:
    """The running daemon, from :meth:`start` to :meth:`stop`."""

    def __init__(self, reactor: IReactor, path: Path, configuration: Config) -> None:
        self._reactor = reactor
        self._path = path
        self._config = configuration
        self._places = Places(configuration.state_dir)
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._unready: str | None = "starting"

    async def start(self) -> None:
        """Open everything, and the doors last.

        :raises GatewayError: something is missing or in the way, and what
        """
        _private(self._places.state_dir)
        await self._open_rooms()
        self._open_pump()
        await self._control.start()
        try:
            self._open_doors()
        except CannotListenError as taken:
            raise GatewayError(f"cannot listen: {taken}") from taken
        self._tasks = [
            asyncio.ensure_future(self._every(TICK, self._tick)),
            asyncio.ensure_future(self._every(TIDY, self._tidy)),
        ]
        self._unready = None
        log.info("Gateway is ready")

    async def _open_rooms(self) -> None:
        """Keys, records, objects: what decides and remembers."""
        places, recording = self._places, self._config.recording
        vault = FileVault.open(places.keys)
        key, mac = signing_key(places.keys), vault.derive(b"transcripts")
        self._audit = FileAudit(places.audit, key, mac)
        self._recorder = FileRecorder(
            places.transcripts, key, mac, recording.durability, recording.required
        )
        self._store = await Store.open(places.store)
        await self._store.mark_lost()
        self._catalog = Catalog(self._store, vault, self._audit, self._changed)
        self._metrics = Metrics()
        limits = self._config.limits
        self._live = Live(
            self._audit,
            self._store,
            time.time,
            (limits.sessions, limits.sessions_per_user),
            self._metrics.session_ended,
        )
        self._prover = Authenticators(vault.derive(b"unknown users"))
        await self._catalog.load()
        await self._apply_objects()

    def _open_pump(self) -> None:
        """What carries PostgreSQL sessions."""
        self._pump = Pump(asyncio.get_running_loop())
        self._sightings = Sightings(time.time)
        self._certificates = Certificates(
            self._places.state_dir,
            self._config.tls,
            self._names(),
            lambda: datetime.now(UTC),
        )
        timeout = self._config.health.timeout_seconds
        self._postgres = PostgresDoor(
            self._certificates,
            PostgresDialer(self._reactor, self._sightings, time.time, timeout),
            self._pump,
            CancelKeys(),
            self._config.tls_required,
            self._config.domain,
        )
        self._door = Door(
            snapshot=lambda: self._catalog.snapshot,
            prover=self._prover,
            live=self._live,
            recorder=self._recorder,
            audit=self._audit,
            cancel=self._postgres.cancels.cancel,
            clock=time.time,
            login_seconds=self._config.limits.login_seconds,
            observer=self._metrics,
        )
        self._metrics.gauge("sessions_live", "Running sessions", lambda: len(self._live))
        self._metrics.gauge("pump_lag_seconds", "Longest wake-up lately", self._pump.take_lag)
        self._control = Control(self._places.control, self._commands().table())

    def _commands(self) -> Commands:
        return Commands(
            self._catalog,
            self._store,
            self._live,
            self._audit,
            self._sightings,
            time.time,
            self.reload,
            time.time(),
        )

    def _open_doors(self) -> None:
        strangers = Strangers(self._config.limits.unauthenticated_per_address)
        for listener in self._config.listeners:
            if "postgresql" not in listener.protocols:
                log.warn(
                    "{address}: {what} not served yet",
                    address=listener.address,
                    what=", ".join(sorted(listener.protocols)),
                )
                continue
            door = Listener(self._begin_postgres, self._turn_away, strangers)
            door.open(self._reactor, listener.address)
            self._listeners.append(door)
        self._diagnostics = Diagnostics(self._metrics, self._readiness)
        if self._config.diagnostics is not None:
            self._diagnostics.open(self._reactor, self._config.diagnostics)

    async def _begin_postgres(self, wire: Wire) -> None:
        await serve(self._door, PostgresEdge(wire, self._postgres))

    async def _turn_away(self, wire: Wire) -> None:
        self._metrics.login("LimitReached")
        try:
            async with asyncio.timeout(1):
                await wire.send(words.refusal(LimitReached("strangers"), ""))
        except (TimeoutError, GatewayError):
            pass
        wire.close()

    def _names(self) -> frozenset[str]:
        hosts = [listener.address.host for listener in self._config.listeners]
        return server_names(hosts, socket.gethostname(), self._config.domain)

    def _changed(self, snapshot: Snapshot) -> None:
        """The objects are other ones: live sessions are judged again, at once."""
        self._rechecking = asyncio.ensure_future(self._live.recheck(snapshot))

    async def _apply_objects(self) -> None:
        """:raises BadFile: one of the files has mistakes"""
        for path in self._config.objects:
            documents = objects.read(path)
            await self._catalog.apply(documents, owner=str(path))

    async def reload(self) -> None:
        """Configuration, certificates and objects, without dropping a session.

        What cannot be used is logged and raised, and all stays as it was.
        """
        try:
            self._config = fresh = config.load(self._path)
            self._certificates.reload(fresh.tls, self._names())
            await self._apply_objects()
        except GatewayError as failed:
            log.error("Not reloaded: {why}", why=str(failed))
            raise
        log.info("Reloaded")

    async def stop(self) -> None:
        """Close the doors, let sessions finish within ``drain_seconds``, close the rest."""
        self._unready = "draining"
        for listener in self._listeners:
            await listener.close()
        await self._live.drain(self._config.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await self._control.close()
        await self._diagnostics.close()
        self._pump.close()
        await self._store.close()
        self._audit.close()

    def _readiness(self) -> str | None:
        return self._unready or self._recorder.unwritable()

    async def _tick(self) -> None:
        self._recorder.tick()
        self._audit.tick()
        self._live.tick(asyncio.get_running_loop().time())
        await self._live.recheck(self._catalog.snapshot, timed=True)

    async def _tidy(self) -> None:
        days = self._config.recording.retention_days
        before = datetime.now(UTC) - timedelta(days=days)
        await asyncio.to_thread(purge, self._places.transcripts, before.date())
        await self._store.forget_sessions(before.timestamp())

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except NotRecorded as unwritable:
                log.error("Recording fails: {why}", why=unwritable.detail)
            except Exception:
                log.failure("Housekeeping failed")
            await asyncio.sleep(seconds)


def _private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid == os.geteuid():
        directory.chmod(0o700)
