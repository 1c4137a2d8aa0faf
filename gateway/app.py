"""Where the parts are put together: the only place that knows all of them."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import evolve
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTCP
from twisted.logger import Logger

from gateway import audit, certificates, config, objects, policy, private
from gateway.audit import FileAudit
from gateway.ca import server_names
from gateway.catalog import Catalog
from gateway.certificates import Certificates
from gateway.commands import Commands
from gateway.config import Config, ListenerConfig
from gateway.control import Control
from gateway.diagnostics import Diagnostics, Metrics
from gateway.doorstep import Doorstep, Story
from gateway.errors import GatewayError, LimitReached, NotRecorded, ShuttingDown
from gateway.greeting import Spoken
from gateway.health import RefusedAccounts, Sightings, Watch
from gateway.identity import Authenticators
from gateway.listen import Listener, Strangers
from gateway.live import Live
from gateway.model import End, EndReason, Protocol, Snapshot
from gateway.pg import words
from gateway.pg.cancel import CancelKeys
from gateway.pg.dial import PostgresDialer
from gateway.pg.edge import PostgresDoor, PostgresEdge
from gateway.pg.probe import PostgresProbe
from gateway.pg.pump import Pump
from gateway.pg.rehome import Movers
from gateway.places import Places
from gateway.record.keys import signing_key
from gateway.record.writer import FileRecorder, purge
from gateway.session import Door, serve
from gateway.ssh.authority import SshAuthority
from gateway.ssh.dial import SshDialer
from gateway.ssh.edge import SshDoor, SshEdge
from gateway.ssh.probe import SshProbe
from gateway.store import Store
from gateway.targets import Targets
from gateway.vault import FileVault
from gateway.wire import Wire

TICK = 1.0  # seconds between looks at limits, hours and the transcripts' leftovers
TIDY = 3600.0  # seconds between looks for what is past its retention
AT_START = (
    "state_dir",
    "listeners",
    "diagnostics",
    "recording",
    "health",
    "zone",
)  # only read then

DRAINING = "draining"

log = Logger()


class Gateway:
    """The running daemon, from :meth:`start` to :meth:`stop`."""

    def __init__(self, reactor: IReactorTCP, path: Path, configuration: Config) -> None:
        self._reactor = reactor
        self._path = path
        self._config = configuration
        self._places = Places(configuration.state_dir)
        self._control = Control(self._places.control)
        self._closing = AsyncExitStack()  # what has been opened so far
        self._turn = asyncio.Lock()  # starting, then reloading: one at a time, and each whole
        self._unready: str | None = "starting"

    async def start(self) -> None:
        """Open everything, and the doors last; not those if it is to stop by then.

        :raises GatewayError: something is missing or in the way, and what
        """
        async with self._turn:
            await self._open()

    async def _open(self) -> None:
        _private(self._places.state_dir)
        self._control.claim()
        self._closing.push_async_callback(self._control.close)
        await self._open_rooms()
        self._open_pump()
        await self._open_ssh()
        self._open_watch()
        await self._control.start(self._commands().table())
        if self._unready == DRAINING:
            return
        try:
            self._open_doors()
        except CannotListenError as taken:
            raise GatewayError(f"cannot listen: {taken}") from taken
        for seconds, work in ((TICK, self._tick), (TIDY, self._tidy)):
            task = asyncio.ensure_future(self._every(seconds, work))
            self._closing.callback(task.cancel)
        self._closing.push_async_callback(self._drain)
        self._unready = None
        log.info("Gateway is ready")

    async def _open_rooms(self) -> None:
        """Keys, records, objects: what decides and remembers."""
        places, recording = self._places, self._config.recording
        remains = places.remains()
        vault = FileVault.open(places.keys, remains)
        key, mac = signing_key(places.keys, remains), vault.derive(b"transcripts")
        self._audit = FileAudit(places.audit, key, mac)
        self._closing.callback(self._audit.close)
        self._recorder = FileRecorder(
            places.transcripts,
            key,
            mac,
            recording.durability,
            recording.required,
            self._unrecorded,
            self._audit,
        )
        self._store = await Store.open(places.store)
        self._closing.push_async_callback(self._store.close)
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
        self._sightings = Sightings(time.time, self._config.zone)
        self._targets = Targets(self._live, self._sightings, self._audit, time.time)
        self._accounts = RefusedAccounts(time.time, self._targets.refused_account)
        self._metrics.gauges(self._targets.samples)
        self._prover = Authenticators(vault.derive(b"unknown users"))
        await self._catalog.load()
        await self._apply_objects(self._config.objects)

    async def _open_ssh(self) -> None:
        authority = await asyncio.to_thread(SshAuthority.open, self._places.keys)
        timeout = self._config.health.timeout_seconds
        dialer = SshDialer(authority, self._sightings, self._accounts, time.time, timeout)
        self._ssh = SshDoor(authority, dialer, _names(self._config), self._config.domain, time.time)
        self._ssh_probe = SshProbe(dialer)

    def _open_watch(self) -> None:
        """From now on the targets are looked at."""
        health, postgres, ssh = self._config.health, self._postgres_probe, self._ssh_probe
        watch = Watch(
            {Protocol.POSTGRESQL: postgres, Protocol.SSH: ssh},
            self._sightings,
            (health.interval_seconds, health.timeout_seconds),
            random.Random(),  # noqa: S311 -- jitter
        )
        self._closing.push_async_callback(watch.close)
        self._targets.watch = watch
        self._targets.adopt(self._catalog.snapshot)

    def _open_pump(self) -> None:
        """What carries PostgreSQL sessions."""
        self._pump = Pump(asyncio.get_running_loop())
        self._closing.callback(self._pump.close)
        self._postgres_probe = PostgresProbe(self._accounts)
        self._certificates = Certificates(
            self._places.state_dir,
            self._config.tls,
            _names(self._config),
            lambda: datetime.now(UTC),
        )
        timeout = self._config.health.timeout_seconds
        self._postgres = PostgresDoor(
            self._certificates,
            Movers(
                PostgresDialer(self._sightings, self._accounts, time.time, timeout),
                lambda grant: policy.renew(grant, self._catalog.snapshot, datetime.now(UTC)),
                self._audit,
            ),
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

    def _commands(self) -> Commands:
        return Commands(
            self._catalog,
            self._store,
            self._live,
            self._audit,
            self._sightings,
            self._targets,
            time.time,
            self.reload,
            time.time(),
        )

    def _open_doors(self) -> None:
        self._closing.callback(self._end_stories)
        self._strangers = Strangers(self._config.limits.unauthenticated_per_address)
        for listener in self._config.listeners:
            stories = self._stories(listener)
            if not stories:
                continue
            step = Doorstep(stories, listener.trusted_proxies, self._config.limits.login_seconds)
            only = next(iter(stories)) if len(stories) == 1 else None
            full = self._turn_away if only is Spoken.POSTGRESQL else self._hang_up
            door = Listener(step.begin, full, self._strangers, step.arrive)
            self._closing.push_async_callback(door.cut_off)
            self._closing.push_async_callback(door.close)
            door.open(self._reactor, listener.address)
        if self._config.diagnostics is not None:
            diagnostics = Diagnostics(self._metrics, self._readiness)
            self._closing.push_async_callback(diagnostics.close)
            diagnostics.open(self._reactor, self._config.diagnostics)

    def _stories(self, listener: ListenerConfig) -> dict[Spoken, Story]:
        """What is served there, by how it is spoken."""
        told = {Spoken.POSTGRESQL: self._begin_postgres, Spoken.SSH: self._begin_ssh}
        missing = listener.protocols - {spoken.value for spoken in told}
        if missing:
            what = ", ".join(sorted(missing))
            log.warn("{address}: {what} not served yet", address=listener.address, what=what)
        return {
            spoken: story for spoken, story in told.items() if spoken.value in listener.protocols
        }

    async def _begin_postgres(self, wire: Wire) -> None:
        await serve(self._door, PostgresEdge(wire, self._postgres))

    async def _begin_ssh(self, wire: Wire) -> None:
        await serve(self._door, SshEdge(self._ssh, wire))

    async def _hang_up(self, wire: Wire) -> None:
        self._metrics.login("LimitReached")
        wire.close()

    async def _turn_away(self, wire: Wire) -> None:
        self._metrics.login("LimitReached")
        try:
            async with asyncio.timeout(1):
                await wire.send(words.refusal(LimitReached("strangers"), ""))
        except (TimeoutError, GatewayError):
            pass
        wire.close()

    def _changed(self, snapshot: Snapshot) -> None:
        """The objects are other ones: live sessions are judged again, at once."""
        self._rechecking = asyncio.ensure_future(self._live.recheck(snapshot))
        self._targets.adopt(snapshot)

    def _unrecorded(self, session_id: str, error: NotRecorded) -> None:
        """A transcript failed while nobody spoke: what runs there must not go on."""
        session = self._live.find(session_id)
        if session is not None:
            session.end(End(EndReason.NOT_RECORDED, str(error)))

    async def _apply_objects(self, files: Sequence[Path]) -> None:
        """:raises BadFile: one of the *files* has mistakes"""
        # Read in a thread: 20,000 users take 8 s.
        read = {str(path): await asyncio.to_thread(objects.read, path) for path in files}
        await self._catalog.adopt(read)

    async def reload(self) -> None:
        """Configuration, certificates and objects, without dropping a session.

        What cannot be used is logged and raised, and all stays as it was.
        """
        async with self._turn:
            await self._reload()

    async def _reload(self) -> None:
        if self._unready is not None:
            raise ShuttingDown(self._unready)
        try:
            fresh = config.load(self._path)
            tls, names = fresh.tls, _names(fresh)
            certificates.load(self._places.state_dir, tls, names, datetime.now(UTC))  # a trial
            await self._apply_objects(fresh.objects)
            self._certificates.reload(tls, names)
        except GatewayError as failed:
            log.error("Not reloaded: {why}", why=str(failed))
            raise
        self._adopt(fresh, names)
        log.info("Reloaded")

    def _adopt(self, fresh: Config, names: frozenset[str]) -> None:
        """Connections that come from now on find what *fresh* says."""
        before, self._config = self._config, fresh
        limits, domain = fresh.limits, fresh.domain
        self._postgres = evolve(self._postgres, tls_required=fresh.tls_required, domain=domain)
        self._ssh = evolve(self._ssh, names=names, domain=domain)
        self._door = evolve(self._door, login_seconds=limits.login_seconds)
        self._live.most, self._live.most_per_user = limits.sessions, limits.sessions_per_user
        self._strangers.most = limits.unauthenticated_per_address
        for name in AT_START:
            if getattr(before, name) != getattr(fresh, name):
                log.warn("{name} has changed: not all of it holds before a restart", name=name)

    async def stop(self) -> None:
        """Take no new sessions, let others finish within ``drain_seconds``, close all."""
        self._unready = DRAINING
        async with self._turn:
            pass  # whatever is half done has been done
        await self._closing.aclose()

    async def _drain(self) -> None:
        await self._live.drain(self._config.drain_seconds)  # who comes meanwhile is told

    def _end_stories(self) -> None:
        for story in self._door.inside:
            story.cancel()

    def _readiness(self) -> str | None:
        return self._unready or self._recorder.unwritable()

    async def _tick(self) -> None:
        self._recorder.tick()
        self._audit.tick()
        self._live.tick(asyncio.get_running_loop().time())
        await self._live.recheck(self._catalog.snapshot, timed=True)
        await self._targets.sweep()

    async def _tidy(self) -> None:
        self._certificates.reload(self._config.tls, _names(self._config))  # ours runs out
        days = self._config.recording.retention_days
        before = datetime.now(UTC) - timedelta(days=days)
        await asyncio.to_thread(purge, self._places.transcripts, before.date())
        await asyncio.to_thread(audit.purge, self._places.audit, before.date())
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


def _names(configuration: Config) -> frozenset[str]:
    """What the gateway's own certificate is for."""
    hosts = [listener.address.host for listener in configuration.listeners]
    return server_names(hosts, socket.gethostname(), configuration.domain)


def _private(directory: Path) -> None:
    private.make(directory)
    if directory.stat().st_uid == os.geteuid():
        directory.chmod(0o700)
