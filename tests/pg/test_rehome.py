"""Sessions whose target is lost or to be left: what is taken elsewhere, and what is not."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from attrs import define, evolve, field

from gateway.health import RefusedAccounts, Sightings
from gateway.model import Address, Denied, End, EndReason, Grant
from gateway.pg import frames, rehome, splice
from gateway.pg.channel import channel
from gateway.pg.dial import PostgresDialer
from gateway.pg.frames import ErrorFields
from gateway.pg.pump import Pump
from gateway.pg.rehome import Home, Movers
from gateway.pg.splice import Sides, Splice
from gateway.pg.state import SessionState
from gateway.pg.target_login import SYSTEM
from gateway.record.format import NOTE
from gateway.wire import Wire
from tests.pg.targets import (
    ANY,
    KEY,
    SETTINGS,
    Log,
    Notes,
    ScriptedTarget,
    Talk,
    answer,
    granted,
    no_descriptor_left,
    playing,
    ready,
    tcp_pair,
    until,
)
from tests.pg.test_splice import COPY_IN, GREETING, Side, frame
from tests.support import asyncio_test

I, T = frames.ready_for_query(), frames.ready_for_query(b"T")  # noqa: E741
PARSE = frame("P", b"s\0SELECT 1\0\0\0")
RUN = frame("B", b"\0s\0" + b"\0" * 6) + frame("E", b"\0" * 5)
SYNC = frame("S")
RAN = frame("2") + frame("C", b"SELECT 1\0") + I
ERROR = frames.error_response("ERROR", "42704", "not here")
GOODBYE = frames.error_response("FATAL", "57P01", "shutting down")
CRASHED = frame("N", b"SWARNING\0C57P02\0Mcrash\0\0")


@define(eq=False)
class Server:
    """Answers what it is asked, as ``told`` has it: by SQL text, or by type of message."""

    told: dict[str, bytes] = field(factory=dict)
    settings: dict[str, str] = field(factory=dict)
    heard: list[str] = field(factory=list)
    talk: Talk | None = None
    task: asyncio.Task[None] | None = None
    system: bytes = b"7001"
    uptime: bytes = b"1000"
    cancelling: bool = False  # whoever comes now only cancels
    target: ScriptedTarget | None = None
    came: asyncio.Event = field(factory=asyncio.Event)

    @property
    def address(self) -> Address:
        assert self.target is not None
        return self.target.address

    async def play(self, talk: Talk) -> None:
        if self.cancelling:
            await talk.packet()
            return
        await talk.begin()
        await talk.scram()
        await talk.say(ready(**self.settings))
        self.talk, self.task = talk, asyncio.current_task()
        self.came.set()
        while True:
            kind, body = await talk.frame()
            name = kind.decode()
            if name == "Q":
                name = body[:-1].decode()
            elif name == "P":
                name = "parse " + body.split(b"\0")[0].decode()
            if name == SYSTEM or "pg_postmaster_start_time" in name:
                await talk.say(answer(self.system if name == SYSTEM else self.uptime))
                continue
            self.heard.append(name)
            await talk.say(self.told.get(name, ANSWERS.get(name.split()[0], b"")))

    def was_asked(self, name: str) -> bool:
        return name in self.heard

    def close(self, *, reset: bool = False) -> None:
        """Break off, in the script's own task: it may be reading."""
        assert self.talk is not None
        assert self.task is not None
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.talk.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.talk.wire.close = self.talk.wire._sock.close
        self.task.cancel()

    async def say(self, data: bytes) -> None:
        assert self.talk is not None
        await self.talk.say(data)


ANSWERS = {
    "SET": frame("C", b"SET\0") + I,
    "LISTEN": frame("C", b"LISTEN\0") + I,
    "BEGIN": frame("C", b"BEGIN\0") + T,
    "COMMIT": b"",
    "SELECT": answer(b"1"),
    "CREATE": frame("C", b"CREATE TABLE\0") + I,
    "parse": frame("1"),
    "B": frame("2"),
    "E": frame("C", b"SELECT 1\0"),
    "S": I,
}


