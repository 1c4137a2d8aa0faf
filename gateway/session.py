"""The story of every connection, told once: ask -> prove -> decide -> dial -> splice.

A wire supplies the wording (its :class:`~gateway.contracts.Edge`); what happens, and in
which order, is the same for all of them and stands here. Whatever goes wrong on the way
ends in a refusal: no path leads past a step.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

from attrs import field, frozen
from twisted.logger import Logger

from gateway import policy
from gateway.contracts import (
    Audit,
    CancelKey,
    Clock,
    Edge,
    Jump,
    Prover,
    Recorder,
    Upstream,
)
from gateway.errors import Gone, NotAllowed, NotRecorded, ProtocolViolation, Refused, ShuttingDown
from gateway.live import Live, Seat
from gateway.model import (
    Ask,
    Denied,
    End,
    EndReason,
    Grant,
    Identity,
    IPAddress,
    Protocol,
    SessionInfo,
    Snapshot,
)

REFUSING = 2.0  # seconds a client gets to read why it was refused

log = Logger()


class Observer:
    """What the story tells to whoever counts: by default, nobody does."""

    def login(self, outcome: str, seconds: float = 0) -> None:
        """*outcome*: "admitted" after so many *seconds*, "jump" (a way to sessions, and none
        itself), or the name of the refusal."""


@frozen
class Door:
    """What the story needs from the rooms around it.

    ``inside``: stories of connections that came through another one.
    """

    snapshot: Callable[[], Snapshot]
    prover: Prover
    live: Live
    recorder: Recorder
    audit: Audit
    cancel: Callable[[CancelKey], Awaitable[None]]
    clock: Clock
    login_seconds: float
    observer: Observer = field(factory=Observer)
    inside: set[asyncio.Task[None]] = field(factory=set)


@frozen
class Inside:
    """What a person may open through a connection on which they have proved who they are.

    Implements :class:`gateway.contracts.Hops`; each connection inside has its own story.
    """

    _door: Door
    user: str
    _source: IPAddress
    leave: Callable[[], None]

    def judge(self, resource: str) -> None:
        """Absent and forbidden look the same. A refusal is in the audit log, whose id it quotes.

        :raises NotAllowed: no account would be allowed
        """
        ask = Ask(Protocol.SSH, self.user, resource, self._source)
        identity = Identity(self.user, "jump")
        decision = policy.decide(ask, identity, self._door.snapshot(), _now(self._door))
        if isinstance(decision, Grant) or decision.public is not None:
            return
        refused, quote = NotAllowed(decision.reason), ""
        with suppress(NotRecorded):
            quote = f" (audit id {_audit(self._door, ask, refused)})"
        raise NotAllowed(decision.reason, refused.public + quote)

    def begin(self, edge: Edge) -> None:
        story = asyncio.ensure_future(serve(self._door, edge))
        self._door.inside.add(story)
        story.add_done_callback(self._door.inside.discard)


async def serve(door: Door, edge: Edge) -> None:
    """Take one connection from its first byte to its splice, or to its refusal."""
    asked: list[Ask | Jump] = []
    try:
        async with asyncio.timeout(door.login_seconds):
            await _story(door, edge, asked)
    except Gone:
        edge.close()  # a load balancer's probe, or a person who thought better of it
    except TimeoutError:
        await _refuse(door, edge, asked, ProtocolViolation("log-in took too long"))
    except Refused as refused:
        await _refuse(door, edge, asked, refused)
    except Exception:
        log.failure("A log-in failed inside the gateway")
        await _refuse(door, edge, asked, Refused("internal error"))
    except asyncio.CancelledError:
        edge.close()  # the gateway stops, and nobody waits for words
        raise


async def _story(door: Door, edge: Edge, asked: list[Ask | Jump]) -> None:
    began = door.clock()
    ask = await edge.ask()
    if isinstance(ask, CancelKey):
        await door.cancel(ask)
        edge.close()
        return
    asked.append(ask)
    identity = await door.prover.prove(edge, ask.user, door.snapshot())
    if isinstance(ask, Jump):
        _jump(door, ask, identity)
        return
    decision = policy.decide(ask, identity, door.snapshot(), _now(door))
    if isinstance(decision, Denied):
        raise NotAllowed(decision.reason, decision.public)
    with door.live.seat(identity.user) as seat:
        session_id = secrets.token_hex(8)
        upstream = await edge.dial(decision, session_id)
        try:
            _open(door, edge, decision, upstream, seat, session_id)
        except BaseException:
            upstream.abort()
            raise
    door.observer.login("admitted", door.clock() - began)


def _jump(door: Door, ask: Jump, identity: Identity) -> None:
    """Who may go on from here has a seat until their connection ends, whatever goes through."""
    seat = ExitStack()
    seat.enter_context(door.live.seat(identity.user))
    try:
        facts = {"user": identity.user, "source": str(ask.source), "method": identity.method}
        door.audit.write("login.jump", **facts)
        ask.admit(Inside(door, identity.user, ask.source, seat.close))
    except BaseException:
        seat.close()
        raise
    door.observer.login("jump")


def _open(
    door: Door, edge: Edge, grant: Grant, upstream: Upstream, seat: Seat, session_id: str
) -> None:
    """From here on nothing waits: what was true when it was checked is true when it runs."""
    door.live.check_open()
    renewed = policy.renew(grant, door.snapshot(), _now(door))
    if isinstance(renewed, Denied):
        raise NotAllowed(f"while dialling: {renewed.reason}")
    info = _info(renewed, session_id, upstream.address, door.clock())
    transcript = door.recorder.open(info)
    session = door.live.begin(info, renewed, transcript, seat)
    try:
        door.audit.write("session.started", **_facts(renewed, info))
        session.running = edge.splice(upstream, renewed, transcript, session.done)
    except NotRecorded as unwritable:
        session.done(End(EndReason.NOT_RECORDED, unwritable.detail))
        raise
    except BaseException as failed:
        session.done(End(EndReason.FAILED, type(failed).__name__))
        raise


def _info(grant: Grant, session_id: str, target: str, started: float) -> SessionInfo:
    return SessionInfo(
        id=session_id,
        user=grant.identity.user,
        resource=grant.resource.name,
        account=grant.account.name,
        target=target,
        protocol=grant.ask.protocol.value,
        source=str(grant.ask.source),
        started=started,
    )


def _facts(grant: Grant, info: SessionInfo) -> dict[str, str]:
    return {
        "session": info.id,
        "user": info.user,
        "resource": info.resource,
        "account": info.account,
        "target": info.target,
        "source": info.source,
        "method": grant.identity.method,
        "role": grant.role,
        "binding": grant.binding,
    }


async def _refuse(door: Door, edge: Edge, asked: list[Ask | Jump], refused: Refused) -> None:
    """Audit the refusal in full, tell the client in general, close."""
    door.observer.login(type(refused).__name__)
    try:
        quote = _audit(door, asked[0], refused) if asked else ""
    except NotRecorded as unwritable:
        quote, refused = "", unwritable
    try:
        async with asyncio.timeout(REFUSING):
            await edge.refuse(refused, quote)
    except (Gone, TimeoutError):
        pass  # it did not stay to hear
    except Exception:
        log.failure("A refusal failed inside the gateway")
    finally:
        edge.close()


def _audit(door: Door, ask: Ask | Jump, refused: Refused) -> str:
    event = "session.turned-away" if isinstance(refused, ShuttingDown) else "session.refused"
    named = ("", "") if isinstance(ask, Jump) else (ask.resource, ask.account or "")
    return door.audit.write(
        event,
        user=ask.user,
        resource=named[0],
        account=named[1],
        source=str(ask.source),
        refusal=type(refused).__name__,
        detail=refused.detail,
    )


def _now(door: Door) -> datetime:
    return datetime.fromtimestamp(door.clock(), UTC)
