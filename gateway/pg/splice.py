"""One PostgreSQL session, from the moment both sides are logged in to its end.

Ties the scanners to the transcript and to the joint in the pump, keeps the time limits,
takes the session to another target when its own is lost, and ends it in the protocol's own
words.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from attrs import frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.contracts import SessionLog
from gateway.errors import GatewayError, NotAllowed, NotRecorded
from gateway.model import End, EndReason, Terms
from gateway.pg import farewell, frames, words
from gateway.pg.channel import Channel, channel
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.pump import Flow, Joint, Pump
from gateway.pg.rehome import Home, Stranded
from gateway.pg.restore import Arrival, news
from gateway.pg.state import IDLE, SessionState
from gateway.record.format import NOTE

MAX_LAST_WORDS = 65_536  # bytes: two errors of the longest kind that libpq takes
WISH = 5.0  # seconds for which a wish to leave holds: each second, there is a new one
PARTING = 0.5  # seconds for a frame under way to end and for the client to read the reason

log = Logger()


@frozen
class Sides:
    """Both ends of a session, and what each has already said beyond the log-in."""

    client: Channel
    target: Channel
    from_client: bytes = b""
    from_target: bytes = b""


class Splice:
    """A running session: a :class:`gateway.contracts.Running`, and its joint's owner.

    :param home: its target, and the way to another; None: it lives and dies where it is
    """

    def __init__(
        self,
        session_id: str,
        log: SessionLog,
        terms: Terms,
        cancel: Callable[[], Awaitable[None]],
        done: Callable[[End], None],
        home: Home | None = None,
        state: SessionState | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session_id = session_id
        self._log = log
        self._terms = terms
        self._cancel = cancel
        self._done = done
        self._home = home
        self._state = state or SessionState()
        self._client = ClientScanner(log.add, self._state)
        self._target = TargetScanner(log.add, self._client.copy_began, self._state)
        self._end: End | None = None
        self._lost: End | None = None  # the target is, and this is the end if there is no other
        self._moving: asyncio.Future[None] | None = None
        self._wish = ""  # why it is to leave its target when it can
        self._wished = 0.0
        self._last_words = b""  # of the target, not told to the client yet
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
        return self._target.status == IDLE and self._quiet

    @property
    def _quiet(self) -> bool:
        client, target = self._client, self._target
        return client.asked == target.ready and not client.unsynced and not client.loose

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
        end = self._terms.overrun(now - self._began, now - self._active)
        if end is not None:
            self.end(end)

    def end(self, end: End) -> None:
        """Cancel what runs, tell the client between two frames, and close both sides."""
        if self._end is not None or self._joint.dead:
            return
        self._end = end
        self._stay()
        self._part()
        self._stop()
        self._joint.forth.rest = b""  # no statement starts any more
        if self._target.at_boundary:
            self._joint.tell(words.ended(end, self._session_id), last=True)

    def leave(self, why: str) -> None:
        """Go to another target as soon as nothing runs; stay where none takes the session."""
        if self._home is None or self._moving is not None or self._end is not None:
            return
        if self._joint.forth.ended and self._quiet:
            self._part()  # its client went while the target did not notice
            return
        if self._home.rests:
            return
        self._wish, self._wished = why, self._loop.time()
        if not self._fixed():
            self._move()

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
        if data[0] in farewell.LAST_WORDS and self._says_goodbye(data):
            return b""
        if self._last_words:
            data, self._last_words = self._last_words + data, b""
        try:
            self._target.scan(data)
        except GatewayError as error:
            self.refused(error)
            return b"" if self._joint.back.ended else self._last_frame(data)
        if self._wish and self._moving is None and not self._fixed():
            self._follow_wish()
        return data

    def refused(self, error: Exception) -> None:
        self.end(_blame(error))

    def lost(self, *, reset: bool) -> bool:
        """The target has gone: to another one with an idle session, else the client is told."""
        if self._end is not None or self._client.terminated or self._joint.forth.ended:
            return False
        if self._quiet and self._told_of_the_end:
            return False
        self._lost = End(EndReason.TARGET, "reset" if reset else "")
        if self._moving is None:
            fixed = self._fixed()
            if fixed:
                self._strand(fixed)
            else:
                self._wish = farewell.said(self._last_words) or (
                    "reset" if reset else "closed the connection"
                )
                self._move()
        return True

    def ended(self, flow: Flow) -> None:
        """One side has gone. A target never half-closes, and a client that said goodbye
        wants nothing more; any other client may still be reading."""
        self._gone = self._gone or flow.source
        if flow is self._joint.back or self._client.terminated:
            self._part()

    def over(self, broken: Channel | None) -> None:
        self._stay()
        if self._parting is not None:
            self._parting.cancel()
        if self._end is not None:
            self._stop()  # a statement that was on its way may have begun meanwhile
        self._done(self._end or self._lost or self._verdict(broken))

    # -- to another target

    def standing(self) -> tuple[str | None, str]:
        """Where it is, and why it could not be taken elsewhere; "" if it could."""
        if self._home is None:
            return None, ""
        return self._home.address, self._state.pinned

    def _fixed(self) -> str:
        """Why the session cannot be taken elsewhere now; "" if it can."""
        if not self._quiet or not self._client.at_boundary:
            return "a statement was in flight"
        if self._joint.forth.ended or self._client.terminated:
            return "the client has gone"
        if self._target.status != IDLE:
            return "in a transaction"
        if not self._target.at_boundary:
            return "the target was in the middle of a message"
        if self._told_of_the_end:
            return "the target has said that it is over"
        if self._home is None:
            return "sessions stay at their target"
        return self._state.pinned and f"pinned: {self._state.pinned}"

    @property
    def _told_of_the_end(self) -> bool:
        """An error came that answers nothing: the client knows, or will when it looks."""
        return self._target.erred == self._target.ready

    def _says_goodbye(self, data: bytes) -> bool:
        """The target shuts down or has crashed: whoever is taken elsewhere need not know."""
        if not self._target.at_boundary or not farewell.is_goodbye(data):
            return False
        if len(self._last_words) + len(data) > MAX_LAST_WORDS:
            return False
        self._last_words += data
        if self._quiet and farewell.is_final(data) and self.lost(reset=False):
            self._joint.unhook()  # its end comes next, and is not waited for
        return True

    def _follow_wish(self) -> None:
        """It is said again and again for as long as there is a reason."""
        if self._loop.time() - self._wished < WISH:
            self._move()
        else:
            self._wish = ""

    def _move(self) -> None:
        self._joint.pause()
        self._moving = asyncio.ensure_future(self._to_another())

    async def _to_another(self) -> None:
        assert self._home is not None
        try:
            if self._last_words[:1] == b"E" and await self._home.stands():
                self._dismissed()
                return
            wanted = self._state.restoration()
            arrival = await self._home.another(wanted, lambda: self._lost is not None)
            try:
                await self._noted(arrival)
                self._arrive(arrival)
            except BaseException:
                arrival.upstream.abort()
                raise
        except Stranded as stranded:
            self._moving = None
            self._stranded(stranded)
        except NotAllowed as denied:
            self._moving = None
            self.end(End(EndReason.REVOKED, denied.detail))
        except Exception as error:
            self._moving = None
            self.refused(error)

    async def _noted(self, arrival: Arrival) -> None:
        """Returns when the transcript has it; raises what that or the audit log raises."""
        assert self._home is not None
        facts = self._home.note(self._session_id, self._wish, arrival)
        self._log.add(NOTE, json.dumps({"kind": "reroute", **facts}).encode())
        durable = asyncio.Event()
        if not self._log.commit(durable.set):
            await durable.wait()

    def _arrive(self, arrival: Arrival) -> None:
        """Nothing waits here: the client's next word goes to the new target."""
        home, joint, told = self._home, self._joint, self._state.reported
        assert home is not None
        if not self._target.at_boundary:
            raise Stranded("the old target was in the middle of a message")
        if self._lost is None:
            _part_from(joint.back.source)
        changed = news(told, arrival.reported)
        self._state.reported = dict(arrival.reported)
        self._lost, self._moving, self._wish, self._last_words = None, None, "", b""
        home.move_in(arrival)
        joint.swap(channel(*arrival.upstream.wire.take()))
        if changed:
            joint.tell(changed)
        joint.feed(joint.back, arrival.rest)
        if not joint.dead:
            joint.resume()

    def _stranded(self, stranded: Stranded) -> None:
        if self._lost is not None:
            self._strand(stranded.detail, "no other target could take it in time")
        else:
            log.info("{id} stays: {why}", id=self._session_id, why=stranded.detail)
            self._wish = ""  # it will be asked again
            self._joint.resume()

    def _dismissed(self) -> None:
        """Somebody ended this one session at its target, and is not to be outwitted."""
        self._lost = End(EndReason.TARGET, farewell.said(self._last_words))
        self._part()
        self._joint.tell(self._last_words, last=True)

    def _strand(self, why: str, public: str = "") -> None:
        """The session does not survive its target."""
        assert self._lost is not None
        self._lost = End(EndReason.TARGET, ": ".join(filter(None, (self._lost.detail, why))))
        reasons = ", ".join(filter(None, (public or why, farewell.said(self._last_words))))
        told = words.lost(reasons, self._session_id, retry=self._rolled_back)
        clean = self._target.at_boundary and not self._joint.back.ended
        self._part()
        self._joint.pause()
        self._joint.tell(told if clean else b"", last=True)

    @property
    def _rolled_back(self) -> bool:
        """There was a transaction, and nothing was on its way that may have ended it."""
        return self._target.status != IDLE and self._quiet

    def _stay(self) -> None:
        if self._moving is not None:
            self._moving.cancel()

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


def _part_from(target: Channel) -> None:
    with suppress(OSError):  # it may be faster
        target.transmit(frames.terminate())


def _blame(error: Exception) -> End:
    if isinstance(error, NotRecorded):
        return End(EndReason.NOT_RECORDED, str(error))
    if isinstance(error, GatewayError):
        return End(EndReason.PROTOCOL, str(error))
    log.failure("A session failed inside the gateway", Failure(error))
    return End(EndReason.FAILED, type(error).__name__)
