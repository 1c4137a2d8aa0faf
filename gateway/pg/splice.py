"""One PostgreSQL session, from the moment both sides are logged in to its end.

Ties the scanners to the transcript and to the joint in the pump, keeps the time limits,
and ends the session in the protocol's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from attrs import frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.contracts import SessionLog
from gateway.errors import GatewayError, NotRecorded
from gateway.model import End, EndReason, Terms
from gateway.pg import words
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.pump import Channel, Flow, Joint, Pump
from gateway.record.format import NOTE

PARTING = 0.5  # seconds for a frame under way to end and for the client to read the reason
IDLE = 0x49  # ReadyForQuery's status outside a transaction

log = Logger()


@frozen
class Sides:
    """Both ends of a session, and what each has already said beyond the log-in."""

    client: Channel
    target: Channel
    from_client: bytes = b""
    from_target: bytes = b""


class Splice:
    """A running session: a :class:`gateway.contracts.Running`, and its joint's owner."""

    def __init__(
        self,
        session_id: str,
        log: SessionLog,
        terms: Terms,
        cancel: Callable[[], Awaitable[None]],
        done: Callable[[End], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session_id = session_id
        self._log = log
        self._terms = terms
        self._cancel = cancel
        self._done = done
        self._client = ClientScanner(log.add)
        self._target = TargetScanner(log.add, self._client.copy_began)
        self._end: End | None = None
        self._gone: Channel | None = None  # the side that closed first
        self._parting: asyncio.TimerHandle | None = None
        self._cancelling: asyncio.Future[None] | None = None
        self._began = self._active = self._loop.time()
        self._joint: Joint

    def begin(self, pump: Pump, sides: Sides, greeting: bytes) -> None:
        """Join the two sides; *greeting* tells the client that it is logged in."""
        self._joint = joint = pump.join(sides.client, sides.target, self)
        joint.tell(greeting)
        joint.feed(joint.back, sides.from_target)
        joint.feed(joint.forth, sides.from_client)

    @property
    def idle(self) -> bool:
        """Outside a transaction, and every question has been answered."""
        client, target = self._client, self._target
        return target.status == IDLE and client.asked == target.ready and not client.unsynced

    @property
    def _waits(self) -> bool:
        """It is the target's turn: a statement that runs long is not idleness."""
        client = self._client
        return client.asked > self._target.ready and not client.copying

    def counters(self) -> tuple[int, int, int]:
        return self._client.statements, self._joint.forth.carried, self._joint.back.carried

    def tick(self, now: float) -> None:
        """Hold the time limits; *now* is the event loop's time."""
        forth, back = self._joint.forth, self._joint.back
        if forth.active or back.active or self._waits:
            forth.active = back.active = False
            self._active = now
        terms = self._terms
        if terms.max_session_seconds is not None and now - self._began >= terms.max_session_seconds:
            self.end(End(EndReason.TIME_LIMIT, f"{terms.max_session_seconds:g} s"))
        elif terms.idle_seconds is not None and now - self._active >= terms.idle_seconds:
            self.end(End(EndReason.IDLE, f"{terms.idle_seconds:g} s"))

    def end(self, end: End) -> None:
        """Cancel what runs, tell the client between two frames, and close both sides."""
        if self._end is not None or self._joint.dead:
            return
        self._end = end
        self._part()
        self._stop()
        self._joint.forth.rest = b""  # no statement starts any more
        if self._target.at_boundary:
            self._joint.tell(words.ended(end, self._session_id), last=True)

    def leave(self, why: str) -> None:
        """Stay: a session lives and dies with its target."""

    async def cancelled(self) -> None:
        """The client asks, on another connection, to cancel what runs here."""
        self._log.add(NOTE, b'{"kind": "cancel"}')
        self._log.commit(lambda: None)
        await self._cancel()

    def from_client(self, data: bytes) -> bytes:
        if self._end is not None:
            return b""
        self._client.scan(data)
        if not self._log.commit(self._joint.release):
            self._joint.forth.held = True
        return data

    def from_target(self, data: bytes) -> bytes:
        if self._end is not None:
            return self._last_frame(data)
        try:
            self._target.scan(data)
        except GatewayError as error:
            self.refused(error)
            return b"" if self._joint.back.ended else self._last_frame(data)
        return data

    def refused(self, error: Exception) -> None:
        self.end(_blame(error))

    def ended(self, flow: Flow) -> None:
        """One side has gone. A target never half-closes, and a client that said goodbye
        wants nothing more; any other client may still be reading."""
        self._gone = self._gone or flow.source
        if flow is self._joint.back or self._client.terminated:
            self._part()

    def over(self, broken: Channel | None) -> None:
        if self._parting is not None:
            self._parting.cancel()
        if self._end is not None:
            self._stop()  # a statement that was on its way may have begun meanwhile
        self._done(self._end or self._verdict(broken))

    def _part(self) -> None:
        if self._parting is None:
            self._parting = self._loop.call_later(PARTING, self._joint.close)

    def _stop(self) -> None:
        if not self.idle:
            self._cancelling = asyncio.ensure_future(self._cancel())

    def _last_frame(self, data: bytes) -> bytes:
        """The end came inside a frame: let it finish, then say why."""
        assert self._end is not None
        last = self._target.to_boundary(data)
        if last is None:
            self._target.scan(data)
            return data
        self._joint.back.ended = True
        return data[:last] + words.ended(self._end, self._session_id)

    def _verdict(self, broken: Channel | None) -> End:
        if self._client.terminated:
            return End(EndReason.CLIENT)
        first = self._gone or broken
        who = EndReason.CLIENT if first is self._joint.forth.source else EndReason.TARGET
        return End(who, "" if self._gone else "reset")


def _blame(error: Exception) -> End:
    if isinstance(error, NotRecorded):
        return End(EndReason.NOT_RECORDED, str(error))
    if isinstance(error, GatewayError):
        return End(EndReason.PROTOCOL, str(error))
    log.failure("A session failed inside the gateway", Failure(error))
    return End(EndReason.FAILED, type(error).__name__)
