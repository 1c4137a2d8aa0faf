"""One PostgreSQL session, from the moment both sides are logged in to its end.

Ties the scanners to the transcript and to the joint in the pump, keeps the time limits,
and ends the session in the protocol's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from attrs import frozen

from gateway.contracts import SessionLog
from gateway.errors import GatewayError, NotRecorded
from gateway.model import End, EndReason, Terms
from gateway.pg import words
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.pump import Channel, Flow, Joint, Pump
from gateway.record.format import NOTE

PARTING = 0.5  # seconds for a frame under way to end and for the client to read the reason
IDLE = 0x49  # ReadyForQuery's status outside a transaction


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
        self._target = TargetScanner(log.add)
        self._end: End | None = None
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
        return self._target.status == IDLE and self._client.asked == self._target.ready

    def counters(self) -> tuple[int, int, int]:
        return self._client.statements, self._joint.forth.carried, self._joint.back.carried

    def tick(self, now: float) -> None:
        """Hold the time limits; *now* is the event loop's time."""
        forth, back = self._joint.forth, self._joint.back
        if forth.active or back.active:
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
        if not self.idle:
            self._cancelling = asyncio.ensure_future(self._cancel())
        if self._target.at_boundary:
            self._joint.tell(self._words(end), last=True)

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
            return self._last_frame(self._end, data)
        self._target.scan(data)
        return data

    def refused(self, error: GatewayError) -> None:
        recorded = EndReason.NOT_RECORDED if isinstance(error, NotRecorded) else EndReason.PROTOCOL
        self.end(End(recorded, str(error)))

    def ended(self, flow: Flow) -> None:
        """One side has gone. A target never half-closes, and a client that said goodbye
        wants nothing more; any other client may still be reading."""
        gone = flow is self._joint.back or self._client.terminated
        if gone and self._parting is None:
            self._part()

    def over(self, broken: Flow | None) -> None:
        if self._parting is not None:
            self._parting.cancel()
        self._done(self._end or self._verdict(broken))

    def _words(self, end: End) -> bytes:
        return words.ended(end, self._session_id)

    def _part(self) -> None:
        self._parting = self._loop.call_later(PARTING, self._joint.close)

    def _last_frame(self, end: End, data: bytes) -> bytes:
        """The end came inside a frame: let it finish, then say why."""
        last = self._target.to_boundary(data)
        if last is None:
            self._target.scan(data)
            return data
        self._joint.back.ended = True
        return data[:last] + self._words(end)

    def _verdict(self, broken: Flow | None) -> End:
        joint = self._joint
        if self._client.terminated or (broken is None and joint.forth.ended):
            return End(EndReason.CLIENT)
        if broken is None and joint.back.ended:
            return End(EndReason.TARGET)
        return End(EndReason.CLIENT if broken is joint.forth else EndReason.TARGET, "reset")
