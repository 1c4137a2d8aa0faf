"""Sessions between a scripted client and a scripted target: what is carried, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from attrs import define, field

from gateway.errors import Gone, NotRecorded
from gateway.model import End, EndReason, Terms
from gateway.pg import frames
from gateway.pg.channel import CHUNK, channel
from gateway.pg.frames import ErrorFields
from gateway.pg.pump import Pump
from gateway.pg.splice import PARTING, Sides, Splice
from gateway.record.format import CLIENT, NOTE, TARGET
from gateway.wire import Wire
from tests.pg.targets import ANY, LEAF, Log, anyone, context, no_descriptor_left, tcp_pair, until
from tests.support import asyncio_test

SESSION = "0123456789abcdef"
KILLED = End(EndReason.KILLED, "enough")
GREETING = frames.ready_for_query()
QUERY = frames.query("SELECT 1")
TERMINATE = frames.message(frames.Kind.TERMINATE)


def frame(kind: str, body: bytes = b"") -> bytes:
    return frames.message(ord(kind), body)


ROW = frame("D", struct.pack("!hi", 1, 3) + b"abc")
DONE = frame("C", b"SELECT 1\0")
READY = frames.ready_for_query()
ANSWER = ROW + DONE + READY
COPY_IN = frame("G", b"\0\0\0")
SYNC = frame("S")
STAYS, IN_FLIGHT = "sessions stay at their target", "a statement was in flight"
EXECUTE = frame("B", b"\0" * 8) + frame("E", b"\0" * 5)


class Side:
    """One far end, spoken by hand."""

    def __init__(self, wire: Wire, sock: socket.socket) -> None:
        self.wire = wire
        self.sock = sock
        self.say = wire.send
        self.close = wire.close

    async def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += await self.wire.receive()
        assert len(data) == length, data[length:]
        return data

    async def rest(self) -> bytes:
        """All that still comes, up to the end of the stream."""
        data = []
        with suppress(Gone):
            while True:
                data.append(await self.wire.receive())
        return b"".join(data)

    async def ignore(self) -> None:
        """Read, and keep nothing."""
        with suppress(Gone):
            while await self.wire.receive():
                pass

    async def told(self) -> tuple[bytes, ErrorFields]:
        """All that still comes: what stands before the error at its end, and the error."""
        rest = await self.rest()
        at = rest.index(b"ESFATAL\0", 0) if b"ESFATAL\0" in rest else rest.rindex(b"SFATAL\0") - 5
        (length,) = struct.unpack_from("!i", rest, at + 1)
        assert len(rest) == at + 1 + length
        return rest[:at], frames.parse_error(rest[at + 5 :])

    def waits(self) -> bool:
        """Nothing has come."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@define
class Play:
    """A session, both its far ends, and what was asked of its surroundings."""

    splice: Splice
    client: Side
    target: Side
    log: Log
    done: asyncio.Future[End]
    cancels: list[bool] = field(factory=list)

    async def ask(self, data: bytes = QUERY) -> None:
        """The client says *data*, and the target has it."""
        await self.client.say(data)
        assert await self.target.take(len(data)) == data

    async def answer(self, data: bytes = ANSWER) -> None:
        await self.target.say(data)
        assert await self.client.take(len(data)) == data


@asynccontextmanager
async def playing(
    terms: Terms = ANY,
    log: Log | None = None,
    *,
    tls: bool = False,
    sides: tuple[bytes, bytes] = (b"", b""),
) -> AsyncIterator[Play]:
    loop = asyncio.get_running_loop()
    pump = Pump(loop)
    (client, near_client), (target, near_target) = tcp_pair(), tcp_pair()
    wires = [Wire(sock, loop) for sock in (client, near_client, near_target, target)]
    if tls:
        for server, visitor in ((wires[1], wires[0]), (wires[3], wires[2])):
            shaking = server.accept_tls(context(LEAF)), visitor.start_tls(anyone(), None)
            await asyncio.gather(*shaking)
    cancels: list[bool] = []

    def cancel() -> Awaitable[None]:
        cancels.append(True)
        return asyncio.sleep(0)

    log, done = log or Log(), loop.create_future()
    splice = Splice(SESSION, log, terms, cancel, done.set_result)
    both = channel(*wires[1].take()), channel(*wires[2].take())
    splice.begin(pump, Sides(*both, *sides), GREETING)
    play = Play(splice, Side(wires[0], client), Side(wires[3], target), log, done, cancels)
    try:
        async with asyncio.timeout(20):
            if not sides[1]:
                assert await play.client.take(len(GREETING)) == GREETING
            yield play
            play.client.close()
            play.target.close()
            await done
    finally:
        if not done.done():
            splice._joint.close()
        assert len(pump) == 0
        pump.close()
        client.close()
        target.close()


