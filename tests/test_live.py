"""Sessions that run: listed, limited, killed, judged again, drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.logger import capturedLogs

from gateway import live, policy
from gateway.errors import LimitReached, NotRecorded, ShuttingDown
from gateway.live import BATCH, Session
from gateway.model import End, EndReason, Grant, Identity, SessionInfo
from tests.leaks import nothing_left
from tests.record.files import judged
from tests.story import ALICE, HOUR, NEXT_HOUR, READ, House, Running, snapshot
from tests.support import asyncio_test

CLIENT = End(EndReason.CLIENT)
MANY = 3 * BATCH
NOT_FOR_THIS_USER = "no binding is for this user"


class Hall(House):
    """Sessions without a story: they begin when a test says so."""

    def begin(self, name: str = "one", *, unwritten: bool = False, **ways: bool) -> Running:
        """*ways*: in which the session is difficult, see :class:`tests.story.Running`."""
        now = datetime.fromtimestamp(self.now, UTC)
        grant = policy.decide(ALICE, Identity("alice", "password"), self.snapshot, now)
        assert isinstance(grant, Grant)
        info = SessionInfo(
            name, "alice", "orders", "app_ro", "db:5432", "postgresql", "10.1.1.1", self.now
        )
        transcript = Unwritten() if unwritten else self.recorder.open(info)
        with self.live.seat("alice") as seat:
            session = self.live.begin(info, grant, transcript, seat)
            session.running = running = Running(session.done, **ways)
        return running

    def session(self, name: str = "one") -> Session:
        found = self.live.find(name)
        assert found is not None
        return found

    def names(self) -> list[str]:
        return [info.id for info in self.live.infos()]


class Unwritten:
    """A transcript that costs nothing, where sessions come by the hundred."""

    def add(self, kind: int, payload: bytes) -> None: ...

    def commit(self, resume: Any) -> bool:
        return True

    def close(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        return ""


@asynccontextmanager
async def hall(root: Path, *, broken: bool = False, limits=(MANY, MANY)) -> AsyncIterator[Hall]:
    async with nothing_left(broken=broken):
        here = Hall(root, limits=limits)
        yield here
        here.leave()
        assert not here.live._seats, "nothing is remembered of who has left"


@contextmanager
def complaint(why: str) -> Iterator[None]:
    """The log is told, in words."""
    with capturedLogs() as events:
        yield
    assert [event["log_level"].name for event in events] == ["error"]
    assert why in str(events[0]["why"])


# -- the list ------------------------------------------------------------------------------


@asyncio_test
async def test_a_session_is_listed_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        assert (len(here.live), here.live.infos(), here.live.find("one")) == (0, [], None)
        running = here.begin()
        assert len(here.live) == 1
        [info] = here.live.infos()
        assert info == evolve(here.index.started[0], statements=3, bytes_in=20, bytes_out=100)
        here.now += HOUR
        running.done(End(EndReason.TARGET, "reset"))
        assert (len(here.live), here.live.infos(), here.live.find("one")) == (0, [], None)
        assert here.ended == [
            evolve(info, ended=here.now, status="ended", reason="target closed: reset")
        ]
        assert here.audited() == [("ended", "target closed: reset")]


@asyncio_test
async def test_a_session_is_listed_where_it_is_by_now(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin()
        [info] = here.live.infos()
        session = here.live.find(info.id)
        assert (session.target, session.pinned) == ("db:5432", "temporary tables")
        running.moved_to = "other:5432"
        assert session.target == "other:5432"
        assert here.live.infos() == [evolve(info, target="other:5432")]
        assert here.live.places() == {(info.resource, "other:5432")}
        running.done(End(EndReason.CLIENT))
        assert here.index.ended[0][0].target == "other:5432"


@asyncio_test
async def test_the_index_has_the_digest_of_the_transcript(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        here.begin().done(CLIENT)
        [(info, digest)] = here.index.ended
        assert info == here.ended[0]
        [path] = here.transcripts.rglob("*.gwt")
        assert judged(path, digest).status == "ok"
        assert judged(path, "0" * 64).status == "altered"


@asyncio_test
async def test_a_session_that_has_just_begun_has_no_counters_and_cannot_be_ended(
    tmp_path: Path,
) -> None:
    async with hall(tmp_path) as here:
        here.begin()
        session = here.session()
        session.running = None
        assert here.live.infos() == [session.info]
        here.live.tick(1.0)
        session.end(CLIENT)
        assert not session.leaving


@asyncio_test
async def test_an_end_that_is_told_twice_is_one_end(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        one, _other = here.begin("one"), here.begin("other")
        one.done(CLIENT)
        one.done(End(EndReason.FAILED))
        assert here.names() == ["other"]
        assert here.live._seats.total() == 1
        assert [info.reason for info in here.ended] == ["client closed"]


@asyncio_test
async def test_an_end_without_a_transcript_is_audited_and_indexed(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin()
        here.session().transcript.file.fail("disk full")
        with complaint("disk full"):
            running.done(CLIENT)
        assert here.audited() == [("ended", "client closed")]
        assert here.index.ended == [(here.ended[0], "")]


@asyncio_test
async def test_an_end_without_an_audit_log_keeps_its_digest(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin()
        here.lose_audit()
        with complaint("audit"):
            running.done(CLIENT)
        [(_, digest)] = here.index.ended
        [path] = here.transcripts.rglob("*.gwt")
        assert judged(path, digest).status == "ok"


# -- seats ---------------------------------------------------------------------------------


@asyncio_test
async def test_a_seat_is_given_back_unless_a_session_took_it(tmp_path: Path) -> None:
    async with hall(tmp_path, limits=(1, 1)) as here:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), here.live.seat("alice"):
                raise ZeroDivisionError
        running = here.begin()
        with pytest.raises(LimitReached, match="all 1"), here.live.seat("bob"):
            pass
        running.done(CLIENT)
        with here.live.seat("bob"):
            pass


@asyncio_test
async def test_each_user_has_a_limit_and_all_have_one_together(tmp_path: Path) -> None:
    async with hall(tmp_path, limits=(3, 2)) as here:
        with here.live.seat("alice"), here.live.seat("alice"):
            with pytest.raises(LimitReached, match="alice has 2"), here.live.seat("alice"):
                pass
            with (
                here.live.seat("bob"),
                pytest.raises(LimitReached, match="all 3"),
                here.live.seat("bob"),
            ):
                pass
            with here.live.seat("bob"):
                pass


# -- kill ----------------------------------------------------------------------------------


@asyncio_test
async def test_who_is_killed_ends_with_the_reason(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        one, other = here.begin("one"), here.begin("other")
        assert here.live.kill("one", "lunch")
        assert one.ended == [End(EndReason.KILLED, "lunch")]
        assert not other.ended
        assert here.audited() == [("ended", "killed: lunch"), ("killed", "lunch")]
        assert not here.live.kill("one", "again")
        assert not here.live.kill("nobody", "")
        assert len(here.audited()) == 2


@asyncio_test
async def test_a_kill_that_cannot_be_audited_is_an_error_and_ends_all_the_same(
    tmp_path: Path,
) -> None:
    async with hall(tmp_path) as here:
        here.begin()
        here.lose_audit()
        with pytest.raises(NotRecorded):
            here.live.kill("one", "lunch")
        assert not here.live.infos()


@asyncio_test
async def test_a_kill_that_fails_says_so(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        here.begin(broken=True)
        with pytest.raises(ZeroDivisionError):
            here.live.kill("one", "lunch")
        assert not here.audited()


# -- judged again --------------------------------------------------------------------------


@asyncio_test
async def test_what_is_no_longer_allowed_ends(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin()
        await here.live.recheck(here.snapshot)
        assert not running.ended
        await here.live.recheck(snapshot(version=2))
        assert running.ended == [End(EndReason.REVOKED, NOT_FOR_THIS_USER)]
        assert ("revoked", NOT_FOR_THIS_USER) in here.audited()
        assert not here.live.infos()


@asyncio_test
async def test_a_session_goes_on_by_what_allows_it_now(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin()
        assert not here.session().grant.timed
        await here.live.recheck(snapshot(NEXT_HOUR, version=2))
        assert here.session().grant.binding == "next-hour"
        here.now += HOUR
        await here.live.recheck(snapshot(NEXT_HOUR, version=2), timed=True)
        assert [end.reason for end in running.ended] == [EndReason.REVOKED]


@asyncio_test
async def test_time_alone_is_asked_of_what_it_can_take_away(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        untimed = here.begin("untimed")
        here.snapshot = snapshot(NEXT_HOUR)
        timed = here.begin("timed")
        await here.live.recheck(snapshot(), timed=True)
        assert (len(untimed.ended), len(timed.ended)) == (0, 1)


@asyncio_test
async def test_who_takes_time_to_leave_is_told_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        revoked, killed = here.begin("1", stubborn=True), here.begin("2", stubborn=True)
        here.live.kill("2", "lunch")
        for _ in range(3):
            await here.live.recheck(snapshot(version=2))
        assert (len(revoked.ended), len(killed.ended)) == (1, 1)
        assert here.audited() == [("killed", "lunch"), ("revoked", NOT_FOR_THIS_USER)]


@asyncio_test
async def test_a_revocation_that_cannot_be_audited_is_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        running = here.begin(stubborn=True)
        here.lose_audit()
        with complaint("audit"):
            await here.live.recheck(snapshot(version=2))
        assert running.ended


@asyncio_test
async def test_one_that_cannot_be_ended_is_no_shelter_for_others(tmp_path: Path) -> None:
    async with hall(tmp_path, broken=True) as here:
        first, second = here.begin("first", broken=True), here.begin("second")
        await here.live.recheck(snapshot(version=2))
        assert second.ended
        assert here.names() == ["first"]
        first.broken = False
        await here.live.recheck(snapshot(version=2))
        assert first.ended, "it is tried again"


@asyncio_test
async def test_one_that_cannot_be_judged_ends_and_shelters_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, broken=True) as here:
        first, second = here.begin("first"), here.begin("second")
        renew, asked = policy.renew, []

        def fails_once(*question: Any) -> Any:
            asked.append(question)
            if len(asked) == 1:
                raise ZeroDivisionError
            return renew(*question)

        monkeypatch.setattr(policy, "renew", fails_once)
        await here.live.recheck(snapshot(version=2))
        assert first.ended
        assert second.ended


@asyncio_test
async def test_a_drain_does_not_wait_for_what_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LAST_WORDS", 0.01)
    async with hall(tmp_path) as here:
        slow = here.begin("slow", stubborn=True)
        await here.live.drain(0)
        slow.done(slow.ended[0])


@asyncio_test
async def test_others_have_their_turn_while_many_are_judged(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        every = [here.begin(str(number), unwritten=True) for number in range(MANY)]
        judging = asyncio.ensure_future(here.live.recheck(snapshot(version=2)))
        await asyncio.sleep(0)
        assert 0 < len(here.live) < MANY
        every[-1].done(CLIENT)
        await judging
        assert not here.live.infos()
        assert not every[-1].ended, "it had left before"
        assert here.audited().count(("revoked", NOT_FOR_THIS_USER)) == MANY - 1


@asyncio_test
async def test_an_older_state_gives_way_to_a_newer_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        every = [here.begin(str(number), unwritten=True) for number in range(MANY)]
        older = asyncio.ensure_future(here.live.recheck(snapshot(version=2)))
        await asyncio.sleep(0)
        left = here.names()
        assert 0 < len(left) < MANY
        await here.live.recheck(snapshot(READ, version=3))
        await older
        assert here.names() == left
        assert sum(len(running.ended) for running in every) == MANY - len(left)


# -- limits of time, and the end of all ----------------------------------------------------


@asyncio_test
async def test_each_session_is_told_the_time(tmp_path: Path) -> None:
    async with hall(tmp_path, broken=True) as here:
        one, broken, other = (here.begin(str(n), broken=n == 1) for n in range(3))
        here.live.tick(42.0)
        assert (one.ticks, broken.ticks, other.ticks) == ([42.0], [], [42.0])


@asyncio_test
async def test_a_tick_may_end_sessions(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        one, other = here.begin("one"), here.begin("other")
        one.idle = True
        here.live.tick(42.0)
        assert here.names() == ["other"]
        assert other.ticks == [42.0]


@asyncio_test
async def test_a_drain_of_nothing_is_over_at_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        await here.live.drain(HOUR)
        with pytest.raises(ShuttingDown), here.live.seat("alice"):
            pass
        with pytest.raises(ShuttingDown):
            here.live.check_open()


@asyncio_test
async def test_a_drain_waits_for_those_who_finish(tmp_path: Path) -> None:
    async with hall(tmp_path) as here:
        one, other = here.begin("one"), here.begin("other")
        draining = asyncio.ensure_future(here.live.drain(HOUR))
        await asyncio.sleep(0)
        one.done(CLIENT)
        await asyncio.sleep(0)
        assert not draining.done()
        other.done(CLIENT)
        await draining
        assert not one.ended + other.ended


@asyncio_test
async def test_a_drain_ends_those_who_do_not(tmp_path: Path) -> None:
    async with hall(tmp_path, broken=True) as here:
        broken, prompt, slow = (
            here.begin("broken", broken=True),
            here.begin("prompt"),
            here.begin("slow", stubborn=True),
        )
        draining = asyncio.ensure_future(here.live.drain(0))
        while not slow.ended:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert prompt.ended == slow.ended == [End(EndReason.SHUTDOWN)]
        assert not draining.done()
        slow.done(slow.ended[0])
        broken.done(CLIENT)
        await draining
