"""Looking at PostgreSQL targets over real sockets: what is found, and what is made of it."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime

import pytest
import trustme
from attrs import evolve

from gateway.errors import ProtocolViolation
from gateway.health import Findings, RefusedAccounts, Spot
from gateway.model import (
    Account,
    Address,
    Monitoring,
    Protocol,
    Resource,
    Secret,
    Target,
    TargetTls,
    TlsMode,
)
from gateway.pg import frames
from gateway.pg.frames import message
from gateway.pg.probe import PostgresProbe, _answer, _identity
from tests.pg.targets import (
    CA,
    PASSWORD,
    Script,
    Talk,
    answer,
    no_descriptor_left,
    no_secret,
    playing,
    ready,
)
from tests.support import asyncio_test

PATIENCE, SHORT = 10.0, 0.3  # seconds for what is to succeed, and for what is to time out
APP = Account("app_ro", Secret(PASSWORD.encode()))
ORDERS = Resource(
    "orders",
    Protocol.POSTGRESQL,
    (),
    {"app_ro": APP},
    tls=TargetTls(TlsMode.DISABLE),
    health=Monitoring("app_ro"),
)
FULL = TargetTls(TlsMode.VERIFY_FULL, CA.cert_pem.bytes())
PRIMARY = [False, None, 50331648, "0000000A0000000000000002"]
STANDBY = [True, 0.25, 50331000, None]
CONTROL = [7712190914370521289, 9]


class Doctor:
    """A probe, and which accounts it was told are refused."""

    def __init__(self) -> None:
        self.refused: list[tuple[Spot, str, str]] = []
        self.accounts = RefusedAccounts(lambda: 0.0, lambda *told: self.refused.append(told))
        self.probe = PostgresProbe(self.accounts)

    async def look(
        self, address: Address, resource: Resource = ORDERS, seconds: float = PATIENCE
    ) -> Findings:
        return await self.probe(resource, Target(address), seconds)


def told(findings: Findings) -> list[tuple[str, bool | None]]:
    return [(step.name, step.ok) for step in findings.steps]


def answering(*values: object, tls: bool = False) -> Script:
    """Lets the account in, and answers so; None is a refusal."""

    async def script(talk: Talk) -> None:
        if tls:
            await talk.secure()
        await talk.begin()
        await talk.scram()
        await talk.say(ready())
        for value in values:
            await talk.frame()
            no = message(ord("E"), b"SERROR\0C42501\0Mpermission denied\0\0")
            await talk.say(no if value is None else answer(json.dumps(value).encode()))
        await talk.drain()

    return script


def refusing(sqlstate: bytes) -> Script:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(message(ord("E"), b"SFATAL\0C%b\0Mno\0\0" % sqlstate))
        await talk.drain()

    return script


@asyncio_test
async def test_a_primary() -> None:
    with no_descriptor_left():
        async with playing(answering(PRIMARY, CONTROL, tls=True)) as target:
            found = await Doctor().look(target.address, evolve(ORDERS, tls=FULL))
    assert (found.kind, found.position, found.timeline, found.system) == (
        "primary", 50331648, 10, "7712190914370521289",
    )  # fmt: skip
    assert (found.down, found.strained, found.lag_seconds) == (None, None, None)
    assert told(found) == [(n, True) for n in ("name", "TCP", "TLS", "log-in", "role")]
    assert "its certificate is good for" in found.steps[2].said
    startup = target.talks[0].startup
    assert startup == {
        "user": "app_ro", "database": "postgres", "application_name": "gateway health",
    }  # fmt: skip
    assert no_secret(target.heard())


@asyncio_test
async def test_a_standby() -> None:
    resource = evolve(ORDERS, health=Monitoring("app_ro", "monitoring"))
    async with playing(answering(STANDBY, CONTROL)) as target:
        found = await Doctor().look(target.address, resource)
    assert (found.kind, found.lag_seconds, found.timeline) == ("standby", 0.25, 9)
    assert told(found)[-1] == ("lag", True)
    assert target.talks[0].startup["database"] == "monitoring"


@asyncio_test
async def test_what_it_may_not_know_it_goes_without() -> None:
    async with playing(answering([True, None, None, None], None)) as target:
        found = await Doctor().look(target.address)
    assert (found.down, found.strained) == (None, None)
    assert (found.kind, found.lag_seconds, found.system, found.timeline) == (
        "standby", None, None, None,
    )  # fmt: skip
    assert found.steps[-1].said == "not known"


@asyncio_test
async def test_without_an_account_it_goes_as_far_as_a_server_process() -> None:
    resource = evolve(ORDERS, health=None)

    async def greets(talk: Talk) -> None:
        assert await talk.packet() == frames.gssenc_request()[4:]
        await talk.say(b"G")
        await talk.drain()

    async def secures(talk: Talk) -> None:
        await talk.secure()
        await talk.drain()

    with no_descriptor_left():
        async with playing(greets) as target:
            found = await Doctor().look(target.address, resource)
        assert (found.down, found.kind) == (None, None)
        assert told(found)[-2:] == [("greeting", True), ("log-in", None)]
        async with playing(secures) as target:
            found = await Doctor().look(target.address, evolve(resource, tls=FULL))
        assert told(found)[-2:] == [("TLS", True), ("log-in", None)]
        async with playing(Talk.stall) as target:
            found = await Doctor().look(target.address, resource, SHORT)
        assert (found.down, found.hard) == ("greeting: no answer in time", False)


@pytest.mark.parametrize(
    ("sqlstate", "down", "strained"),
    [
        (b"57P03", "log-in: FATAL: no (SQLSTATE 57P03)", None),
        (b"57P01", "log-in: FATAL: no (SQLSTATE 57P01)", None),
        (b"53300", None, "out of connections"),
        (b"28P01", None, "log-in: FATAL: no (SQLSTATE 28P01)"),
        (b"3D000", None, "log-in: FATAL: no (SQLSTATE 3D000)"),
    ],
)
@asyncio_test
async def test_refusals(sqlstate: bytes, down: str | None, strained: str | None) -> None:
    doctor = Doctor()
    with no_descriptor_left():
        async with playing(refusing(sqlstate)) as target:
            found = await doctor.look(target.address)
    assert (found.down, found.strained) == (down, strained)
    assert told(found)[-1] == ("log-in", False)
    assert bool(doctor.refused) is (sqlstate == b"28P01")


@asyncio_test
async def test_a_wrong_password_is_not_tried_again_at_once() -> None:
    doctor = Doctor()
    async with playing(refusing(b"28P01")) as target:
        first = await doctor.look(target.address)
        again = await doctor.look(target.address)
        assert (len(target.talks), target.talks[1].startup) == (2, {})
    assert first.down is again.down is None
    assert again.strained is not None
    assert "is not tried again for 5 s" in again.strained


async def hangs_up(talk: Talk) -> None:
    await talk.begin()
    talk.wire.close()


async def begins(talk: Talk) -> None:
    await talk.begin()
    await talk.stall()


@pytest.mark.parametrize(
    ("script", "down", "hard"),
    [
        (hangs_up, "log-in: closed the connection", True),
        (begins, "log-in: no answer in time", False),
        (answering("what?"), "role: the target answers something else than what was asked", True),
    ],
)
@asyncio_test
async def test_out_of_order(script: Script, down: str, hard: bool) -> None:
    with no_descriptor_left():
        async with playing(script) as target:
            found = await Doctor().look(target.address, seconds=1.0)
    assert (found.down, found.hard) == (down, hard)


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (CA.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC),
                       not_before=datetime(2019, 1, 1, tzinfo=UTC)),
         "expired 2020-01-01 00:00 UTC, for localhost, issued by OU=Testing CA"),
        (CA.issue_cert("elsewhere.example.com"), "for elsewhere.example.com, issued by"),
        (trustme.CA().issue_cert("localhost"), "for localhost, issued by OU=Testing CA"),
    ],
)  # fmt: skip
@asyncio_test
async def test_a_certificate_that_is_not_trusted(leaf: trustme.LeafCert, said: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.secure(leaf)
        await talk.drain()

    resource = evolve(ORDERS, tls=FULL)
    with no_descriptor_left():
        async with playing(script) as server:
            target = Target(server.address)
            found = await Doctor().probe.look(resource, target, APP, PATIENCE)
            assert told(found)[-2:] == [("TLS", False), ("shown", None)]
            assert said in found.steps[-1].said
            assert (found.down is not None, found.hard) == (True, True)
            again = await Doctor().look(server.address, resource)
            assert told(again)[-1] == ("TLS", False), "it is for people only"
            assert b"app_ro" not in server.heard()


@asyncio_test
async def test_without_tls_there_is_nothing_to_show() -> None:
    async def refuses(talk: Talk) -> None:
        await talk.packet()
        await talk.say(b"N")
        await talk.drain()

    async with playing(refuses) as server:
        looking = Doctor().probe
        found = await looking.look(evolve(ORDERS, tls=FULL), Target(server.address), APP, PATIENCE)
    assert found.steps[-1].said == "no certificate: the target does not speak TLS"


@asyncio_test
async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address("127.0.0.1", free.getsockname()[1])
    found = await Doctor().look(address)
    assert (found.down, found.hard) == ("TCP: Connection refused", True)
    found = await Doctor().look(Address("a..b", 1))
    assert (found.down, found.hard) == ("name: a..b is no host name", False)


@pytest.mark.parametrize(
    "text",
    [None, "", "x", "{}", "[]", "[1,2,3,4]", "[true,0,0]", "[null,0,0,null]", "[" * 100_000],
)
def test_answers_that_are_none(text: str | None) -> None:
    with pytest.raises(ProtocolViolation, match="something else"):
        _answer(text)
    assert _identity(text) == (None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, -1, 5, None], ("standby", 0.0, 5, None)),
        ([True, "soon", "far", 7], ("standby", None, None, None)),
        ([False, None, 5, "zzzzzzzz"], ("primary", None, 5, None)),
        ([False, None, 5, ""], ("primary", None, 5, None)),
        ([False, None, 5.5, "0000001F00"], ("primary", None, None, 31)),
        ([True, float("nan"), True, None], ("standby", None, None, None)),
        ([True, float("inf"), 1 << 70, None], ("standby", None, None, None)),
    ],
)
def test_odd_answers(given: list[object], expected: tuple[object, ...]) -> None:
    assert _answer(json.dumps(given)) == expected