@define(eq=False)
class Play:
    """A session at ``old``; ``right`` is what it may have now, by default ``new``."""

    old: Server
    new: Server
    log: Log
    notes: Notes
    right: Callable[[Grant], Grant | Denied]
    seen: Sightings
    splice: Splice
    client: Side
    done: asyncio.Future[End]

    async def ask(self, data: bytes | str) -> bytes:
        """What comes in return, up to ReadyForQuery."""
        await self.client.say(frames.query(data) if isinstance(data, str) else data)
        got = b""
        while got[-6:-1] != I[:5]:
            got += await self.client.wire.receive()
        return got

    async def lose(self, server: Server | None = None, *, reset: bool = False) -> None:
        """The target breaks off, and that is known here."""
        (server or self.old).close(reset=reset)
        await until(lambda: self.splice._lost is not None or self.done.done())

    async def told(self) -> ErrorFields:
        before, error = await self.client.told()
        assert before == b""
        self.client.close()
        return error

    def reroutes(self) -> list[dict[str, Any]]:
        notes = [json.loads(payload) for kind, payload in self.log.records if kind == NOTE]
        return [note for note in notes if note["kind"] == "reroute"]


@asynccontextmanager
async def played(old: Server | None = None, new: Server | None = None) -> AsyncIterator[Play]:
    loop = asyncio.get_running_loop()
    old, new = old or Server(), new or Server()
    with no_descriptor_left():
        async with AsyncExitStack() as stack:
            for server in (old, new):
                server.target = await stack.enter_async_context(playing(server.play))
            seen = Sightings(lambda: 0.0)
            accounts = RefusedAccounts(lambda: 0.0, lambda spot, account, why: None)
            dialer = PostgresDialer(seen, accounts, lambda: 0.0, 5)
            pump, (near, far) = Pump(loop), tcp_pair()
            stack.callback(pump.close)
            upstream = await dialer.dial(movable(old.address), PARAMETERS)
            log, notes, done = Log(), Notes(), loop.create_future()
            play: Play
            movers = Movers(dialer, lambda grant: play.right(grant), notes)
            home = Home(movers, movable(old.address), upstream, parameters)

            def over(end: End) -> None:
                home.leave()
                done.set_result(end)

            state = SessionState(upstream.parameters)
            running = Splice("0123456789abcdef", log, ANY, home.cancel, over, home, state)
            client = Side(Wire(near, loop), near)
            place = new.address
            right = lambda grant: movable(place)  # noqa: E731
            play = Play(old, new, log, notes, right, seen, running, client, done)
            sides = channel(*Wire(far, loop).take()), channel(*upstream.wire.take())
            async with asyncio.timeout(5):
                running.begin(pump, Sides(*sides, from_target=upstream.rest), GREETING)
                assert await client.take(len(GREETING)) == GREETING
                yield play
                client.close()
                await done
            assert len(pump) == 0
            open_sessions = seen.seen(movable(old.address, new.address).resource).values()
            assert not any(each.open_sessions for each in open_sessions)


def movable(*targets: Address, **resource: Any) -> Grant:
    return granted(*targets, **{"move_idle_sessions": True, **resource})


PARAMETERS = (("user", "app_ro"), ("database", "orders"))


