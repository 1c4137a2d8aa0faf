"""The story, as dialogues: every way in which it goes, and every way in which it does not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from gateway import session
from gateway.contracts import CancelKey, Hops, Jump
from gateway.errors import (
    BadProof,
    Gone,
    NotAllowed,
    NotRecorded,
    ProtocolViolation,
    TlsRequired,
    Unreachable,
)
from gateway.model import Account, EndReason, Protocol
from gateway.session import Observer, serve
from tests.leaks import nothing_left
from tests.story import ALICE, HANGS, HOUR, NEXT_HOUR, READ, READER, WEB, Client, House, snapshot
from tests.support import asyncio_test

SOON = 0.05  # seconds to log in, where somebody hangs
ASKED = ["ask"]
PROVED = [*ASKED, "password?"]
DIALLED = [*PROVED, "dialling orders as app_ro"]
ADMITTED = [*DIALLED, "welcome"]


@asynccontextmanager
async def house(root: Path, *, broken: bool = False, **other: Any) -> AsyncIterator[House]:
    """Whatever happens within: no descriptor, task or open transcript is left behind."""
    async with nothing_left(broken=broken):
        here = House(root, **other)
        yield here
        here.leave()
        assert not here.live.infos()
        assert not here.recorder._open


# -- the way in ----------------------------------------------------------------------------


@asyncio_test
async def test_ask_prove_decide_dial_splice(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        alice = await here.visit()
        assert alice.heard == ADMITTED
        assert here.counts.logins == ["admitted"]
        [info] = here.live.infos()
        assert (info.user, info.resource, info.account, info.target, info.source) == (
            ("alice", "orders", "app_ro", "db:5432", "10.1.1.1")
        )
        assert (info.status, info.statements, info.bytes_in, info.bytes_out) == ("live", 3, 20, 100)
        [entry] = here.entries()
        assert {name: entry[name] for name in ("event", "session", "user", "method", "role")} == {
            "event": "session.started",
            "session": info.id,
            "user": "alice",
            "method": "password",
            "role": "reader",
        }
        assert not alice.upstream.aborted
        assert not alice.closed


@asyncio_test
async def test_the_end_is_recorded_and_the_seat_is_free(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        for _ in range(2):
            alice = await here.visit()
            assert alice.running is not None
            assert here.live.kill(here.live.infos()[0].id, "lunch")
        assert [verdict.status for verdict in here.verdicts()] == ["ok", "ok"]
        assert [info.reason for info in here.ended] == ["killed: lunch"] * 2


@asyncio_test
async def test_a_client_that_goes_as_it_is_let_in_was_a_session(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        alice = await here.visit(splice="gone already")
        assert alice.heard == ADMITTED
        assert here.audited() == [("started", ""), ("ended", "client closed")]
        assert [verdict.status for verdict in here.verdicts()] == ["ok"]
        assert not here.live.infos()


@asyncio_test
async def test_a_cancel_request_is_passed_on_and_nothing_more(tmp_path: Path) -> None:
    key = CancelKey(42, b"key")
    async with house(tmp_path) as here:
        client = await here.visit(ask=key)
        assert client.heard == ["ask", "closed"]
        assert here.cancelled == [key]
        assert not here.entries()
        assert not here.counts.logins


@asyncio_test
async def test_nobody_has_to_count() -> None:
    Observer().login("admitted", 0.1)


# -- no ------------------------------------------------------------------------------------


@frozen
class No:
    """``at`` a step, ``when`` this happens, the client has ``heard`` so much and then hears
    ``why``; the audit log has ``audited`` last."""

    name: str
    at: str
    when: Any
    heard: list[str]
    why: str
    audited: tuple[str, str] | None
    broken: bool = False


SLOW = "log-in took too long"
UNKNOWN = "the connection was refused"
BOB = evolve(ALICE, user="bob")

NOS = [
    No("hangs", "ask", HANGS, ASKED, SLOW, None),
    No("malformed", "ask", ProtocolViolation("bad packet"), ASKED, "bad packet", None),
    No("clear text", "ask", TlsRequired("x"), ASKED, TlsRequired.public, None),
    No("mistake", "ask", ZeroDivisionError(), ASKED, UNKNOWN, None, broken=True),
    No("hangs", "password", HANGS, PROVED, SLOW, ("refused", SLOW)),
    No("wrong", "password", "wrong", PROVED, BadProof.public, ("refused", "wrong password")),
    No(
        "malformed",
        "password",
        ProtocolViolation("bad SASL", "nonce of 1 MB"),
        PROVED,
        "bad SASL",
        ("refused", "nonce of 1 MB"),
    ),
    No(
        "mistake",
        "password",
        KeyError(),
        PROVED,
        UNKNOWN,
        ("refused", "internal error"),
        broken=True,
    ),
    No(
        "no such user",
        "ask",
        evolve(ALICE, user="mallory"),
        PROVED,
        BadProof.public,
        ("refused", "no such user"),
    ),
    No("denied", "ask", BOB, PROVED, "access denied", ("refused", "no binding is for this user")),
    No(
        "no such resource",
        "ask",
        evolve(ALICE, resource="x"),
        PROVED,
        "access denied",
        ("refused", "there is no resource x"),
    ),
    No("hangs", "dial", HANGS, DIALLED, SLOW, ("refused", SLOW)),
    No(
        "unreachable",
        "dial",
        Unreachable("db:5432: timed out"),
        DIALLED,
        Unreachable.public,
        ("refused", "db:5432: timed out"),
    ),
    No("mistake", "dial", OSError(), DIALLED, UNKNOWN, ("refused", "internal error"), broken=True),
    No("timed out below", "dial", TimeoutError(), DIALLED, SLOW, ("refused", SLOW)),
    No(
        "unrecorded",
        "splice",
        NotRecorded("disk full"),
        ADMITTED,
        NotRecorded.public,
        ("refused", "disk full"),
    ),
    No(
        "mistake",
        "splice",
        ValueError(),
        ADMITTED,
        UNKNOWN,
        ("refused", "internal error"),
        broken=True,
    ),
]


@pytest.mark.parametrize("no", NOS, ids=lambda no: f"{no.at}-{no.name}")
@asyncio_test
async def test_no(no: No, tmp_path: Path) -> None:
    async with house(tmp_path, broken=no.broken, login_seconds=SOON) as here:
        client = await here.visit(**{no.at: no.when})
        assert client.heard == [*no.heard, f"no: {no.why}", "closed"]
        assert here.audited()[-1:] == ([no.audited] if no.audited else [])
        assert client.quote == (here.entries()[-1]["id"] if no.audited else "")
        assert client.upstream.aborted == (no.at == "splice")
        assert len(here.counts.logins) == 1
        await _the_seat_is_free(here)


async def _the_seat_is_free(here: House) -> None:
    assert not here.live.infos()
    assert (await here.visit()).heard == ADMITTED


@pytest.mark.parametrize(
    ("at", "heard"), [("ask", ASKED), ("password", PROVED), ("dial", DIALLED), ("splice", ADMITTED)]
)
@asyncio_test
async def test_who_is_gone_is_told_nothing(at: str, heard: list[str], tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        client = await here.visit(**{at: Gone()})
        assert client.heard == [*heard, "closed"]
        assert client.upstream.aborted == (at == "splice")
        assert not here.counts.logins
        assert [event for event, _ in here.audited()] == (
            ["started", "ended"] if at == "splice" else []
        )
        await _the_seat_is_free(here)


@pytest.mark.parametrize(("at", "heard"), [("ask", ASKED), ("password", PROVED), ("dial", DIALLED)])
@asyncio_test
async def test_a_story_that_is_cut_off_closes_in_silence(
    at: str, heard: list[str], tmp_path: Path
) -> None:
    async with house(tmp_path) as here:
        client = Client({at: HANGS})
        story = asyncio.ensure_future(serve(here.door, client))
        await client.reach(at)
        story.cancel()
        with pytest.raises(asyncio.CancelledError):
            await story
        assert client.heard == [*heard, "closed"]
        assert not here.entries()
        await _the_seat_is_free(here)


@asyncio_test
async def test_a_refusal_that_is_cut_off_closes_too(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        client = Client({"password": "wrong", "refuse": HANGS})
        story = asyncio.ensure_future(serve(here.door, client))
        await client.reach("refuse")
        story.cancel()
        with pytest.raises(asyncio.CancelledError):
            await story
        assert client.closed


@pytest.mark.parametrize("deaf", [HANGS, Gone()], ids=["hangs", "gone"])
@asyncio_test
async def test_who_does_not_listen_to_a_no_is_left(
    deaf: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "REFUSING", SOON)
    async with house(tmp_path) as here:
        client = await here.visit(password="wrong", refuse=deaf)
        assert client.heard == [*PROVED, "no: authentication failed", "closed"]


@asyncio_test
async def test_a_mistake_in_a_refusal_is_logged_and_the_client_is_left(tmp_path: Path) -> None:
    async with house(tmp_path, broken=True) as here:
        client = await here.visit(password="wrong", refuse=UnicodeError("surrogates"))
        assert client.closed


@asyncio_test
async def test_a_cancel_request_that_fails_is_no_session(tmp_path: Path) -> None:
    async with house(tmp_path) as here:

        async def full(key: CancelKey) -> None:
            raise NotRecorded("disk full")

        here.door = evolve(here.door, cancel=full)
        client = await here.visit(ask=CancelKey(1, b"x"))
        assert client.heard[0] == "ask"
        assert client.closed


# -- limits ----------------------------------------------------------------------------------


@asyncio_test
async def test_the_limit_holds_while_another_one_dials(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        first = Client({"dial": HANGS})
        story = asyncio.ensure_future(serve(here.door, first))
        await first.reach("dial")
        second = await here.visit()
        assert second.heard == [*PROVED, "no: too many connections", "closed"]
        assert here.audited() == [("refused", "all 1 sessions are taken")]
        story.cancel()
        await asyncio.wait([story])
        await _the_seat_is_free(here)


@asyncio_test
async def test_the_limit_holds_while_another_one_runs(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.visit()
        second = await here.visit()
        assert second.heard == [*PROVED, "no: too many connections", "closed"]
        assert here.counts.logins == ["admitted", "LimitReached"]


# -- what changes while a target is dialled --------------------------------------------------


@asyncio_test
async def test_revoked_while_dialling(tmp_path: Path) -> None:
    async with house(tmp_path) as here:

        def revoke() -> None:
            here.snapshot = snapshot(version=2)

        client = await here.visit(dial=revoke)
        assert client.heard == [*DIALLED, "no: access denied", "closed"]
        assert client.upstream.aborted == 1
        assert here.audited() == [("refused", "while dialling: no binding is for this user")]
        assert not here.verdicts()
        here.snapshot = snapshot(READ, version=3)
        await _the_seat_is_free(here)


@asyncio_test
async def test_revoked_while_proving(tmp_path: Path) -> None:
    async with house(tmp_path) as here:

        def revoke() -> None:
            here.snapshot = snapshot(version=2)

        client = await here.visit(password=revoke)
        assert client.heard == [*PROVED, "no: access denied", "closed"]


@asyncio_test
async def test_expired_while_dialling(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.snapshot = snapshot(NEXT_HOUR)

        def wait() -> None:
            here.now += HOUR

        client = await here.visit(dial=wait)
        assert client.heard == [*DIALLED, "no: access denied", "closed"]


@asyncio_test
async def test_a_session_rests_upon_what_held_when_it_began(tmp_path: Path) -> None:
    """Not upon what held before the target was dialled: time can take the new right away."""
    async with house(tmp_path) as here:

        def rebind() -> None:
            here.snapshot = snapshot(NEXT_HOUR, version=2)

        client = await here.visit(dial=rebind)
        assert client.heard == ADMITTED
        assert here.entries()[-1]["binding"] == "next-hour"
        here.now += HOUR
        await here.live.recheck(here.snapshot, timed=True)
        assert client.running is not None
        assert [end.reason for end in client.running.ended] == [EndReason.REVOKED]


@asyncio_test
async def test_the_gateway_stops_while_a_target_is_dialled(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        arrived = asyncio.get_running_loop().create_future()
        client = Client({"dial": arrived})
        story = asyncio.ensure_future(serve(here.door, client))
        await client.reach("dial")
        await here.live.drain(0)
        arrived.set_result(None)
        await story
        assert client.heard == [*DIALLED, "no: the gateway is shutting down", "closed"]
        assert client.upstream.aborted == 1
        assert here.audited() == [("turned-away", "draining")]
        assert not here.verdicts()


@asyncio_test
async def test_who_comes_while_the_gateway_stops_is_turned_away(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.live.drain(0)
        client = await here.visit()
        assert client.heard == [*PROVED, "no: the gateway is shutting down", "closed"]
        assert here.audited() == [("turned-away", "draining")]


# -- what cannot be recorded is not run ------------------------------------------------------


@asyncio_test
async def test_without_a_transcript_there_is_no_session(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.lose_transcripts()
        client = await here.visit()
        assert client.heard == [*DIALLED, f"no: {NotRecorded.public}", "closed"]
        assert client.upstream.aborted == 1
        [(event, detail)] = here.audited()
        assert event == "refused"
        assert str(here.transcripts) in detail
        here.transcripts.unlink()
        await _the_seat_is_free(here)


@asyncio_test
async def test_without_an_audit_log_there_is_no_session(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.lose_audit()
        client = await here.visit()
        assert client.heard == [*DIALLED, f"no: {NotRecorded.public}", "closed"]
        assert client.upstream.aborted == 1
        assert client.quote == ""
        assert [verdict.status for verdict in here.verdicts()] == ["ok"]
        [info] = here.ended
        assert info.reason.startswith("recording failed: ")
        assert not here.live.infos()


@asyncio_test
async def test_without_an_audit_log_all_refusals_sound_alike(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.lose_audit()
        for script in ({"password": "wrong"}, {"ask": BOB}):
            client = await here.visit(**script)
            assert client.heard == [*PROVED, f"no: {NotRecorded.public}", "closed"]


# -- through one connection to others --------------------------------------------------------


def jump(ways: list[Hops]) -> Jump:
    return Jump("alice", ALICE.source, ways.append)


@asyncio_test
async def test_a_jump_is_open_once_it_is_proved(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        ways: list[Hops] = []
        client = await here.visit(ask=jump(ways))
        assert client.heard == PROVED
        assert [way.user for way in ways] == ["alice"]
        assert not here.live.infos()
        assert here.counts.logins == ["jump"]
        [entry] = here.entries()
        assert {name: entry[name] for name in ("event", "user", "source", "method")} == {
            "event": "login.jump",
            "user": "alice",
            "source": "10.1.1.1",
            "method": "password",
        }


@asyncio_test
async def test_a_jump_has_a_seat_until_its_connection_ends(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        ways: list[Hops] = []
        await here.visit(ask=jump(ways))
        for ask in (ALICE, jump(ways)):
            refused = await here.visit(ask=ask)
            assert refused.heard == [*PROVED, "no: too many connections", "closed"]
        assert [event for event, _ in here.audited()] == ["login.jump", "refused", "refused"]
        [way] = ways
        way.leave()
        way.leave()
        await _the_seat_is_free(here)
        assert (await here.visit()).heard[-2:] == ["no: too many connections", "closed"]


@pytest.mark.parametrize("failed", [Gone(), ZeroDivisionError()], ids=["gone", "mistake"])
@asyncio_test
async def test_a_jump_that_is_not_opened_has_no_seat(failed: Exception, tmp_path: Path) -> None:
    def admit(way: Hops) -> None:
        raise failed

    async with house(tmp_path, broken=not isinstance(failed, Gone)) as here:
        client = await here.visit(ask=Jump("alice", ALICE.source, admit))
        assert client.closed
        await _the_seat_is_free(here)


@asyncio_test
async def test_a_jump_that_cannot_be_noted_stays_shut(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        here.lose_audit()
        ways: list[Hops] = []
        client = await here.visit(ask=jump(ways))
        assert client.heard == [*PROVED, f"no: {NotRecorded.public}", "closed"]
        assert not ways
        assert here.counts.logins == ["NotRecorded"]


@asyncio_test
async def test_no_jump_while_the_gateway_stops(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.live.drain(0)
        client = await here.visit(ask=jump([]))
        assert client.heard == [*PROVED, "no: the gateway is shutting down", "closed"]


@pytest.mark.parametrize(
    ("at", "when", "why"),
    [
        ("password", "wrong", BadProof.public),
        ("password", HANGS, SLOW),
        ("ask", Jump("mallory", ALICE.source, lambda way: None), BadProof.public),
    ],
)
@asyncio_test
async def test_a_jump_that_is_not_proved_stays_shut(
    at: str, when: Any, why: str, tmp_path: Path
) -> None:
    async with house(tmp_path, login_seconds=SOON) as here:
        ways: list[Hops] = []
        client = await here.visit(**{"ask": jump(ways), at: when})
        assert client.heard == [*PROVED, f"no: {why}", "closed"]
        assert not ways
        [entry] = here.entries()
        assert (entry["id"], entry["resource"], entry["account"]) == (client.quote, "", "")


@asyncio_test
async def test_a_jump_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path, broken=True) as here:
        client = await here.visit(ask=Jump("alice", ALICE.source, lambda way: 1 / 0))
        assert client.heard == [*PROVED, f"no: {UNKNOWN}", "closed"]


def told(way: Hops, resource: str) -> str:
    """What is heard of a hop, but for the id to quote; "" if there is a point in trying."""
    try:
        way.judge(resource)
    except NotAllowed as refused:
        return re.sub(r"\(audit id \w{8}\)$", "(id)", refused.public)
    return ""


@asyncio_test
async def test_each_hop_is_decided_when_it_is_made(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        ways: list[Hops] = []
        await here.visit(ask=jump(ways))
        assert told(ways[0], "web") == ""
        assert here.audited() == [("login.jump", "")]
        assert told(ways[0], "orders") == "access denied (id)"
        assert told(ways[0], "nowhere") == "access denied (id)"
        here.snapshot = snapshot(version=2)
        assert told(ways[0], "web") == "access denied (id)"
        assert here.audited()[1:] == [
            ("refused", "orders speaks postgresql, not ssh"),
            ("refused", "there is no resource nowhere"),
            ("refused", "no binding is for this user"),
        ]
        here.lose_audit()
        assert told(ways[0], "web") == "access denied"


@asyncio_test
async def test_who_has_yet_to_name_an_account_may_try(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        ways: list[Hops] = []
        await here.visit(ask=jump(ways))
        accounts = {name: Account(name) for name in ("app_ro", "app_rw")}
        [clause] = READER.allow
        here.snapshot = evolve(
            here.snapshot,
            resources={"web": evolve(WEB, accounts=accounts)},
            roles={"reader": evolve(READER, allow=(evolve(clause, accounts=frozenset(accounts)),))},
        )
        assert told(ways[0], "web") == ""
        assert here.audited() == [("login.jump", "")]


@asyncio_test
async def test_a_connection_inside_has_a_story_of_its_own(tmp_path: Path) -> None:
    web = evolve(ALICE, protocol=Protocol.SSH, resource="web")
    async with house(tmp_path, limits=(2, 2)) as here:
        ways: list[Hops] = []
        await here.visit(ask=jump(ways))
        inner, refused = Client({"ask": web}), Client({"ask": evolve(web, resource="orders")})
        for client in (inner, refused):
            ways[0].begin(client)
        await refused.reach("refuse")
        assert inner.heard == [*PROVED, "dialling web as app_ro", "welcome"]
        assert refused.heard[:3] == [*PROVED, "no: access denied"]
        assert [info.resource for info in here.live.infos()] == ["web"]