# -- what is carried -----------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@asyncio_test
async def test_questions_and_answers(tls: bool) -> None:
    with no_descriptor_left():
        async with playing(tls=tls) as play:
            await play.ask(QUERY * 3)
            await play.answer(ANSWER * 3)
            await play.ask(TERMINATE)
            play.client.close()
            assert await play.target.rest() == b""
            play.target.close()
            assert await play.done == End(EndReason.CLIENT)
            carried = 3 * len(QUERY) + len(TERMINATE), 3 * len(ANSWER)
            assert play.splice.counters() == (3, *carried)
            assert play.log.of(CLIENT) == 3 * QUERY + TERMINATE
            assert play.log.of(TARGET) == 3 * (DONE + READY)
            assert not play.cancels


@asyncio_test
async def test_what_was_said_before_is_carried_first() -> None:
    async with playing(sides=(QUERY, ROW)) as play:
        assert await play.client.take(len(GREETING + ROW)) == GREETING + ROW
        assert await play.target.take(len(QUERY)) == QUERY
        assert play.splice.counters() == (1, len(QUERY), len(ROW))


@pytest.mark.parametrize("tls", [False, True])
@asyncio_test
async def test_no_byte_is_lost_however_it_comes(tls: bool) -> None:
    """Megabytes both ways at once, in pieces of all sizes, to readers who take their time."""
    dice = random.Random(7)
    forth = b"".join(frame("d", dice.randbytes(dice.randrange(3000))) for _ in range(1500))
    back = b"".join(frame("D", dice.randbytes(dice.randrange(30_000))) for _ in range(150))

    async def speak(side: Side, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = dice.choice((1, 4, 5, 6, 1000, 16_384, 100_000))
            await side.say(data[at : at + size])
            at += size
            await asyncio.sleep(0)

    async def hear(side: Side, length: int) -> bytes:
        digest, count = hashlib.sha256(), 0
        while count < length:
            data = await side.wire.receive()
            digest.update(data)
            count += len(data)
            await asyncio.sleep(0)
        return digest.digest()

    async with playing(tls=tls) as play:
        _, _, there, here = await asyncio.gather(
            speak(play.client, forth),
            speak(play.target, back),
            hear(play.target, len(forth)),
            hear(play.client, len(back)),
        )
        assert there == hashlib.sha256(forth).digest()
        assert here == hashlib.sha256(back).digest()
        assert play.splice.counters() == (0, len(forth), len(back))


# -- nothing runs unrecorded ---------------------------------------------------------------


class Watching(Log):
    """Sees to it that what it commits has not been sent yet."""

    target: Side
    commits = 0

    def commit(self, resume: Callable[[], None]) -> bool:
        assert self.target.waits(), "forwarded before it was recorded"
        self.commits += 1
        return super().commit(resume)


@asyncio_test
async def test_a_statement_is_recorded_before_it_is_forwarded() -> None:
    log = Watching()
    async with playing(log=log) as play:
        log.target = play.target
        for data in (QUERY, QUERY[:7], QUERY[7:], EXECUTE + SYNC):
            await play.ask(data)
        assert log.commits == 4
        assert log.of(CLIENT) == QUERY * 2 + EXECUTE + SYNC


@asyncio_test
async def test_a_statement_is_held_until_its_record_is_durable() -> None:
    log = Log()
    log.slow = True
    async with playing(log=log) as play:
        await play.client.say(QUERY)
        await until(lambda: log.of(CLIENT))
        await play.client.say(TERMINATE)
        for _ in range(20):
            await asyncio.sleep(0)
        assert play.target.waits()
        assert log.of(CLIENT) == QUERY  # and no more is read meanwhile
        await play.answer(frame("N", b"\0"))  # the other way goes on
        log.sync()
        assert await play.target.take(len(QUERY)) == QUERY
        await until(lambda: log.of(CLIENT) != QUERY)
        log.sync()
        assert await play.target.take(len(TERMINATE)) == TERMINATE


@asyncio_test
async def test_what_cannot_be_recorded_is_not_run() -> None:
    with no_descriptor_left():
        async with playing() as play:
            play.log.full = True
            await play.client.say(QUERY)
            before, said = await play.client.told()
            assert (before, said.sqlstate) == (b"", "58030")
            assert SESSION in said.message
            play.client.close()
            assert await play.target.rest() == b""
            assert await play.done == End(EndReason.NOT_RECORDED, "the device is full")


@pytest.mark.parametrize("cut", [0, 3, 5, 8, len(ROW)])
@asyncio_test
async def test_an_answer_that_cannot_be_recorded_ends_between_two_frames(cut: int) -> None:
    async with playing() as play:
        await play.ask()
        await play.answer(ROW[:cut])
        play.log.full = True
        await play.target.say(ROW[cut:] + DONE + READY)
        before, said = await play.client.told()
        assert before == (ROW[cut:] if 0 < cut < len(ROW) else b"")
        assert said.sqlstate == "58030"


@pytest.mark.parametrize("cut", [2, len(DONE) - 2])
@asyncio_test
async def test_even_if_it_is_the_frame_under_way_that_cannot_be_recorded(cut: int) -> None:
    async with playing() as play:
        await play.ask()
        await play.answer(DONE[:cut])
        play.log.full = True
        await play.target.say(DONE[cut:] + READY)
        before, said = await play.client.told()
        assert (before, said.sqlstate) == (DONE[cut:], "58030")


# -- who breaks the protocol ---------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"p\0\0\0\x08abcd",  # a password at the wrong time
        frames.startup_message([("user", "alice")]),
        QUERY + b"\0",  # not even what is well formed is forwarded
        b"Q\0\0\0\3",
        b"Q\xff\xff\xff\xff",
        b"d\x7f\xff\xff\xff",
        b"GET / HTTP/1.1\r\n",
    ],
)
@asyncio_test
async def test_a_client_that_breaks_the_protocol(said: bytes) -> None:
    with no_descriptor_left():
        async with playing() as play:
            await play.client.say(said + b"x" * 5)
            before, error = await play.client.told()
            assert (before, error.sqlstate) == (b"", "08P01")
            play.client.close()
            assert await play.target.rest() == b""
            assert (await play.done).reason is EndReason.PROTOCOL


