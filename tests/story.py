"""For tests of sessions: people and rights, a client that follows a script, real rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import define, evolve, field

from gateway.audit import FileAudit, read
from gateway.contracts import CancelKey, Credentials, SessionLog
from gateway.errors import BadProof, Refused
from gateway.identity import Authenticators
from gateway.identity.password import make_verifier
from gateway.live import Live
from gateway.model import (
    Account,
    Address,
    Allow,
    Ask,
    Binding,
    End,
    EndReason,
    Grant,
    Protocol,
    Resource,
    Role,
    Selector,
    SessionInfo,
    Snapshot,
    Target,
    User,
)
from gateway.record.verify import Verdict
from gateway.record.writer import FileRecorder
from gateway.session import Door, Observer, serve
from tests.record.files import KEY, SECRET, judged

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()
HOUR = 3600
PENCIL = make_verifier("pencil", b"s" * 16)
ORDERS = Resource(
    "orders",
    Protocol.POSTGRESQL,
    (Target(Address("db", 5432)),),
    MappingProxyType({"app_ro": Account("app_ro")}),
)
WEB = evolve(ORDERS, name="web", protocol=Protocol.SSH)
BOTH = Selector(frozenset({"orders", "web"}))
READER = Role("reader", (Allow(BOTH, frozenset({"app_ro"})),))
READ = Binding("read", "reader", users=frozenset({"alice"}))
NEXT_HOUR = evolve(READ, name="next-hour", expires=datetime.fromtimestamp(NOW + HOUR, UTC))
ALICE = Ask(Protocol.POSTGRESQL, "alice", "orders", ip_address("10.1.1.1"))


def snapshot(*bindings: Binding, version: int = 1) -> Snapshot:
    users = {name: User(name, password=PENCIL) for name in ("alice", "bob")}
    resources = {resource.name: resource for resource in (ORDERS, WEB)}
    return Snapshot(version, resources, users, {"reader": READER}, bindings)


# -- a client that follows a script ----------------------------------------------------------


class Hangs:
    """A step at which nothing ever happens."""


HANGS = Hangs()


@define
class Upstream:
    address: str = "db:5432"
    aborted: int = 0

    def abort(self) -> None:
        self.aborted += 1


@define(eq=False)
class Running:
    """A session that carries nothing, and ends when it is told to."""

    done: Callable[[End], None]
    ended: list[End] = field(factory=list)
    ticks: list[float] = field(factory=list)
    left: list[str] = field(factory=list)  # why it was asked to go elsewhere
    moved_to: str | None = None
    stubborn: bool = False  # it is told to end, and goes on
    broken: bool = False  # what it is asked for fails
    idle: bool = False  # for too long, at the next tick

    def tick(self, now: float) -> None:
        self._fail()
        self.ticks.append(now)
        if self.idle:
            self.end(End(EndReason.IDLE))

    def end(self, end: End) -> None:
        self._fail()
        self.ended.append(end)
        if not self.stubborn:
            self.done(end)

    def leave(self, why: str) -> None:
        self._fail()
        self.left.append(why)

    def standing(self) -> tuple[str | None, str]:
        return self.moved_to, "temporary tables"

    def counters(self) -> tuple[int, int, int]:
        return 3, 20, 100

    def _fail(self) -> None:
        if self.broken:
            raise ZeroDivisionError


@define(eq=False)
class Client:
    """An Edge. ``script`` has, for each step, what happens there: an error to raise, a value
    to give, a future to wait for, :data:`HANGS`, or a function that gives one of these.

    ``heard`` is the dialogue, as far as it went.
    """

    script: Mapping[str, Any] = field(factory=dict)
    heard: list[str] = field(factory=list)
    upstream: Upstream = field(factory=Upstream)
    running: Running | None = None
    closed: bool = False
    quote: str | None = None
    _steps: asyncio.Queue[str] = field(factory=asyncio.Queue, init=False)

    async def ask(self) -> Ask | CancelKey:
        return await self._step("ask") or ALICE

    async def prove(self, credentials: Credentials) -> str:
        if await self._step("password", "password?") == "wrong":
            raise BadProof("wrong password")
        return "password"

    async def dial(self, grant: Grant, session_id: str) -> Upstream:
        await self._step("dial", f"dialling {grant.resource.name} as {grant.account.name}")
        return self.upstream

    def splice(
        self, upstream: Upstream, grant: Grant, log: SessionLog, done: Callable[[End], None]
    ) -> Running:
        assert upstream is self.upstream
        self.heard.append("welcome")
        if self._act("splice") == "gone already":
            done(End(EndReason.CLIENT))
        self.running = Running(done)
        return self.running

    async def refuse(self, refusal: Refused, quote: str) -> None:
        self.quote = quote
        await self._step("refuse", f"no: {refusal.public}")

    def close(self) -> None:
        if not self.closed:
            self.heard.append("closed")
        self.closed = True

    async def _step(self, step: str, heard: str | None = None) -> Any:
        self.heard.append(heard or step)
        self._steps.put_nowait(step)
        act = self._act(step)
        if act is HANGS:
            await asyncio.Event().wait()
        return await act if isinstance(act, asyncio.Future) else act

    async def reach(self, step: str) -> None:
        """Wait until the dialogue has come so far."""
        while await self._steps.get() != step:
            pass

    def _act(self, step: str) -> Any:
        act = self.script.get(step)
        if callable(act):
            act = act()
        if isinstance(act, BaseException):
            raise act
        return act


# -- the rooms around the door ---------------------------------------------------------------


@define
class Index:
    """A :class:`gateway.contracts.SessionIndex` in memory."""

    started: list[SessionInfo] = field(factory=list)
    ended: list[tuple[SessionInfo, str]] = field(factory=list)

    def session_started(self, info: SessionInfo) -> None:
        self.started.append(info)

    def session_ended(self, info: SessionInfo, digest: str) -> None:
        self.ended.append((info, digest))


class Counts(Observer):
    def __init__(self) -> None:
        self.logins: list[str] = []

    def login(self, outcome: str, seconds: float = 0) -> None:
        assert seconds >= 0
        self.logins.append(outcome)


class House:
    """Policy, prover, list of sessions, recorder and audit log, all of them real.

    By default there is one seat in it, so that whoever comes next tells whether it was given
    back. ``limits``: sessions, and sessions of one user.
    """

    def __init__(
        self, root: Path, login_seconds: float = 10.0, limits: tuple[int, int] = (1, 1)
    ) -> None:
        self.now = NOW
        self.snapshot = snapshot(READ)
        self.transcripts = root / "transcripts"
        self._audits = root / "audit"
        self.audit = FileAudit(self._audits, KEY, SECRET)
        self.recorder = FileRecorder(self.transcripts, KEY, SECRET)
        self.index = Index()
        self.counts = Counts()
        self.ended: list[SessionInfo] = []
        self.cancelled: list[CancelKey] = []
        self.live = Live(self.audit, self.index, lambda: self.now, limits, self.ended.append)
        self.door = Door(
            snapshot=lambda: self.snapshot,
            prover=Authenticators(SECRET),
            live=self.live,
            recorder=self.recorder,
            audit=self.audit,
            cancel=self._cancel,
            clock=lambda: self.now,
            login_seconds=login_seconds,
            observer=self.counts,
        )

    async def visit(self, **script: Any) -> Client:
        """One connection, to the end of its story."""
        client = Client(script)
        await serve(self.door, client)
        return client

    def entries(self) -> list[dict[str, Any]]:
        return list(read(self._audits))

    def audited(self) -> list[tuple[str, str]]:
        """What the audit log has: the events, and why."""
        return [
            (entry["event"].removeprefix("session."), entry.get("detail", entry.get("reason", "")))
            for entry in self.entries()
        ]

    def verdicts(self) -> list[Verdict]:
        return [judged(path) for path in sorted(self.transcripts.rglob("*.gwt"))]

    def lose_transcripts(self) -> None:
        """Nothing can be written where transcripts belong."""
        self.transcripts.write_text("")

    def lose_audit(self) -> None:
        """Nothing more can be written to the audit log."""
        self._audits.rename(self._audits.with_suffix(".lost"))
        self._audits.write_text("")
        self.audit._file.fail("disk full")

    def leave(self) -> None:
        """End what runs and close the files."""
        for info in self.live.infos():
            session = self.live.find(info.id)
            assert session is not None
            session.done(End(EndReason.SHUTDOWN))
        self.audit.close()

    async def _cancel(self, key: CancelKey) -> None:
        self.cancelled.append(key)
