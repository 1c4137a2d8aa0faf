"""Dialling over real sockets: one target, several of them, and hostile ones at every step."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
import trustme
from attrs import evolve

from gateway.errors import BadParameter, NoSuchDatabase, Refused, Unreachable
from gateway.health import RefusedAccounts, Sightings, Spot
from gateway.model import Address, Grant, TargetKind, TargetTls, Terms, TlsMode
from gateway.pg import dial, frames
from gateway.pg.dial import PostgresDialer, Upstream
from gateway.pg.frames import Authentication, authentication, message
from gateway.pg.target_login import SYSTEM
from gateway.routing import Seen, State
from tests.pg.targets import (
    CA,
    HOST,
    KEY,
    OK,
    READY,
    SETTINGS,
    Script,
    ScriptedTarget,
    Talk,
    answer,
    granted,
    honest,
    no_descriptor_left,
    no_secret,
    playing,
    ready,
)
from tests.support import asyncio_test

NOW = 1_000_000.0
PATIENCE = 10.0  # seconds for what is to succeed, on a busy machine
SHORT = 0.4  # seconds for what is to time out
PARAMETERS = (("user", "app_ro"), ("database", "orders"))
FULL = TargetTls(TlsMode.VERIFY_FULL, CA.cert_pem.bytes())
OTHER_CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
STANDBY, PRIMARY, PREFER = TargetKind.STANDBY, TargetKind.PRIMARY, TargetKind.PREFER_STANDBY


def dialer(timeout: float = PATIENCE, seen: Sightings | None = None) -> PostgresDialer:
    accounts = RefusedAccounts(lambda: NOW, lambda spot, account, why: None)
    return PostgresDialer(seen or Sightings(lambda: NOW), accounts, lambda: NOW, timeout)


def known_of(sightings: Sightings, address: Address) -> Seen:
    return sightings.seen(granted(address).resource)[address]


async def over_tls(talk: Talk) -> None:
    await talk.secure()
    await honest(talk)
    await talk.stall()


async def stays(talk: Talk) -> None:
    await honest(talk)
    await talk.stall()


def being(kind: str) -> Script:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(ready(in_hot_standby="on" if kind == "standby" else "off"))
        await talk.stall()

    return script


def says(*messages: bytes) -> Script:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(*messages)
        await talk.stall()

    return script


def no(sqlstate: bytes) -> Script:
    return says(message(ord("E"), b"SFATAL\0C%b\0Mno\0\0" % sqlstate))


# -- one that works ------------------------------------------------------------------------


@asyncio_test
async def test_a_target_is_reached() -> None:
    seen = Sightings(lambda: NOW)
    with no_descriptor_left():
        async with playing(over_tls) as target:
            upstream = await dialer(seen=seen).dial(granted(target.address, tls=FULL), PARAMETERS)
            assert upstream.address == str(target.address)
            assert (upstream.key, dict(upstream.parameters)) == (KEY, SETTINGS)
            (talk,) = target.talks
            assert talk.startup == dict(PARAMETERS)
            known = known_of(seen, target.address)
            assert (known.kind, known.state, known.open_sessions) == ("primary", State.UP, 1)
            assert known.latency == 0.0
            upstream.abort()
            assert known_of(seen, target.address).open_sessions == 0
    assert no_secret(target.heard())
    assert repr(KEY.secret) not in repr(upstream)


@pytest.mark.parametrize(
    ("sqlstates", "error"),
    [
        ((b"3D000", b"3D000"), NoSuchDatabase),
        ((b"22023", b"57P03"), BadParameter),
        ((b"57P03", b"42704"), BadParameter),
        ((b"57P03", b"28P01"), Unreachable),
        ((b"42501", b"42501"), Unreachable),
    ],
)
@asyncio_test
async def test_what_only_the_client_can_mend(
    sqlstates: tuple[bytes, bytes], error: type[Refused]
) -> None:
    async with playing(no(sqlstates[0])) as one, playing(no(sqlstates[1])) as other:
        with pytest.raises(Refused) as refused:
            await dialer().dial(asked_for("orders", one.address, other.address), PARAMETERS)
        assert type(refused.value) is error
        assert "no (SQLSTATE" in refused.value.detail
        assert "SQLSTATE" not in refused.value.public


def asked_for(database: str | None, *targets: Address) -> Grant:
    grant = granted(*targets)
    return evolve(grant, ask=evolve(grant.ask, database=database))


@asyncio_test
async def test_a_database_that_the_client_did_not_name_is_not_its_to_mend() -> None:
    async with playing(no(b"3D000")) as target:
        with pytest.raises(Refused) as refused:
            await dialer().dial(asked_for(None, target.address), PARAMETERS)
        assert type(refused.value) is Unreachable


def telling(*answers: bytes) -> Script:
    """One that is asked whose data it has."""

    async def script(talk: Talk) -> None:
        await honest(talk)
        assert await talk.frame() == (b"Q", SYSTEM.encode() + b"\0")
        await talk.say(*answers)
        await talk.stall()

    return script


def refuses(sqlstate: str) -> bytes:
    return frames.error_response("ERROR", sqlstate, "no") + frames.ready_for_query()


@pytest.mark.parametrize(
    ("said", "system", "remembered"),
    [
        (answer(b"7001"), "7001", "7001"),
        (answer(None), "", None),
        (refuses("42501"), "", None),  # of this account
        (refuses("42883"), "", None),
        (refuses("57014"), "", None),  # this session has a statement_timeout of its own
    ],
)
@asyncio_test
async def test_whose_data_a_target_has(said: bytes, system: str, remembered: str | None) -> None:
    seen = Sightings(lambda: NOW)
    movable = {"move_idle_sessions": True}
    async with playing(telling(said)) as target:
        upstream = await dialer(seen=seen).dial(granted(target.address, **movable), PARAMETERS)
        assert (upstream.system, upstream.rest) == (system, b"")
        assert seen.sight(Spot("orders", target.address)).system == remembered
        upstream.abort()


@pytest.mark.parametrize(("movable", "known"), [(True, "7001"), (False, "")])
@asyncio_test
async def test_nobody_asks_for_what_is_known_or_not_needed(movable: bool, known: str) -> None:
    seen = Sightings(lambda: NOW)
    async with playing(stays) as target:
        if known:
            seen.identified(Spot("orders", target.address), known)
        grant = granted(target.address, move_idle_sessions=movable)
        upstream = await dialer(seen=seen).dial(grant, PARAMETERS)
        assert upstream.system == known
        upstream.abort()


@pytest.mark.parametrize(
    "tls",
    [
        TargetTls(TlsMode.REQUIRE),
        TargetTls(TlsMode.VERIFY_CA, CA.cert_pem.bytes()),
        FULL,
    ],
    ids=lambda tls: tls.mode.value,
)
@asyncio_test
async def test_tls(tls: TargetTls) -> None:
    async with playing(over_tls) as target:
        for host in (HOST, "127.0.0.1"):  # the certificate is for both
            address = Address(host, target.address.port)
            upstream = await dialer().dial(granted(address, tls=tls), PARAMETERS)
            upstream.abort()


@asyncio_test
async def test_another_name_is_no_matter_where_only_the_ca_is_verified() -> None:
    leaf = CA.issue_cert("elsewhere.example.com", key_type=trustme.KeyType.ECDSA)

    async def script(talk: Talk) -> None:
        await talk.secure(leaf)
        await talk.begin()
        await talk.scram(leaf)
        await talk.say(ready())

    async with playing(script) as target:
        tls = TargetTls(TlsMode.VERIFY_CA, CA.cert_pem.bytes())
        (await dialer().dial(granted(target.address, tls=tls), PARAMETERS)).abort()
        with pytest.raises(Unreachable, match="not for localhost"):
            await dialer().dial(granted(target.address, tls=FULL), PARAMETERS)


# -- and those that do not -----------------------------------------------------------------


async def failing(
    target: ScriptedTarget | Address,
    within: float = PATIENCE,
    after: State = State.DOWN,
    **grant,
) -> str:
    """What is told of a target that must not work; it counts as *after* afterwards."""
    address = target if isinstance(target, Address) else target.address
    seen = Sightings(lambda: NOW)
    with pytest.raises(Unreachable) as caught:
        await dialer(within, seen).dial(granted(address, **grant), PARAMETERS)
    known = known_of(seen, address)
    assert (known.state, known.open_sessions) == (after, 0)
    assert caught.value.public == Unreachable.public
    assert caught.value.detail.startswith(f"{address}: ")
    return caught.value.detail.removeprefix(f"{address}: ")


def tls_answer(*said: bytes) -> Script:
    async def script(talk: Talk) -> None:
        await talk.packet()
        for part in said:
            await talk.say(part)
        await talk.drain()

    return script


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((b"N",), "does not speak TLS"),
        ((b"E",), "does not speak TLS"),
        ((message(ord("E"), b"SFATAL\0Mtoo old\0\0"),), "does not speak TLS"),
        ((b"S" + ready(),), "does not speak TLS"),  # clear text behind the answer
        ((b"S\x16\x03\x03",), "does not speak TLS"),
        ((b"s",), "does not speak TLS"),
        ((b"\0",), "does not speak TLS"),
    ],
)
@asyncio_test
async def test_answers_to_the_request_for_tls(said: tuple[bytes, ...], words: str) -> None:
    with no_descriptor_left():
        async with playing(tls_answer(*said)) as target:
            assert words in await failing(target, tls=FULL)
    assert target.heard() == frames.ssl_request()


@asyncio_test
async def test_clear_text_that_comes_late_is_no_tls() -> None:
    async def script(talk: Talk) -> None:
        await talk.packet()
        await talk.say(b"S")
        await talk.take(5)  # the client's hello has begun
        await talk.say(ready())
        await talk.drain()

    async with playing(script) as target:
        assert await failing(target, tls=FULL) == "wrong version number"
    assert b"app_ro" not in target.heard()


@pytest.mark.parametrize(
    ("ca", "name", "words"),
    [(OTHER_CA, HOST, "certificate verify failed"), (CA, "elsewhere", "not for localhost")],
)
@asyncio_test
async def test_somebody_else(ca: trustme.CA, name: str, words: str) -> None:
    leaf = ca.issue_cert(name, key_type=trustme.KeyType.ECDSA)

    async def script(talk: Talk) -> None:
        await talk.secure(leaf)
        await talk.drain()

    with no_descriptor_left():
        async with playing(script) as target:
            assert words in await failing(target, tls=FULL)
    assert target.heard() == frames.ssl_request()  # nothing came out of TLS


@asyncio_test
async def test_wrong_settings_cost_a_log_in_only() -> None:
    async with playing(tls_answer(b"S")) as target:
        tls = TargetTls(TlsMode.VERIFY_CA, b"no PEM")
        assert "TLS settings cannot be used" in await failing(target, tls=tls)


@asyncio_test
async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address("127.0.0.1", free.getsockname()[1])
    with no_descriptor_left():
        assert "refused" in await failing(address)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no_name", "-", "a b"])
@asyncio_test
async def test_what_is_no_host_name_is_passed_over(host: str) -> None:
    seen = Sightings(lambda: NOW)
    async with playing(stays) as target:
        seen.opened(target.address)  # so that it is tried last
        grant = granted(Address(host, 5432), target.address)
        (await dialer(seen=seen).dial(grant, PARAMETERS)).abort()
    assert known_of(seen, Address(host, 5432)).state is State.DOWN


# -- stalls, drips and hang-ups at every step ----------------------------------------------

Step = Callable[[Talk], Awaitable[None]]


async def nothing(talk: Talk) -> None:
    """Accepts, and no more."""


async def hears(talk: Talk) -> None:
    await talk.begin()


async def half_a_header(talk: Talk) -> None:
    await talk.begin()
    await talk.say(OK[:3])


async def asks(talk: Talk) -> None:
    await talk.begin()
    await talk.challenged()


async def challenges(talk: Talk) -> None:
    await talk.begin()
    _, nonce = await talk.challenged()
    challenge = b"r=%bx,s=eHh4,i=4096" % nonce
    await talk.say(authentication(Authentication.SASL_CONTINUE, challenge))
    await talk.frame()


async def proves(talk: Talk) -> None:
    await talk.begin()
    await talk.scram()


async def lets_in(talk: Talk) -> None:
    await proves(talk)
    await talk.say(OK, frames.parameter_status("a", "b"))


async def half_a_setting(talk: Talk) -> None:
    await proves(talk)
    await talk.say(OK, b"S\0\0\0\x10abc")


async def ignores_a_question(talk: Talk) -> None:
    await proves(talk)
    await talk.say(OK, READY)
    await talk.frame()


async def answers_by_half(talk: Talk) -> None:
    await ignores_a_question(talk)
    await talk.say(answer(b"t")[:-6])


STEPS: list[Step] = [
    nothing, hears, half_a_header, asks, challenges, proves, lets_in, half_a_setting,
    ignores_a_question, answers_by_half,
]  # fmt: skip


async def ignores_the_request(talk: Talk) -> None:
    await talk.packet()


async def says_yes_and_no_more(talk: Talk) -> None:
    await talk.packet()
    await talk.say(b"S")
    await talk.take(5)


async def half_a_hello(talk: Talk) -> None:
    await says_yes_and_no_more(talk)
    await talk.say(b"\x16\x03\x03\x00\x7a\x02")


TLS_STEPS: list[Step] = [nothing, ignores_the_request, says_yes_and_no_more, half_a_hello]


ADMITTED: list[Step] = [lets_in, half_a_setting, ignores_a_question, answers_by_half]


def silent(step: Step) -> State:
    """What silence makes of a target. A person may choose settings that take their time, so
    once the account is in, it says nothing against the target."""
    if step in (lets_in, half_a_setting):
        return State.UNKNOWN
    return State.UP if step in ADMITTED else State.DOWN


def then(step: Step, last: Callable[[Talk], Awaitable[None]]) -> Script:
    async def script(talk: Talk) -> None:
        await step(talk)
        await last(talk)

    return script


async def hangs_up(talk: Talk) -> None:
    talk.wire.close()


@asyncio_test
async def test_stalls_end_in_time_and_leave_nothing() -> None:
    loop = asyncio.get_running_loop()
    with no_descriptor_left():
        async with AsyncExitStack() as stack:
            up = [
                (await stack.enter_async_context(playing(then(step, Talk.stall))), tls, step)
                for steps, tls in ((STEPS, TargetTls(TlsMode.DISABLE)), (TLS_STEPS, FULL))
                for step in steps
            ]
            began = loop.time()
            told = await asyncio.gather(
                *(
                    failing(target, SHORT, silent(step), tls=tls, terms=Terms(targets=STANDBY))
                    for target, tls, step in up
                )
            )
            assert loop.time() - began < SHORT + 1
            for (target, _, step), words in zip(up, told, strict=True):
                assert words == "no answer in time", step.__name__
                assert target.talks[0].at.is_set(), step.__name__
                assert no_secret(target.heard()), step.__name__


@pytest.mark.parametrize("step", [*STEPS, *TLS_STEPS[1:]], ids=lambda step: step.__name__)
@asyncio_test
async def test_who_hangs_up(step: Step) -> None:
    tls = FULL if step in TLS_STEPS[1:] else TargetTls(TlsMode.DISABLE)
    with no_descriptor_left():
        async with playing(then(step, hangs_up)) as target:
            after = State.DEGRADED if step in ADMITTED else State.DOWN
            words = await failing(target, after=after, tls=tls, terms=Terms(targets=STANDBY))
    assert words == "closed the connection" or "unexpected eof" in words
    assert no_secret(target.heard())


@asyncio_test
async def test_a_drip_is_cut_off_in_time() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        while True:
            await talk.say(message(ord("N"), b"\0"))
            await asyncio.sleep(SHORT / 20)

    with no_descriptor_left():
        async with playing(script) as target:
            assert await failing(target, SHORT) == "no answer in time"


@asyncio_test
async def test_who_does_not_even_accept() -> None:
    """A full backlog: the connection never comes to be."""
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        with no_descriptor_left():
            address = Address("127.0.0.1", full.getsockname()[1])
            assert await failing(address, SHORT) == "no answer in time"


@pytest.mark.parametrize("step", [nothing, asks], ids=lambda step: step.__name__)
@asyncio_test
async def test_a_deadline_from_outside_leaves_nothing(step: Step) -> None:
    with no_descriptor_left():
        async with playing(then(step, Talk.stall)) as target:
            dialling = asyncio.ensure_future(dialer().dial(granted(target.address), PARAMETERS))
            talk = await target.first()
            await talk.at.wait()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling


@asyncio_test
async def test_a_deadline_at_any_moment_leaves_nothing() -> None:
    """Also in the one in which the connection has come to be and nobody has it yet."""
    with no_descriptor_left():
        async with playing(stays) as target:
            seen = Sightings(lambda: NOW)
            for moment in range(60):
                dialling = asyncio.ensure_future(
                    dialer(seen=seen).dial(granted(target.address), PARAMETERS)
                )
                for _ in range(moment):
                    await asyncio.sleep(0)
                dialling.cancel()
                with suppress(asyncio.CancelledError):
                    (await dialling).abort()
            assert known_of(seen, target.address).open_sessions == 0


# -- several targets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "down"),
    [
        (says(b"HTTP/1.1 400\r\n\r\n"), False),
        (says(authentication(Authentication.CLEARTEXT)), False),  # the account's own fault, maybe
        (hangs_up, True),
        (no(b"57P03"), True),
        (no(b"57P01"), True),
        (no(b"28P01"), False),  # it works, and does not want this account
        (no(b"53300"), False),
        (no(b"3D000"), False),
    ],
)
@asyncio_test
async def test_one_that_fails_costs_itself_only(script: Script, down: bool) -> None:
    seen = Sightings(lambda: NOW)
    with no_descriptor_left():
        async with playing(script) as bad, playing(stays) as good:
            seen.opened(good.address)
            grant = granted(bad.address, good.address)
            upstream = await dialer(seen=seen).dial(grant, PARAMETERS)
            assert upstream.target == good.address
            upstream.abort()
    assert len(bad.talks) == len(good.talks) == 1
    assert (known_of(seen, bad.address).state is State.DOWN) is down
    assert known_of(seen, good.address).state is State.UP
    assert no_secret(bad.heard())


@asyncio_test
async def test_one_that_fails_is_asked_once() -> None:
    """Even where a second round follows, for any target instead of a standby."""
    async with playing(hangs_up) as target:
        assert await failing(target, terms=Terms(targets=PREFER)) == "closed the connection"
    assert len(target.talks) == 1


@asyncio_test
async def test_each_target_is_told_of() -> None:
    async with playing(no(b"28P01")) as one, playing(hangs_up) as other:
        with pytest.raises(Unreachable) as caught:
            await dialer().dial(granted(one.address, other.address), PARAMETERS)
    assert sorted(caught.value.detail.split("; ")) == sorted(
        [
            f"{one.address}: FATAL: no (SQLSTATE 28P01)",
            f"{other.address}: closed the connection",
        ]
    )


@asyncio_test
async def test_a_resource_without_targets() -> None:
    with pytest.raises(Unreachable, match="no target"):
        await dialer().dial(granted(), PARAMETERS)


@pytest.mark.parametrize(
    ("kinds", "wanted", "chosen", "log_ins"),
    [
        ("ps", PRIMARY, 0, (1, 0)),
        ("sp", PRIMARY, 1, (1, 1)),
        ("ps", STANDBY, 1, (1, 1)),
        ("ps", PREFER, 1, (1, 1)),
        ("sp", PREFER, 0, (1, 0)),
        ("pp", PREFER, 0, (2, 1)),
    ],
)
@asyncio_test
async def test_primary_or_standby(
    kinds: str, wanted: TargetKind, chosen: int, log_ins: tuple[int, int]
) -> None:
    seen = Sightings(lambda: NOW)
    scripts = [being("primary" if kind == "p" else "standby") for kind in kinds]
    with no_descriptor_left():
        async with playing(scripts[0]) as first, playing(scripts[1]) as second:
            seen.opened(second.address)
            up = (first, second)
            grant = granted(*(each.address for each in up), terms=Terms(targets=wanted))
            upstream = await dialer(seen=seen).dial(grant, PARAMETERS)
            assert upstream.target == up[chosen].address
            upstream.abort()
    assert tuple(len(each.talks) for each in up) == log_ins
    for kind, each in zip(kinds, up, strict=True):
        if each.talks:
            known = known_of(seen, each.address)
            assert known.kind == ("primary" if kind == "p" else "standby")
            assert known.state is State.UP


@pytest.mark.parametrize("wanted", [STANDBY, PREFER])
@asyncio_test
async def test_why_no_target_fits(wanted: TargetKind) -> None:
    async def script(talk: Talk) -> None:
        await proves(talk)
        await talk.say(ready(in_hot_standby="on"))
        await talk.frame()
        await talk.say(answer(b"61.5"))
        await talk.stall()

    seen = Sightings(lambda: NOW)
    async with playing(script) as target:
        grant = granted(target.address, terms=Terms(targets=wanted, max_lag_seconds=5))
        with pytest.raises(Unreachable, match=r"lags 61\.5 s behind"):
            await dialer(seen=seen).dial(grant, PARAMETERS)
    known = known_of(seen, target.address)
    assert (known.state, known.open_sessions) == (State.UP, 0)


# -- cancelling ----------------------------------------------------------------------------


def upstream_at(address: Address, key=KEY) -> Upstream:
    return Upstream(None, address, key, {}, b"", lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("tls", [FULL, TargetTls(TlsMode.DISABLE)], ids=["tls", "plain"])
@asyncio_test
async def test_a_cancel_reaches_its_target(tls: TargetTls) -> None:
    async def script(talk: Talk) -> None:
        if tls is FULL:
            await talk.secure()
        assert await talk.packet() == frames.cancel_request(KEY)[4:]

    with no_descriptor_left():
        async with playing(script) as target:
            grant = granted(target.address, tls=tls)
            await dialer().cancel(grant, upstream_at(target.address))
            await dialer().cancel(grant, upstream_at(target.address, None))
    assert len(target.talks) == 1


@pytest.mark.parametrize(
    "script",
    [
        nothing,
        hangs_up,
        then(nothing, Talk.stall),
        then(ignores_the_request, Talk.stall),
        then(says_yes_and_no_more, Talk.stall),
        tls_answer(b"N"),
    ],
)
@asyncio_test
async def test_a_cancel_that_is_not_heard_is_no_error(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "CANCELLING", SHORT)
    with no_descriptor_left():
        async with playing(script) as target:
            grant = granted(target.address, tls=FULL)
            await dialer().cancel(grant, upstream_at(target.address))
    assert KEY.secret not in target.heard()


@asyncio_test
async def test_a_cancel_for_a_target_that_is_gone_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address("127.0.0.1", free.getsockname()[1])
    for gone in (address, Address("a..b", 1)):
        await dialer().cancel(granted(gone), upstream_at(gone))