@pytest.mark.parametrize(
    "said",
    [
        b"Z\0\0\0\4",  # ReadyForQuery without its state, at the very end of what was received
        ROW + b"Z\0\0\0\4" + ROW,
        b"Z\0\0\0\6II",
        b"\0\0\0\0\0",
        b"D\0\0\0\3",
        b"p\0\0\0\4",
        b"E\xff\xff\xff\xff",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
@pytest.mark.parametrize("split", [False, True])
@asyncio_test
async def test_a_target_that_breaks_the_protocol(said: bytes, split: bool) -> None:
    with no_descriptor_left():
        async with playing() as play, playing() as other:
            await play.ask()
            for part in [said[:2], said[2:]] if split else [said]:
                await play.target.say(part)
                await asyncio.sleep(0)
            rest = await play.client.rest()
            play.client.close()
            if not split:
                assert frames.parse_error(rest[5:]).sqlstate == "08P01"
            assert (await play.done).reason is EndReason.PROTOCOL
            assert play.cancels
            await other.ask()  # others notice nothing
            await other.answer()


@asyncio_test
async def test_a_mistake_of_ours_costs_one_session() -> None:
    class Broken(Log):
        def add(self, kind: int, payload: bytes) -> None:
            raise ZeroDivisionError

    with no_descriptor_left():
        async with playing(log=Broken()) as play, playing(tls=True) as other:
            await play.client.say(QUERY)
            before, said = await play.client.told()
            assert (before, said.sqlstate) == (b"", "XX000")
            assert "ZeroDivisionError" not in str(said)
            play.client.close()
            assert await play.target.rest() == b""
            assert await play.done == End(EndReason.FAILED, "ZeroDivisionError")
            await other.ask()
            await other.answer()


# -- brought to an end ---------------------------------------------------------------------


@asyncio_test
async def test_an_idle_session_is_ended() -> None:
    with no_descriptor_left():
        async with playing() as play:
            await play.ask()
            await play.answer()
            play.splice.end(KILLED)
            play.splice.end(End(EndReason.SHUTDOWN))
            before, said = await play.client.told()
            assert (before, said.severity, said.sqlstate) == (b"", "FATAL", "57P01")
            assert said.detail == "enough"
            play.client.close()
            assert await play.target.rest() == b""
            assert await play.done == KILLED
            assert not play.cancels
            play.splice.end(End(EndReason.SHUTDOWN))
            assert play.splice.counters() == (1, len(QUERY), len(ANSWER))


CALLS = [
    QUERY,
    frame("F", b"\0" * 12),
    EXECUTE + SYNC,
    EXECUTE + frame("H"),  # a Flush: the target works on it, and owes no ReadyForQuery
]


@pytest.mark.parametrize("call", CALLS)
@asyncio_test
async def test_what_runs_is_cancelled(call: bytes) -> None:
    async with playing() as play:
        await play.ask(call)
        play.splice.end(KILLED)
        before, _ = await play.client.told()
        assert before == b""
        assert len(play.cancels) == 1
        play.client.close()
        assert await play.done == KILLED


@asyncio_test
async def test_a_transaction_is_cancelled() -> None:
    async with playing() as play:
        await play.ask()
        await play.answer(DONE + frames.ready_for_query(b"T"))
        play.splice.end(KILLED)
        await play.client.told()
        assert len(play.cancels) == 1


@asyncio_test
async def test_what_was_sent_ahead_is_cancelled_in_its_turn() -> None:
    """The target has them already, and the first cancel can only stop the one that runs."""
    async with playing() as play:
        await play.ask(QUERY * 2)
        play.splice.end(KILLED)
        await play.client.told()
        assert len(play.cancels) == 1
        play.client.close()
        await play.done
        assert len(play.cancels) == 2


@asyncio_test
async def test_no_statement_starts_after_the_end() -> None:
    log = Log()
    log.slow = True
    async with playing(log=log) as play:
        await play.client.say(QUERY)
        await until(lambda: log.of(CLIENT))
        play.splice.end(KILLED)
        log.sync()
        await play.client.say(QUERY)
        await play.client.told()
        play.client.close()
        assert await play.target.rest() == b""
        assert log.of(CLIENT) == QUERY


@pytest.mark.parametrize("cut", [1, 4, 5, len(ROW) - 1])
@asyncio_test
async def test_the_end_waits_for_the_frame_under_way(cut: int) -> None:
    async with playing() as play:
        await play.ask()
        await play.answer(ROW + ROW[:cut])
        play.splice.end(KILLED)
        assert play.client.waits()
        for octet in ROW[cut:-1]:
            await play.target.say(bytes((octet,)))
            assert await play.client.take(1) == bytes((octet,))
        await play.target.say(ROW[-1:] + ROW + ANSWER)
        before, said = await play.client.told()
        assert (before, said.detail) == (ROW[-1:], "enough")
        assert len(play.cancels) == 1


HUGE = b"D" + struct.pack("!i", 500_000_000)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("reads", [False, True])
@asyncio_test
async def test_a_huge_row_does_not_delay_the_end(reads: bool, tls: bool) -> None:
    """Within a second, whether the client reads or not, and however much is still to come."""
    loop = asyncio.get_running_loop()
    with no_descriptor_left():
        async with playing(tls=tls) as play:
            await play.ask()

            async def flood() -> None:
                await play.target.say(HUGE)
                while True:
                    await play.target.say(bytes(CHUNK))
                    await asyncio.sleep(0)

            flooding = asyncio.ensure_future(flood())
            reading = asyncio.ensure_future(play.client.ignore()) if reads else None
            back = play.splice._joint.back
            await until(lambda: back.carried > 300_000 if reads else back.rest)
            began = loop.time()
            play.splice.end(KILLED)
            assert await play.done == KILLED
            assert loop.time() - began < 1.0
            assert len(back.rest) <= CHUNK
            assert len(play.cancels) == 2
            with pytest.raises(Gone):
                await flooding
            if reading is not None:
                await reading


@asyncio_test
async def test_a_client_that_never_reads_does_not_delay_the_end() -> None:
    loop = asyncio.get_running_loop()
    with no_descriptor_left():
        async with playing() as play:
            await play.ask()
            sending = asyncio.ensure_future(play.target.say(ROW * 1_000_000))
            back = play.splice._joint.back
            await until(lambda: back.rest)
            held = len(back.rest)
            began = loop.time()
            for _ in range(100):
                play.splice.end(KILLED)
            assert len(back.rest) < held + 500
            assert await play.done == KILLED
            assert loop.time() - began < 1.0
            with pytest.raises(Gone):
                await sending


@asyncio_test
async def test_a_target_that_never_reads_does_not_delay_the_end() -> None:
    loop = asyncio.get_running_loop()
    with no_descriptor_left():
        async with playing() as play:
            sending = asyncio.ensure_future(play.client.say(QUERY * 1_000_000))
            forth = play.splice._joint.forth
            await until(lambda: forth.rest)
            assert len(forth.rest) <= CHUNK
            began = loop.time()
            play.splice.end(KILLED)
            assert await play.done == KILLED
            assert loop.time() - began < 1.0
            assert len(play.cancels) == 2
            with suppress(Gone):
                await sending


# -- limits --------------------------------------------------------------------------------


def began(play: Play) -> float:
    return play.splice._began


@asyncio_test
async def test_the_time_limit() -> None:
    async with playing(Terms(max_session_seconds=3600)) as play:
        for second in (0, 1800, 3599):
            await play.ask()
            await play.answer()
            play.splice.tick(began(play) + second)
        assert not play.done.done()
        play.splice.tick(began(play) + 3600.1)
        _, said = await play.client.told()
        assert (said.sqlstate, said.detail) == ("57P01", "")
        play.client.close()
        assert await play.done == End(EndReason.TIME_LIMIT, "3600 s")


@asyncio_test
async def test_the_idle_limit() -> None:
    async with playing(Terms(idle_seconds=60)) as play:
        play.splice.tick(began(play) + 59)
        await play.ask()
        await play.answer()
        play.splice.tick(began(play) + 100)
        play.splice.tick(began(play) + 159)
        await play.answer(frame("A", b"\0" * 8))  # a notification: somebody listens
        play.splice.tick(began(play) + 200)
        play.splice.tick(began(play) + 259)
        assert play.client.waits()
        play.splice.tick(began(play) + 260.1)
        _, said = await play.client.told()
        assert said.sqlstate == "57P05"
        play.client.close()
        assert await play.done == End(EndReason.IDLE, "60 s")


@asyncio_test
async def test_without_limits_there_are_none() -> None:
    async with playing() as play:
        play.splice.tick(began(play) + 1e9)
        await play.ask()
        await play.answer()


async def idles(play: Play, at: float) -> bool:
    """True if a session that is silent from now on is ended for it."""
    play.splice.tick(at)
    play.splice.tick(at + 59)
    assert play.splice._end is None
    play.splice.tick(at + 61)
    return play.splice._end is not None


@pytest.mark.parametrize("call", CALLS[:3])
@asyncio_test
async def test_a_statement_that_runs_long_is_not_idle(call: bytes) -> None:
    async with playing(Terms(idle_seconds=60)) as play:
        await play.ask(call)
        await play.answer(ROW)
        assert not await idles(play, began(play))
        await play.answer(DONE + READY)
        assert await idles(play, began(play) + 1000)


@asyncio_test
async def test_a_transaction_that_nobody_goes_on_with_is_idle() -> None:
    async with playing(Terms(idle_seconds=60)) as play:
        await play.ask()
        await play.answer(DONE + frames.ready_for_query(b"T"))
        assert await idles(play, began(play))
        await play.client.told()
        assert play.cancels


@pytest.mark.parametrize("call", [QUERY, EXECUTE + SYNC])
@asyncio_test
async def test_a_copy_that_waits_for_the_client_is_idle(call: bytes) -> None:
    async with playing(Terms(idle_seconds=60)) as play:
        await play.ask(call)
        await play.answer(COPY_IN)
        await play.ask(frame("d", b"1\n"))
        assert await idles(play, began(play))
        await play.client.told()
        assert play.cancels


@pytest.mark.parametrize(("call", "last"), [(QUERY, b""), (EXECUTE + SYNC, SYNC), (EXECUTE, SYNC)])
@pytest.mark.parametrize("ended", [frame("c"), frame("f", b"no\0")])
@asyncio_test
async def test_after_a_copy_all_is_answered(call: bytes, last: bytes, ended: bytes) -> None:
    """A target that takes COPY data ignores the Sync that stands behind the Execute."""
    async with playing(Terms(idle_seconds=60)) as play:
        await play.ask(call)
        await play.answer(COPY_IN)
        await play.ask(frame("d", b"1\n") + ended + last)
        assert not play.splice.idle
        assert not await idles(play, began(play))
        await play.answer(frame("C", b"COPY 1\0") + READY)
        assert play.splice.idle
        assert await idles(play, began(play) + 1000)
        await play.client.told()
        assert not play.cancels


# -- cancel requests -----------------------------------------------------------------------


@asyncio_test
async def test_a_cancel_request_is_recorded_and_passed_on() -> None:
    async with playing() as play:
        await play.ask()
        await play.splice.cancelled()
        assert play.log.of(NOTE) == b'{"kind": "cancel"}'
        assert len(play.cancels) == 1
        error = frame("E", b"SERROR\0C57014\0Mcanceling statement\0\0")
        await play.answer(error + READY)
        assert play.splice.idle
        play.log.full = True
        with pytest.raises(NotRecorded):
            await play.splice.cancelled()
        assert len(play.cancels) == 1


# -- who goes first ------------------------------------------------------------------------


@asyncio_test
async def test_a_client_that_only_reads_on_gets_its_answer() -> None:
    with no_descriptor_left():
        async with playing() as play:
            await play.client.say(QUERY)
            play.client.sock.shutdown(socket.SHUT_WR)
            assert await play.target.rest() == QUERY
            await asyncio.sleep(PARTING + 0.1)
            await play.target.say(ANSWER)
            play.target.close()
            assert await play.client.rest() == ANSWER
            assert await play.done == End(EndReason.CLIENT)


@asyncio_test
async def test_a_target_that_closes_ends_the_session() -> None:
    with no_descriptor_left():
        async with playing() as play:
            await play.ask()
            await play.target.say(frame("E", b"SFATAL\0C57P01\0Mshutting down\0\0"))
            play.target.close()
            before, error = await play.client.told()
            assert (before, error.sqlstate) == (b"", "57P01")
            assert error.detail == f"{IN_FLIGHT}, shutting down"
            play.client.close()
            assert await play.done == End(EndReason.TARGET, IN_FLIGHT)


@asyncio_test
async def test_other_last_words_of_a_target_are_passed_on() -> None:
    async with playing() as play:
        last = frame("E", b"SFATAL\0C57P05\0Midle for too long\0\0")
        await play.target.say(last)
        assert await play.client.take(len(last)) == last
        play.target.close()
        assert await play.client.rest() == b""
        assert await play.done == End(EndReason.TARGET)


@asyncio_test
async def test_a_target_that_closes_does_not_wait_for_the_client() -> None:
    loop = asyncio.get_running_loop()
    with no_descriptor_left():
        async with playing() as play:
            began = loop.time()
            play.target.close()
            assert await play.done == End(EndReason.TARGET, STAYS)
            assert PARTING - 0.1 < loop.time() - began < 1.0


@asyncio_test
async def test_who_says_goodbye_is_the_one_who_left() -> None:
    async with playing() as play:
        await play.ask(TERMINATE)
        play.target.reset()
        assert await play.done == End(EndReason.CLIENT)


@pytest.mark.parametrize("first", ["client", "target"])
@pytest.mark.parametrize("speaks", [False, True])
@asyncio_test
async def test_who_was_reset_is_named(first: str, speaks: bool) -> None:
    """Also if it is noticed by writing to it."""
    with no_descriptor_left():
        async with playing() as play:
            gone, other = play.client, play.target
            if first == "target":
                gone, other = other, gone
            if speaks:
                other.sock.send(QUERY if first == "target" else ROW)
            gone.reset()
            if first == "client":
                assert await play.done == End(EndReason.CLIENT, "reset")
            else:
                why = IN_FLIGHT if speaks else STAYS
                assert await play.done == End(EndReason.TARGET, f"reset: {why}")


@pytest.mark.parametrize("goodbye", [b"", TERMINATE])
@asyncio_test
async def test_a_client_that_closes_without_the_goodbye_of_tls(goodbye: bytes) -> None:
    with no_descriptor_left():
        async with playing(tls=True) as play:
            await play.ask(QUERY + goodbye)
            play.client.sock.close()
            assert await play.target.rest() == b""
            play.target.close()
            assert await play.done == End(EndReason.CLIENT)


@asyncio_test
async def test_an_end_while_the_target_goes_is_one_end() -> None:
    async with playing() as play:
        play.target.close()
        assert (await play.client.told())[1].sqlstate == "57P01"
        play.splice.end(KILLED)
        play.splice.end(KILLED)
        assert await play.done == KILLED
