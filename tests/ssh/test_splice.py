"""A session between two legs: what is recorded before what is sent, limits, and every end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from attrs import define, field

from gateway.errors import NotRecorded, ProtocolViolation
from gateway.model import End, EndReason, SshRights, Terms
from gateway.ssh import messages as m
from gateway.ssh.messages import string, uint32
from gateway.ssh.splice import Splice
from tests.support import asyncio_test

SESSION = "0123456789abcdef"
OPEN = bytes((m.CHANNEL_OPEN,)) + string(b"session") + uint32(7) + uint32(9) + uint32(9)
OPENED = bytes((m.CHANNEL_OPEN_CONFIRMATION,)) + uint32(7) + uint32(3) + uint32(9) + uint32(9)
EXEC = bytes((m.CHANNEL_REQUEST,)) + uint32(3) + string(b"exec") + b"\x01" + string(b"id")
ENV = bytes((m.CHANNEL_REQUEST,)) + uint32(3) + string(b"env") + b"\x01" + string(b"X") * 2
KEEPALIVE = bytes((m.GLOBAL_REQUEST,)) + string(b"keepalive@openssh.com") + b"\x01"
SERVERS_KEEPALIVE = (
    bytes((m.CHANNEL_REQUEST,)) + uint32(7) + string(b"keepalive@openssh.com") + b"\x01"
)
OUTPUT = bytes((m.CHANNEL_DATA,)) + uint32(7) + string(b"out")
INPUT = bytes((m.CHANNEL_DATA,)) + uint32(3) + string(b"in")
ASTRAY = bytes((m.CHANNEL_DATA,)) + uint32(99) + string(b"x")
WINDOW = bytes((m.CHANNEL_WINDOW_ADJUST,)) + uint32(3) + uint32(9)

Story = list[tuple[Any, ...]]


@define(eq=False)
class Leg:
    """One side, as the splice sees it; what happens to it is told in ``story``."""

    name: str
    story: Story
    reasons: set[str] = field(factory=set)

    def join(self, junction: Splice) -> None:
        self.story.append((self.name, "joins"))

    def transmit(self, payloads: Iterable[bytes]) -> None:
        self.story.append((self.name, *payloads))

    def hold(self, why: str, yes: bool) -> None:
        (self.reasons.add if yes else self.reasons.discard)(why)

    def part(self, code: int, words: str) -> None:
        self.story.append((self.name, "parts", words))


@define(eq=False)
class Log:
    """A transcript. ``durable`` False: only when the test calls ``resume``."""

    story: Story
    durable: bool = True
    full: bool = False
    resume: Callable[[], None] | None = None

    def add(self, kind: int, payload: bytes) -> None:
        if self.full:
            raise NotRecorded("no room")
        self.story.append(("noted",))

    def commit(self, resume: Callable[[], None]) -> bool:
        if self.full:
            raise NotRecorded("disk full")
        self.story.append(("written",))
        self.resume = resume
        return self.durable


class Session:
    """A splice in the middle of its legs."""

    def __init__(self, terms: Terms = Terms(), **log: Any) -> None:  # noqa: B008 -- frozen
        self.story: Story = []
        self.ends: list[End] = []
        self.client, self.target = Leg("client", self.story), Leg("target", self.story)
        self.log = Log(self.story, **log)
        legs: Any = (self.client, self.target)
        self.splice = Splice(SESSION, self.log, terms, legs, self.ends.append)
        self.splice.begin()
        self.story.clear()

    def say(self, leg: Leg, *payloads: bytes) -> Story:
        """All in one go; what comes of it."""
        self.story.clear()
        for payload in payloads:
            self.splice.received(leg, payload)
        self.splice.flush()
        return list(self.story)

    def channel(self) -> Session:
        self.say(self.client, OPEN)
        self.say(self.target, OPENED)
        return self

    async def over(self) -> End:
        await asyncio.sleep(0)
        (end,) = self.ends
        return end


@asyncio_test
async def test_what_comes_in_one_go_is_written_once_and_then_sent() -> None:
    session = Session().channel()
    assert session.say(session.client, EXEC, INPUT, INPUT) == [
        ("noted",),
        ("written",),
        ("target", EXEC, INPUT, INPUT),
    ]
    assert session.splice.counters() == (1, len(OPEN + EXEC + INPUT + INPUT), len(OPENED))


@asyncio_test
async def test_both_sides_are_answered_in_one_go() -> None:
    session = Session().channel()
    assert session.say(session.client, ENV, INPUT)[-2:] == [
        ("client", m.channel_failure(7)),
        ("target", INPUT),
    ]


@asyncio_test
async def test_nothing_is_sent_before_it_is_durable() -> None:
    session = Session(durable=False)
    assert session.say(session.client, OPEN) == [("written",)]
    assert session.client.reasons == session.target.reasons == {"not yet on the disk"}
    assert session.say(session.client, KEEPALIVE) == []  # what comes meanwhile waits, too
    assert session.log.resume is not None
    session.log.resume()
    assert session.story == [("target", OPEN), ("written",)]
    session.log.resume()
    assert session.story[-1] == ("target", KEEPALIVE)
    assert session.client.reasons == session.target.reasons == set()


@asyncio_test
async def test_what_becomes_durable_after_the_end_is_not_sent() -> None:
    session = Session(durable=False)
    session.say(session.client, OPEN)
    session.splice.end(End(EndReason.KILLED, "enough"))
    assert session.log.resume is not None
    session.story.clear()
    session.log.resume()
    assert session.story == []


@pytest.mark.parametrize("when", ["noted", "written"])
@asyncio_test
async def test_what_cannot_be_recorded_is_not_sent(when: str) -> None:
    session = Session().channel()
    session.log.full = True
    said = EXEC if when == "noted" else INPUT
    assert session.say(session.client, said) == [
        ("client", "parts", f"the session cannot be recorded (session {SESSION})"),
        ("target", "parts", ""),
    ]
    assert (await session.over()).reason is EndReason.NOT_RECORDED


@pytest.mark.parametrize("who", ["client", "target"])
@asyncio_test
async def test_who_breaks_the_protocol_is_named(who: str) -> None:
    session = Session().channel()
    leg = session.client if who == "client" else session.target
    story = session.say(leg, ASTRAY, INPUT)
    assert [event[:2] for event in story] == [("client", "parts"), ("target", "parts")]
    end = await session.over()
    assert end == End(EndReason.PROTOCOL, f"{who}: a message for a channel that is not open")


LOST = {
    "a client": ("client", None, End(EndReason.CLIENT)),
    "a client's network": ("client", OSError("reset"), End(EndReason.CLIENT)),
    "a target": ("target", None, End(EndReason.TARGET)),
    "a target's network": ("target", OSError("reset"), End(EndReason.TARGET, "reset")),
    "a client that broke the rules": (
        "client",
        ProtocolViolation("bad MAC"),
        End(EndReason.PROTOCOL, "client: bad MAC"),
    ),
}


@pytest.mark.parametrize("case", LOST)
@asyncio_test
async def test_one_side_goes(case: str) -> None:
    who, error, end = LOST[case]
    session = Session().channel()
    session.splice.lost(session.client if who == "client" else session.target, error)
    session.splice.lost(session.target, None)  # as the other then does
    assert await session.over() == end


@asyncio_test
async def test_an_end_is_told_once_and_to_the_client() -> None:
    session = Session().channel()
    session.story.clear()
    session.splice.end(End(EndReason.KILLED, "go home"))
    session.splice.end(End(EndReason.IDLE))
    assert session.story == [
        (
            "client",
            "parts",
            f"the session was ended by an administrator: go home (session {SESSION})",
        ),
        ("target", "parts", ""),
    ]
    assert session.say(session.client, INPUT) == session.say(session.target, OUTPUT) == []
    assert (await session.over()).detail == "go home"


@asyncio_test
async def test_what_is_open_is_noted_at_the_end() -> None:
    session = Session().channel()
    session.say(session.client, EXEC)
    session.splice.end(End(EndReason.KILLED))
    session.story.clear()
    assert (await session.over()).reason is EndReason.KILLED
    assert session.story == [("noted",)]


@asyncio_test
async def test_an_end_that_cannot_be_noted_is_that() -> None:
    session = Session().channel()
    session.splice.end(End(EndReason.KILLED))
    session.log.full = True
    assert (await session.over()).reason is EndReason.NOT_RECORDED


@asyncio_test
async def test_one_side_that_does_not_keep_up_stops_the_other() -> None:
    session = Session()
    session.splice.congested(session.client, True)
    assert session.target.reasons == {"its peer does not keep up"}
    assert session.client.reasons == set()
    session.splice.congested(session.client, False)
    session.splice.congested(session.target, True)
    assert (session.target.reasons, len(session.client.reasons)) == (set(), 1)


# -- limits of time ------------------------------------------------------------------------

LIVELY = {"input": ("client", INPUT), "output": ("target", OUTPUT), "a request": ("client", ENV)}
IDLE = {
    "nothing": None,
    "a keep-alive": ("client", KEEPALIVE),
    "a keep-alive of the target": ("target", SERVERS_KEEPALIVE),
    "a window": ("client", WINDOW),
}


async def ticked(said: tuple[str, bytes] | None) -> list[End]:
    """What comes of three seconds with *said* in the middle, where two are idle."""
    session = Session(Terms(idle_seconds=2)).channel()
    now = asyncio.get_running_loop().time()
    session.splice.tick(now)
    session.splice.tick(now + 1)
    if said is not None:
        session.say(session.client if said[0] == "client" else session.target, said[1])
    session.splice.tick(now + 1.9)
    session.splice.tick(now + 3)
    await asyncio.sleep(0)
    return session.ends


@pytest.mark.parametrize("case", LIVELY)
@asyncio_test
async def test_what_keeps_a_session_from_being_idle(case: str) -> None:
    assert await ticked(LIVELY[case]) == []


@pytest.mark.parametrize("case", IDLE)
@asyncio_test
async def test_what_does_not(case: str) -> None:
    assert await ticked(IDLE[case]) == [End(EndReason.IDLE, "2 s")]


@asyncio_test
async def test_the_longest_session() -> None:
    session = Session(Terms(max_session_seconds=10)).channel()
    now = asyncio.get_running_loop().time()
    session.splice.tick(now + 9.9)
    assert session.ends == []
    session.splice.tick(now + 10)
    assert await session.over() == End(EndReason.TIME_LIMIT, "10 s")


@asyncio_test
async def test_rights_are_the_terms() -> None:
    session = Session(Terms(ssh=SshRights(exec=False))).channel()
    story = session.say(session.client, EXEC)
    assert story == [("noted",), ("written",), ("client", m.channel_failure(7))]
