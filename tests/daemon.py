"""The daemon without its doors: objects, records and the control socket, all of them real."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import define, field
from click.testing import CliRunner

from gateway import objects, policy
from gateway.audit import FileAudit, read
from gateway.catalog import Catalog
from gateway.cli import main
from gateway.commands import Commands
from gateway.control import Control
from gateway.health import Sightings
from gateway.live import Live, Session
from gateway.model import Ask, End, EndReason, Grant, Identity, Protocol, SessionInfo
from gateway.places import Places
from gateway.record.keys import signing_key
from gateway.record.writer import FileRecorder
from gateway.store import Store
from gateway.targets import Targets
from gateway.vault import FileVault
from tests.story import Running

STARTED = 1_795_000_000.0  # 2026-11-18 UTC
OBJECTS = """\
resources:
  - name: orders
    protocol: postgresql
    database: shop
    targets: [{address: "db1.example.com:5432"}, {address: "db2.example.com:5432"}]
    accounts: [{name: app_ro, password: {value: hunter2-for-orders}}]
users:
  - {name: alice, groups: [analysts], password: {plain: hunter2-of-alice}}
  - {name: bob, password: {plain: hunter2-of-bob}, disabled: true}
roles:
  - {name: reader, allow: [{resources: {names: [orders]}, accounts: [app_ro]}]}
bindings:
  - {name: analysts-read, role: reader, subjects: [group:analysts]}
"""


@define
class Done:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


def run(*arguments: str, stdin: bytes = b"", **environment: str | None) -> Done:
    """The command line as ``python -m gateway`` runs it, in this process."""
    code: Any = 0
    with CliRunner().isolation(input=stdin, env=environment) as (out, err, _):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
    return Done(code, out.getvalue().decode(), err.getvalue().decode())


@define
class Daemon:
    """Its state is in *directory*, beside ``gateway.yaml`` and ``objects.yaml``."""

    directory: Path
    store: Store
    audit: FileAudit
    catalog: Catalog
    live: Live
    recorder: FileRecorder
    commands: Commands
    reloaded: int = 0
    runs: list[Session] = field(factory=list)

    @property
    def places(self) -> Places:
        return Places(self.directory / "state")

    @property
    def config(self) -> Path:
        return self.directory / "gateway.yaml"

    async def cli(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command against this daemon, whose loop goes on meanwhile."""
        config = ("--config", str(self.config))
        return await asyncio.to_thread(run, *config, *arguments, stdin=stdin, GATEWAY_CONFIG=None)

    async def apply(self, text: str) -> None:
        await self.catalog.apply(objects.parse(text, "objects.yaml"), owner=None)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def begin(self, session_id: str, user: str = "alice", started: float = STARTED) -> Session:
        """A session that carries nothing, with its transcript."""
        ask = Ask(Protocol.POSTGRESQL, user, "orders", ip_address("10.0.0.1"))
        grant = policy.decide(
            ask, Identity(user, "password"), self.catalog.snapshot, datetime.now(UTC)
        )
        assert isinstance(grant, Grant), grant
        target = str(grant.resource.targets[0].address)
        facts = ("orders", grant.account.name, target, "postgresql", "10.0.0.1", started)
        info = SessionInfo(session_id, user, *facts)
        with self.live.seat(user) as seat:
            session = self.live.begin(info, grant, self.recorder.open(info), seat)
        session.running = Running(session.done)
        self.runs.append(session)
        return session

    def audited(self, *events: str) -> list[dict[str, Any]]:
        return [entry for entry in read(self.places.audit) if entry["event"] in events]


@asynccontextmanager
async def running(directory: Path, text: str = OBJECTS) -> AsyncIterator[Daemon]:
    """A daemon that answers on its control socket, with the objects of *text*."""
    (directory / "gateway.yaml").write_text(
        "state_dir: state\nlisteners: [{address: 127.0.0.1:0, protocols: [postgresql]}]\n"
    )
    places = Places(directory / "state")
    places.state_dir.mkdir(mode=0o700)
    vault, key = FileVault.open(places.keys), signing_key(places.keys)
    mac = vault.derive(b"transcripts")
    store, audit = await Store.open(places.store), FileAudit(places.audit, key, mac)
    live = Live(audit, store, time.time, (100, 10))
    sightings = Sightings(time.time)
    targets = Targets(live, sightings, audit, time.time)
    catalog = Catalog(store, vault, audit, targets.adopt)

    async def reload() -> None:
        daemon.reloaded += 1

    commands = Commands(catalog, store, live, audit, sightings, targets, time.time, reload, STARTED)
    recorder = FileRecorder(places.transcripts, key, mac)
    daemon = Daemon(directory, store, audit, catalog, live, recorder, commands)
    control = Control(places.control)
    control.claim()
    await catalog.load()
    await daemon.apply(text)
    await control.start(commands.table())
    try:
        yield daemon
    finally:
        await control.close()
        for session in daemon.runs:
            session.done(End(EndReason.SHUTDOWN))
        await store.close()
        audit.close()
