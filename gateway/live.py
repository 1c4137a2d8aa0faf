"""Sessions that run now: list, limit, kill, re-check, drain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from attrs import define, evolve
from twisted.logger import Logger

from gateway import policy
from gateway.contracts import Audit, Clock, Running, SessionIndex, SessionLog
from gateway.errors import LimitReached, NotRecorded, ShuttingDown
from gateway.model import Denied, End, EndReason, Grant, SessionInfo, Snapshot

log = Logger()

LAST_WORDS = 5.0  # seconds for sessions that were ended to be over; each takes a half
BATCH = 100  # sessions re-checked in one go: a decision takes up to 0.3 ms


@define(eq=False)
class Seat:
    """A place among the sessions that may run; given back when its holder goes."""

    user: str
    taken: bool = False  # a session began, which gives it back when it ends


@define(eq=False)
class Session:
    """One running session and what belongs to it."""

    info: SessionInfo
    grant: Grant
    transcript: SessionLog
    done: Callable[[End], None]
    running: Running | None = None
    leaving: bool = False  # told to end, or over

    @property
    def target(self) -> str:
        """Where it is by now."""
        moved = None if self.running is None else self.running.standing()[0]
        return moved or self.info.target

    @property
    def pinned(self) -> str:
        """What keeps it at its target, if that goes; "" for what would move."""
        return "" if self.running is None else self.running.standing()[1]

    def now(self) -> SessionInfo:
        """The session as lists show it, with its counters as they stand."""
        if self.running is None:
            return self.info
        statements, bytes_in, bytes_out = self.running.counters()
        return evolve(
            self.info,
            target=self.target,
            statements=statements,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )

    def end(self, end: End) -> None:
        if self.running is not None:
            self.running.end(end)
            self.leaving = True


class Live:
    """The running sessions of this process.

    :param ended: told of each session's end, for those who count
    """

    def __init__(
        self,
        audit: Audit,
        index: SessionIndex,
        clock: Clock,
        limits: tuple[int, int],
        ended: Callable[[SessionInfo], None] = lambda info: None,
    ) -> None:
        self._audit = audit
        self._index = index
        self._clock = clock
        self.most, self.most_per_user = limits
        self._ended = ended
        self._sessions: dict[str, Session] = {}
        self._seats: Counter[str] = Counter()
        self._version = 0  # of the newest snapshot that sessions were held against
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._sessions)

    @contextmanager
    def seat(self, user: str) -> Iterator[Seat]:
        """Hold a place while a session comes to be.

        :raises LimitReached: there is none left
        :raises ShuttingDown: no new sessions are taken
        """
        self.check_open()
        if self._seats.total() >= self.most:
            raise LimitReached(f"all {self.most} sessions are taken")
        if self._seats[user] >= self.most_per_user:
            raise LimitReached(f"{user} has {self.most_per_user} sessions already")
        seat = Seat(user)
        self._seats[user] += 1
        try:
            yield seat
        finally:
            if not seat.taken:
                self._leave(user)

    def check_open(self) -> None:
        """:raises ShuttingDown: no new sessions are taken"""
        if self._draining:
            raise ShuttingDown("draining")

    def begin(self, info: SessionInfo, grant: Grant, transcript: SessionLog, seat: Seat) -> Session:
        """Enter a session into the list; its ``done`` takes it out again."""
        session = Session(info, grant, transcript, lambda end: self._done(info.id, end))
        self._sessions[info.id] = session
        self._empty.clear()
        seat.taken = True
        self._index.session_started(info)
        return session

    def infos(self) -> list[SessionInfo]:
        return [session.now() for session in self._sessions.values()]

    def find(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def kill(self, session_id: str, reason: str, by: str = "") -> bool:
        """End one session, as *by* wants it; False if it does not run (any more)."""
        session = self._sessions.get(session_id)
        if session is None:
            return False
        session.end(End(EndReason.KILLED, reason))
        user = session.info.user
        self._audit.write("session.killed", session=session_id, user=user, reason=reason, by=by)
        return True

    async def recheck(self, snapshot: Snapshot, *, timed: bool = False) -> None:
        """End what the present state no longer allows.

        *timed*: look only at those that time alone can take away.
        """
        self._version = max(self._version, snapshot.version)
        now = datetime.fromtimestamp(self._clock(), UTC)
        for number, session in enumerate(list(self._sessions.values())):
            if number % BATCH == BATCH - 1:
                await asyncio.sleep(0)  # others have their turn
            if snapshot.version < self._version:
                return  # a later state is being held against all of them
            if session.leaving or (timed and not session.grant.timed):
                continue
            self._judge(session, snapshot, now)

    def _judge(self, session: Session, snapshot: Snapshot, now: datetime) -> None:
        """Whatever goes wrong with this one is no reason to let it, or the next, go on."""
        try:
            renewed = policy.renew(session.grant, snapshot, now)
        except Exception:
            log.failure("Session {id} cannot be judged", id=session.info.id)
            renewed = Denied("it could not be judged")
        if isinstance(renewed, Denied):
            self._revoke(session, renewed.reason)
        else:
            session.grant = renewed

    def _revoke(self, session: Session, reason: str) -> None:
        """The end comes first: no failing write keeps a session alive."""
        self._end(session, End(EndReason.REVOKED, reason))
        with _regardless(session.info.id, "that it was revoked"):
            info = session.info
            self._audit.write("session.revoked", session=info.id, user=info.user, reason=reason)

    def tick(self, now: float) -> None:
        """Let each session hold its time limits; *now* is the event loop's time."""
        for session in list(self._sessions.values()):
            if session.running is not None:
                try:
                    session.running.tick(now)
                except Exception:
                    log.failure("Session {id} does not hold its limits", id=session.info.id)

    def places(self) -> set[tuple[str, str]]:
        """Resources and the addresses of their targets on which sessions run."""
        return {(each.info.resource, each.target) for each in self._sessions.values()}

    async def leave(self, reason: Callable[[Session], str | None]) -> None:
        """Ask each session for which there is a *reason* to go to another target."""
        for number, session in enumerate(list(self._sessions.values())):
            if number % BATCH == BATCH - 1:
                await asyncio.sleep(0)  # others have their turn
            if session.running is None or session.leaving:
                continue
            try:
                why = reason(session)
                if why is not None:
                    session.running.leave(why)
            except Exception:
                log.failure("Session {id} does not leave its target", id=session.info.id)

    async def drain(self, seconds: float) -> None:
        """Take no new sessions; give those that run *seconds* to finish, then end them."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for session in list(self._sessions.values()):
                self._end(session, End(EndReason.SHUTDOWN))
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._empty.wait()

    def _end(self, session: Session, end: End) -> None:
        """Whatever goes wrong with this one, it is no shelter for the next."""
        try:
            session.end(end)
        except Exception:
            log.failure("Session {id} does not end", id=session.info.id)

    def _done(self, session_id: str, end: End) -> None:
        session = self._sessions.pop(session_id, None)
        if session is None:
            return  # it is over already: what ends at its beginning may say so twice
        session.leaving = True
        self._leave(session.info.user)
        if not self._sessions:
            self._empty.set()
        info = evolve(session.now(), ended=self._clock(), status="ended", reason=_words(end))
        digest = ""
        with _regardless(session_id, "its end"):
            digest = session.transcript.close(end, info.statements, info.bytes_in, info.bytes_out)
        with _regardless(session_id, "that it ended"):
            facts = {"session": session_id, "user": info.user, "resource": info.resource}
            self._audit.write("session.ended", **facts, reason=info.reason)
        self._index.session_ended(info, digest)
        self._ended(info)

    def _leave(self, user: str) -> None:
        self._seats[user] -= 1
        if not self._seats[user]:
            del self._seats[user]


@contextmanager
def _regardless(session_id: str, what: str) -> Iterator[None]:
    """No failing write keeps a session alive, or another one from being tried."""
    try:
        yield
    except NotRecorded as unwritable:
        log.error(
            "Session {id}: not recorded {what}: {why}", id=session_id, what=what, why=unwritable
        )


def _words(end: End) -> str:
    return f"{end.reason.value}: {end.detail}" if end.detail else end.reason.value