def parameters(grant: Grant) -> frames.Parameters:
    return (PARAMETERS[0], ("database", grant.resource.database or "orders"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(splice, "PARTING", 0.05)


# -- what is taken along -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "goodbye", "crash"])
@asyncio_test
async def test_an_idle_session_goes_to_another_target(how: str) -> None:
    async with played() as play:
        await play.ask("SET a = 1")
        await play.ask("LISTEN b")
        await play.ask(PARSE + SYNC)
        assert play.splice.standing() == (str(play.old.address), "")
        assert play.old.talk is not None
        if how == "goodbye":
            play.old.target._listening.close()
            await play.old.say(GOODBYE)
        elif how == "crash":
            await play.old.say(CRASHED)
        await play.lose(reset=how == "reset")
        assert await play.ask(RUN + SYNC) == RAN
        assert play.new.heard == ["SET a = 1", "LISTEN b", "parse s", "S", "B", "E", "S"]
        assert play.splice.standing() == (str(play.new.address), "")
        why = {"goodbye": "shutting down", "crash": "crash", "reset": "reset"}
        (note,) = play.reroutes()
        assert note == {
            "kind": "reroute",
            "from": str(play.old.address),
            "to": str(play.new.address),
            "why": why.get(how, "closed the connection"),
        }


@asyncio_test
async def test_nothing_is_lost_a_second_time() -> None:
    async with played() as play:
        await play.ask("SET a = 1")
        await play.lose()
        await play.ask("SET b = 1")
        place = play.old.address
        play.right = lambda grant: movable(place)
        await play.lose(play.new)
        await play.ask("SELECT 1")
        assert play.old.heard == ["SET a = 1", "SET a = 1", "SET b = 1", "SELECT 1"]
        assert len(play.reroutes()) == 2


@asyncio_test
async def test_what_the_client_says_meanwhile_waits() -> None:
    """And is neither lost nor said twice."""
    gone = Address("localhost", 1)
    async with played() as play:
        tries: list[Grant] = []

        def right(grant: Grant) -> Grant:
            tries.append(grant)
            return movable(gone if len(tries) < 3 else play.new.address)

        play.right = right
        await play.lose()
        await play.client.say(frames.query("SELECT 1"))
        assert await play.client.take(len(answer(b"1"))) == answer(b"1")
        assert play.new.heard == ["SELECT 1"]
        assert "SELECT 1" not in play.old.heard
        assert len(tries) == 3


@asyncio_test
async def test_the_client_hears_what_is_different() -> None:
    async with played(
        new=Server(settings={"in_hot_standby": "on", "server_version": "17.3"})
    ) as it:
        await it.lose()
        told = [frames.parameter_status(*pair) for pair in it.new.settings.items()]
        told.sort(key=len, reverse=True)
        assert await it.client.take(sum(map(len, told))) == b"".join(told)


@asyncio_test
async def test_settings_that_nobody_saw_being_made_are_made_again() -> None:
    async with played() as play:
        zone = frames.parameter_status("TimeZone", "It's \\ here")
        await play.old.say(zone)
        assert await play.client.take(len(zone)) == zone
        set_config = "SELECT pg_catalog.set_config(E'TimeZone', E'It''s \\\\ here', false)"
        play.new.settings["TimeZone"] = "UTC"
        play.new.told[set_config] = zone + answer(b"x")
        play.new.told["SELECT 2"] = answer(b"2")
        await play.lose()
        assert await play.ask("SELECT 2") == answer(b"2")
        assert play.new.heard == [set_config, "SELECT 2"]


@asyncio_test
async def test_cancelling_reaches_the_new_target() -> None:
    async with played() as play:
        await play.lose()
        await play.ask("SELECT 1")
        play.new.cancelling = True
        await play.splice.cancelled()
        assert play.new.target.talks[1].heard == frames.cancel_request(KEY)
        assert len(play.old.target.talks) == 1


# -- leaving on purpose --------------------------------------------------------------------


@asyncio_test
async def test_an_idle_session_leaves_when_asked() -> None:
    async with played() as play:
        await play.ask("SET a = 1")
        play.splice.leave("is being drained")
        await play.new.came.wait()
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.new.heard == ["SET a = 1", "SELECT 1"]
        assert play.reroutes()[0]["why"] == "is being drained"
        assert play.old.heard == ["SET a = 1", "X"]


@asyncio_test
async def test_a_busy_session_leaves_as_soon_as_it_is_idle() -> None:
    async with played() as play:
        await play.ask("BEGIN")
        play.splice.leave("is being drained")
        assert play.splice._moving is None
        play.old.told["COMMIT"] = frame("C", b"COMMIT\0") + I
        await play.ask("COMMIT")
        await play.ask("SELECT 1")
        assert (play.old.heard, play.new.heard) == (["BEGIN", "COMMIT", "X"], ["SELECT 1"])


@asyncio_test
async def test_who_cannot_leave_stays(monkeypatch) -> None:
    """No other target: the old one is as good as it was."""
    monkeypatch.setattr(rehome, "RESTS", (0.0, 0.0))
    async with played() as play:
        place = play.old.address
        for right in (lambda grant: movable(place), lambda grant: movable(Address("localhost", 1))):
            play.right = right
            assert not play.splice._home.rests
            play.splice.leave("is being drained")
            assert await play.ask("SELECT 1") == answer(b"1")
        assert play.splice.standing() == (str(place), "")
        assert play.reroutes() == []


@asyncio_test
async def test_who_found_no_place_is_not_asked_again_at_once(monkeypatch) -> None:
    """Each try is a log-in at every other target."""
    monkeypatch.setattr(rehome, "RESTS", (0.2, 30.0))
    async with played() as play:
        right, tries = play.right, list[Grant]()

        def none(grant: Grant) -> Grant:
            tries.append(grant)
            return movable(Address("localhost", 1))

        play.right = none
        for _ in range(5):
            play.splice.leave("is being drained")
            await play.ask("SELECT 1")
        assert len(tries) == 1
        play.right = right
        await until(lambda: not play.splice._home.rests)
        play.splice.leave("is being drained")
        await play.new.came.wait()
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.new.heard == ["SELECT 1"]


@asyncio_test
async def test_who_is_pinned_stays() -> None:
    async with played() as play:
        await play.ask("CREATE TEMP TABLE t (a int)")
        play.splice.leave("is being drained")
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.splice.standing() == (str(play.old.address), "temporary tables")
        assert play.new.heard == []


@asyncio_test
async def test_a_target_that_dies_while_it_is_left() -> None:
    async with played() as play:
        held = asyncio.Event()

        def right(grant: Grant) -> Grant:
            if not held.is_set():
                held.set()
                return movable(Address("localhost", 1))
            return movable(play.new.address)

        play.right = right
        play.splice.leave("is being drained")
        await play.lose()
        assert await play.ask("SELECT 1") == answer(b"1")
        assert held.is_set()
        assert play.new.heard == ["SELECT 1"]


# -- what cannot be taken along ------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "sqlstate", "why"),
    [
        (["BEGIN"], "40001", "in a transaction"),
        (["BEGIN", "!INSERT"], "57P01", "a statement was in flight"),
        (["BEGIN", "!COMMIT"], "57P01", "a statement was in flight"),
        (["!INSERT"], "57P01", "a statement was in flight"),
        (["CREATE TEMP TABLE t (a int)"], "57P01", "pinned: temporary tables"),
    ],
)
@pytest.mark.parametrize("words", [b"", GOODBYE])
@asyncio_test
async def test_what_does_not_survive_is_told(
    said: list[str], sqlstate: str, why: str, words: bytes
) -> None:
    async with played() as play:
        for text in said:
            if text[0] != "!":
                await play.ask(text)
                continue
            await play.client.say(frames.query(text[1:]))
            await until(partial(play.old.was_asked, text[1:]))
        await play.old.say(words)
        await play.lose()
        error = await play.told()
        assert (error.severity, error.sqlstate) == ("FATAL", sqlstate)
        assert error.detail == why + (", shutting down" if words else "")
        assert await play.done == End(EndReason.TARGET, why)
        assert play.new.heard == []


@pytest.mark.parametrize("asked", [frames.query("SELECT 1"), RUN + SYNC])
@pytest.mark.parametrize("reset", [True, False])
@asyncio_test
async def test_what_was_in_flight_is_asked_nowhere_else(asked: bytes, reset: bool) -> None:
    """Whatever the target says at its end: it may have run it."""
    async with played() as play:
        assert play.old.target is not None
        play.old.target._listening.close()
        play.old.told = {"Q": b"", "SELECT 1": b"", "B": b"", "E": b"", "S": b""}
        await play.client.say(asked)
        await until(partial(play.old.was_asked, "S" if asked[:1] == b"B" else "SELECT 1"))
        await play.old.say(GOODBYE)
        await until(lambda: bool(play.splice._last_words))
        await play.lose(reset=reset)
        assert (await play.told()).sqlstate == "57P01"
        assert play.new.heard == []


@pytest.mark.parametrize("rest", [frame("Q", b"SELECT 1\0")[:7], frame("D", b"S\0"), b"S"])
@asyncio_test
async def test_half_a_question_is_in_flight(rest: bytes) -> None:
    async with played() as play:
        await play.client.say(rest)
        assert play.old.talk is not None
        await until(lambda: play.old.talk.heard.endswith(rest))
        await play.lose()
        assert (await play.told()).sqlstate == "57P01"


@asyncio_test
async def test_a_copy_does_not_survive() -> None:
    async with played() as play:
        play.old.told["COPY"] = COPY_IN
        await play.client.say(frames.query("COPY"))
        assert await play.client.take(len(COPY_IN)) == COPY_IN
        await play.lose()
        assert (await play.told()).sqlstate == "57P01"


@asyncio_test
async def test_who_was_dismissed_at_a_target_that_stands_is_not_brought_back() -> None:
    async with played() as play:
        await play.old.say(GOODBYE)
        await play.lose()
        assert await play.client.rest() == GOODBYE
        assert await play.done == End(EndReason.TARGET, "shutting down")
        assert play.new.heard == []


@asyncio_test
async def test_a_goodbye_is_not_waited_upon() -> None:
    """Whoever says it and does not go keeps nobody waiting."""
    async with played() as play:
        await play.ask("SET a = 1")
        play.old.target._listening.close()
        await play.old.say(GOODBYE)
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.new.heard == ["SET a = 1", "SELECT 1"]
        assert play.old.heard == ["SET a = 1"]


@pytest.mark.parametrize("sqlstate", ["57P05", "08P01"])
@asyncio_test
async def test_who_was_told_of_the_end_is_not_taken_elsewhere(sqlstate: str) -> None:
    """A client that reads it late would take it for the answer to what it asks next."""
    last = frames.error_response("FATAL", sqlstate, "idle for too long")
    async with played() as play:
        await play.ask("SET a = 1")
        await play.old.say(last)
        assert await play.client.take(len(last)) == last
        play.splice.leave("is being drained")
        await play.lose()
        assert await play.client.rest() == b""
        assert await play.done == End(EndReason.TARGET)
        assert play.new.heard == []


@asyncio_test
async def test_an_error_that_was_answered_is_no_end() -> None:
    async with played() as play:
        play.old.told["SELECT 2"] = ERROR + I
        await play.ask("SELECT 2")
        await play.lose()
        assert await play.ask("SELECT 1") == answer(b"1")


@asyncio_test
async def test_a_target_that_was_started_since_did_not_dismiss_it() -> None:
    """A restart takes less time than two hundred sessions take to look whether it stands."""
    async with played() as play:
        await play.ask("SET a = 1")
        play.old.uptime = b"0.000001"
        await play.old.say(GOODBYE)
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.new.heard == ["SET a = 1", "SELECT 1"]


@asyncio_test
async def test_for_how_long_it_was_there_is_asked_when_its_turn_comes() -> None:
    """By then the target may be up for longer than the session was when it was told to go."""
    async with played() as play:
        home = play.splice._home
        for _ in range(rehome.MOST):
            await home._turn.acquire()
        play.old.uptime = b"0.2"
        await play.old.say(GOODBYE)
        await until(lambda: rehome._now() - home._since > 0.3)
        for _ in range(rehome.MOST):
            home._turn.release()
        assert await play.ask("SELECT 1") == answer(b"1")
        assert play.new.heard == ["SELECT 1"]


@asyncio_test
async def test_a_session_whose_client_has_gone_ends_where_it_is() -> None:
    """A frozen target does not notice: it must not be taken to another, to live for ever."""
    async with played() as play:
        await play.ask("SET a = 1")
        play.client.sock.shutdown(socket.SHUT_WR)
        await until(lambda: play.splice._joint.forth.ended)
        play.splice.leave("is down")
        assert await play.client.rest() == b""
        assert await play.done == End(EndReason.CLIENT)
        assert play.new.target.talks == []


@asyncio_test
async def test_a_wish_that_is_not_repeated_is_forgotten(monkeypatch) -> None:
    """The drain was taken back while a transaction ran."""
    monkeypatch.setattr(splice, "WISH", 0.0)
    async with played() as play:
        await play.ask("BEGIN")
        play.splice.leave("is being drained")
        play.old.told["COMMIT"] = frame("C", b"COMMIT\0") + I
        await play.ask("COMMIT")
        assert await play.ask("SELECT 1") == answer(b"1")
        assert (play.old.heard, play.new.heard) == (["BEGIN", "COMMIT", "SELECT 1"], [])


@asyncio_test
async def test_last_words_that_were_not_the_last_are_passed_on() -> None:
    async with played() as play:
        await play.old.say(CRASHED)
        note = frames.parameter_status("TimeZone", "UTC")
        await play.old.say(note)
        assert await play.client.take(len(CRASHED + note)) == CRASHED + note
        assert await play.ask("SELECT 1") == answer(b"1")


@asyncio_test
async def test_a_right_that_was_lost_is_no_way_to_another_target() -> None:
    async with played() as play:
        play.right = lambda grant: Denied("no binding is for this user")
        await play.lose()
        assert (await play.told()).sqlstate == "57P01"
        assert await play.done == End(EndReason.REVOKED, "no binding is for this user")
        assert play.new.target.talks == []


@asyncio_test
async def test_without_a_transcript_nobody_moves() -> None:
    async with played() as play:
        play.log.full = True
        await play.lose()
        assert (await play.told()).sqlstate == "58030"
        assert (await play.done).reason is EndReason.NOT_RECORDED
        assert play.new.heard == []


@asyncio_test
async def test_nothing_runs_before_the_transcript_has_the_move() -> None:
    async with played() as play:
        play.log.slow = True
        await play.lose()
        await until(play.reroutes)
        await play.client.say(frames.query("SELECT 1"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert play.new.heard == []
        play.log.slow = False
        play.log.sync()
        assert await play.client.take(len(answer(b"1"))) == answer(b"1")


@pytest.mark.parametrize(
    "new",
    [
        Server(told={"SET a = 1": ERROR + I}),
        Server(told={"SET a = 1": frame("C", b"SET\0") + T}),
        Server(told={"SET a = 1": frame("x")}),
        Server(settings={"server_version": "16.1"}),
        Server(settings={"server_encoding": "LATIN1"}),
        Server(settings={"is_superuser": "on"}),
    ],
    ids=["refuses", "transaction", "hostile", "version", "encoding", "superuser"],
)
@asyncio_test
async def test_a_different_session_is_not_this_one(new: Server, monkeypatch) -> None:
    monkeypatch.setattr(rehome, "PATIENCE", 0.3)
    same = {"server_encoding": "UTF8", "is_superuser": "off"}
    new = evolve(new, settings={**same, **new.settings}, came=asyncio.Event())
    async with played(Server(settings=same), new) as play:
        await play.ask("SET a = 1")
        await play.lose()
        error = await play.told()
        assert error.sqlstate == "57P01"
        assert error.detail == "no other target could take it in time"
        assert (await play.done).reason is EndReason.TARGET
        assert play.splice.standing()[0] == str(play.old.address)


@asyncio_test
async def test_other_data_are_no_place_to_go_to(monkeypatch) -> None:
    monkeypatch.setattr(rehome, "PATIENCE", 0.3)
    async with played(new=Server(system=b"7002")) as play:
        await play.ask("SET a = 1")
        await play.lose()
        assert (await play.told()).sqlstate == "57P01"
        assert "holds other data" in (await play.done).detail
        assert play.new.heard == []


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        ({"database": "reports"}, "the database is reports by now"),
        ({"move_idle_sessions": False}, "sessions stay at their target by now"),
    ],
)
@asyncio_test
async def test_a_resource_that_is_another_one_by_now(resource: dict[str, Any], why: str) -> None:
    async with played() as play:
        place = play.new.address
        play.right = lambda grant: movable(place, **resource)
        await play.lose()
        assert (await play.told()).sqlstate == "57P01"
        assert why in (await play.done).detail
        assert play.new.target.talks == []


@asyncio_test
async def test_targets_that_take_it_and_drop_it_are_given_up(monkeypatch) -> None:
    """Not a move a millisecond, for ever; and its client is told."""
    monkeypatch.setattr(rehome, "PAUSES", (0.001, 0.01))
    async with played() as play:
        places = [play.new, play.old]
        for number in range(rehome.MOST_HASTY + 1):
            server = places[number % 2]
            place = server.address
            play.right = lambda grant: movable(place)  # noqa: B023 -- asked before the next
            await play.lose(places[(number + 1) % 2])
            await play.ask("SELECT 1")
        await play.lose(server)
        assert (await play.told()).sqlstate == "57P01"
        assert await play.done == End(EndReason.TARGET, "no target keeps it")
        assert len(play.reroutes()) == rehome.MOST_HASTY + 1


@asyncio_test
async def test_a_move_is_in_the_audit_log() -> None:
    async with played() as play:
        await play.lose()
        await play.ask("SELECT 1")
        (entry,) = play.notes.entries
        assert entry == {
            "event": "session.moved",
            "session": "0123456789abcdef",
            "user": "alice",
            "resource": "orders",
            "from": str(play.old.address),
            "to": str(play.new.address),
            "why": "closed the connection",
        }


@asyncio_test
async def test_without_an_audit_log_nobody_moves() -> None:
    async with played() as play:
        play.notes.full = True
        await play.lose()
        assert (await play.told()).sqlstate == "58030"
        assert (await play.done).reason is EndReason.NOT_RECORDED
        assert play.new.heard == []


@asyncio_test
async def test_an_end_on_the_way_is_an_end() -> None:
    async with played() as play:
        play.right = lambda grant: movable(Address("localhost", 1))
        await play.lose()
        await until(lambda: play.splice._moving is not None)
        play.splice.end(End(EndReason.KILLED, "enough"))
        assert (await play.told()).sqlstate == "57P01"
        assert await play.done == End(EndReason.KILLED, "enough")


@asyncio_test
async def test_few_of_a_resource_are_on_their_way_at_once() -> None:
    at_once = most = 0

    class Counting(Home):
        async def _attempt(self, *_: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
            raise OSError("no")

    async with played() as play:
        movers = Movers(None, lambda grant: grant, play.notes)
        upstream = play.splice._home._upstream
        grants = [movable(), evolve(movable(), resource=evolve(movable().resource, name="other"))]
        homes = [
            Counting(movers, grant, upstream, lambda grant: ())
            for _ in range(50)
            for grant in grants
        ]
        wanted = SessionState(SETTINGS).restoration()
        moves = (home.another(wanted, lambda: False) for home in homes)
        failed = await asyncio.gather(*moves, return_exceptions=True)
        assert all(isinstance(each, rehome.Stranded) for each in failed)
        assert most == 2 * rehome.MOST
