"""The protocols between the rooms: what each is handed, and nothing more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen

from gateway.errors import Refused
from gateway.model import (
    Account,
    Ask,
    End,
    Grant,
    Identity,
    IPAddress,
    Resource,
    ScramVerifier,
    SessionInfo,
    Snapshot,
    Terms,
)

Clock = Callable[[], float]
"""Seconds since the epoch."""


@frozen
class CancelKey:
    """What a CancelRequest carries instead of an :class:`~gateway.model.Ask`."""

    process_id: int
    secret: bytes = field(repr=False)


@frozen
class Jump:
    """What a client asks for that names no resource: connections through this one will.

    ``user`` is a claim; ``admit`` opens the way once it is proved, and raises
    :class:`~gateway.errors.Gone` if nobody is left to go it.
    """

    user: str
    source: IPAddress
    admit: Callable[[Hops], None] = field(repr=False)


class SessionLog(Protocol):
    """One open transcript.

    :meth:`add` only collects; :meth:`commit` writes what was collected, so that one
    write covers a whole wake-up. Both raise :class:`~gateway.errors.NotRecorded`.
    """

    def add(self, kind: int, payload: bytes) -> None:
        """Collect one record, stamped with the time since the session began."""

    def commit(self, resume: Callable[[], None]) -> bool:
        """Write what was collected.

        :return: True if it is as durable as configured; False if it will be, and then
            *resume* is called (from the event loop) once, when it is.
        """
        ...

    def close(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        """Write the end and the last seal; returns the transcript's final digest (hex)."""
        ...


class Recorder(Protocol):
    def open(self, info: SessionInfo) -> SessionLog:
        """Begin a transcript.

        :raises NotRecorded: it cannot be written and recording is required
        """
        ...


class Audit(Protocol):
    """What happened to the gateway. Raises :class:`~gateway.errors.NotRecorded`."""

    def write(self, event: str, **facts: Any) -> str:
        """Record *event* at once; returns the id that a person may quote."""
        ...


class Purpose(Protocol):
    """For what somebody logs in at a target: a :class:`~gateway.model.Grant`, or to see how
    the target is."""

    @property
    def resource(self) -> Resource: ...

    @property
    def account(self) -> Account: ...

    @property
    def terms(self) -> Terms: ...


class Upstream(Protocol):
    """An open, logged-in connection to a target; only a dialer makes one."""

    @property
    def address(self) -> str: ...

    def abort(self) -> None:
        """Drop it, when the session does not come to be."""


class Running(Protocol):
    """A spliced session, for as long as it lives."""

    def tick(self, now: float) -> None:
        """Hold the time limits; *now* is the event loop's time."""

    def end(self, end: End) -> None:
        """Bring it to an end: cancel what runs, tell the client, close. Idempotent."""

    def leave(self, why: str) -> None:
        """Move to another target when that can be done; nothing for those that cannot.

        Asked again and again, for as long as there is a reason to leave.
        """

    def standing(self) -> tuple[str | None, str]:
        """The target where it is by now, None if it never moves; what pins it there, or ""."""
        ...

    def counters(self) -> tuple[int, int, int]:
        """Statements, bytes from the client, bytes to the client, so far."""
        ...


@frozen
class Credentials:
    """What proves to be *user*; where there is nobody to be, nothing does.

    ``enabled``: False for users that are unknown or disabled. Edges let them walk the same
    path as others, and believe nothing of it: ``verifier`` fits no password then.
    """

    user: str
    verifier: ScramVerifier
    ssh_keys: tuple[str, ...] = ()
    enabled: bool = True


class Hops(Protocol):
    """What may be opened through the connection of a proven ``user``."""

    @property
    def user(self) -> str: ...

    def judge(self, resource: str) -> None:
        """:raises NotAllowed: there is no point in trying: no account would be allowed"""

    def begin(self, edge: Edge) -> None:
        """Tell the story of a connection inside this one."""

    def leave(self) -> None:
        """The connection has ended: others may have its place. Idempotent."""


class Edge(Protocol):
    """The client's side of one connection, before it is a session."""

    async def ask(self) -> Ask | Jump | CancelKey: ...

    async def prove(self, credentials: Credentials) -> str:
        """Have the client prove to be whom *credentials* belong to; by which method it did.

        :raises BadProof: it could not
        """
        ...

    async def refuse(self, refusal: Refused, quote: str) -> None:
        """Tell the client no, in its protocol's words, with the audit id to quote; close."""

    async def dial(self, grant: Grant, session_id: str) -> Upstream:
        """Reach a target and log in there.

        :raises Unreachable: none of them could be
        """
        ...

    def splice(
        self, upstream: Any, grant: Grant, log: SessionLog, done: Callable[[End], None]
    ) -> Running:
        """Join both sides; *done* is called once, when the session is over."""
        ...

    def close(self) -> None: ...


class Prover(Protocol):
    async def prove(self, edge: Edge, user: str, snapshot: Snapshot) -> Identity:
        """:raises BadProof: who they are could not be proved"""
        ...


class SessionIndex(Protocol):
    """Where lists of sessions come from. Neither waits: what is told is written soon."""

    def session_started(self, info: SessionInfo) -> None: ...

    def session_ended(self, info: SessionInfo, digest: str) -> None: ...


class Vault(Protocol):
    """Encrypts secrets at rest (AES-256-GCM under the state directory's key file)."""

    def seal(self, secret: bytes) -> str: ...

    def unseal(self, sealed: str) -> bytes: ...


Body = Mapping[str, Any]
"""An object as stored: JSON-able, judged, secrets sealed."""


@frozen
class Document:
    """One object as somebody wrote it.

    ``kind`` is "resources", "users", "roles" or "bindings"; ``body`` has been judged
    against the schema, its secrets are still references (``{file: …}``); ``marks`` maps
    a path inside the body ("accounts.0.password") to its (line, column), "" is the whole.
    """

    kind: str
    name: str
    body: Body = field(repr=False)
    file: str
    marks: Mapping[str, tuple[int, int]]


Command = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""One command of the control socket: arguments in, JSON-able result out.

Among the arguments is ``by``: who gave it, as the kernel knows them.
"""
