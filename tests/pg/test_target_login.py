"""Log-ins at targets that answer as PostgreSQL does, and at targets that lie."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.certificates import client_context, tls_server_end_point
from gateway.errors import BadProof, Gone, ProtocolViolation, Refused
from gateway.identity.password import KeyCache
from gateway.model import Account, Grant, Secret, TargetKind, TargetTls, Terms, TlsMode
from gateway.pg import frames
from gateway.pg.frames import Authentication, authentication, message
from gateway.pg.target_login import TargetLogin, TargetRefused, WrongKind
from gateway.wire import Wire
from tests.pg.targets import (
    CA,
    HOST,
    KEY,
    LEAF,
    OK,
    PASSWORD,
    READY,
    SETTINGS,
    VERIFIER,
    Script,
    Talk,
    answer,
    certificate,
    context,
    granted,
    honest,
    no_secret,
    play,
    ready,
    tcp_pair,
)
from tests.support import asyncio_test

PARAMETERS = (("user", "app_ro"), ("database", "orders"))
VERIFIED = TargetTls(TlsMode.VERIFY_CA, CA.cert_pem.bytes())
UNVERIFIED = TargetTls(TlsMode.REQUIRE)
SALT = b64encode(VERIFIER.salt).decode()


@asynccontextmanager
async def facing(script: Script, grant: Grant) -> AsyncIterator[tuple[TargetLogin, Talk]]:
    """A log-in that has not begun, and the target's side. Afterwards all has been heard."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    wire, talk = Wire(near, loop), Talk(Wire(far, loop))
    binding = None
    if grant.resource.tls.mode is not TlsMode.DISABLE:
        ours = client_context(grant.resource.tls, grant.account)
        await asyncio.gather(wire.start_tls(ours, HOST), talk.wire.accept_tls(context(LEAF)))
        binding = tls_server_end_point(certificate(LEAF))
    playing = asyncio.ensure_future(play(script, talk))
    try:
        async with asyncio.timeout(10):
            yield TargetLogin(wire, grant, binding, KeyCache()), talk
    finally:
        wire.close()
        playing.cancel()
        outcome = (await asyncio.gather(playing, return_exceptions=True))[0]
        await talk.drain()
        if isinstance(outcome, Exception):
            raise outcome


async def refused(script: Script, grant: Grant, error: type[Exception], words: str | None) -> bytes:
    """What a target has heard that was not believed."""
    async with facing(script, grant) as (login, talk):
        with pytest.raises(error, match=words):
            await login.run(PARAMETERS)
    return talk.heard


# -- what works ----------------------------------------------------------------------------


@asyncio_test
async def test_a_log_in_by_password() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(ready(), b"more")

    async with facing(script, granted()) as (login, talk):
        await login.run(PARAMETERS)
        assert (login.key, login.parameters) == (KEY, SETTINGS)
        assert login.rest() == b"more"
    assert talk.startup == dict(PARAMETERS)
    assert no_secret(talk.heard)


@asyncio_test
async def test_a_log_in_byte_by_byte() -> None:
    async def script(talk: Talk) -> None:
        send = talk.wire.send

        async def slowly(data: bytes) -> None:
            for octet in data:
                await send(bytes((octet,)))
                await asyncio.sleep(0)

        talk.wire.send = slowly  # type: ignore[method-assign]
        await honest(talk)

    async with facing(script, granted()) as (login, _):
        await login.run(PARAMETERS)
        assert (login.key, login.parameters, login.rest()) == (KEY, SETTINGS, b"")


@pytest.mark.parametrize("tls", [VERIFIED, UNVERIFIED])
@asyncio_test
async def test_over_tls_the_password_is_bound_to_the_channel(tls: TargetTls) -> None:
    async with facing(honest, granted(tls=tls)) as (login, talk):
        await login.run(PARAMETERS)
    assert b"SCRAM-SHA-256-PLUS\0" in talk.heard
    assert b"p=tls-server-end-point,," in talk.heard


@asyncio_test
async def test_notices_and_a_version_of_its_own_are_passed_over() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        notice = message(ord("N"), b"SNOTICE\0C00000\0Mhello\0\0")
        await talk.say(notice, frames.negotiate_protocol_version(3 << 16, ["_pq_.x"]))
        await talk.scram()
        await talk.say(OK, notice, READY)

    async with facing(script, granted()) as (login, _):
        await login.run(PARAMETERS)
        assert (login.key, login.parameters) == (None, {})


@asyncio_test
async def test_md5_where_it_is_allowed() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(authentication(Authentication.MD5, b"salt"))
        inner = hashlib.md5(PASSWORD.encode() + b"app_ro").hexdigest()
        outer = hashlib.md5(inner.encode() + b"salt").hexdigest()
        assert await talk.frame() == (b"p", b"md5" + outer.encode() + b"\0")
        await talk.say(ready())

    async with facing(script, granted(authentication=frozenset({"md5"}))) as (login, talk):
        await login.run(PARAMETERS)
    assert no_secret(talk.heard)


@asyncio_test
async def test_clear_text_where_it_is_allowed_goes_over_verified_tls() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(authentication(Authentication.CLEARTEXT))
        assert await talk.frame() == (b"p", PASSWORD.encode() + b"\0")
        await talk.say(ready())

    grant = granted(authentication=frozenset({"password"}), tls=VERIFIED)
    async with facing(script, grant) as (login, _):
        await login.run(PARAMETERS)


async def trusting(talk: Talk) -> None:
    await talk.begin()
    await talk.say(ready())
    await talk.stall()


@asyncio_test
async def test_trust_where_it_is_allowed() -> None:
    async with facing(trusting, granted(authentication=frozenset({"trust"}))) as (login, _):
        await login.run(PARAMETERS)


def certified() -> Account:
    leaf = CA.issue_cert(common_name="app_ro")
    key = Secret(leaf.private_key_pem.bytes())
    return Account("app_ro", None, leaf.cert_chain_pems[0].bytes(), key)


@asyncio_test
async def test_a_certificate_is_shown() -> None:
    async with facing(trusting, granted(account=certified(), tls=VERIFIED)) as (login, talk):
        await login.run(PARAMETERS)
    assert talk.wire.tls is not None
    shown = talk.wire.tls.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    assert "app_ro" in shown.subject.rfc4514_string()


@asyncio_test
async def test_a_certificate_counts_where_the_channel_has_no_binding() -> None:
    """As with a target whose own certificate is of Ed25519 (RFC 5929 knows no hash for it)."""
    async with facing(trusting, granted(account=certified(), tls=VERIFIED)) as (login, _):
        login._binding = None
        await login.run(PARAMETERS)


# -- what does not -------------------------------------------------------------------------


def saying(*messages: bytes) -> Script:
    """Reads the start-up message, says this, and waits."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(*messages)
        await talk.stall()

    return script


def asking(request: int, data: bytes = b"") -> Script:
    return saying(message(ord("R"), struct.pack("!i", request) + data))


def error(*fields: bytes) -> bytes:
    return message(ord("E"), b"".join(field + b"\0" for field in fields) + b"\0")


def sized(kind: bytes, length: int) -> bytes:
    return kind + struct.pack("!I", length & 0xFFFFFFFF)


NONSENSE = [
    ("HTTP", saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "type 0x48"),
    ("SSH", saying(b"SSH-2.0-OpenSSH_9.6\r\n"), "invalid length"),
    ("NUL bytes", saying(bytes(100)), "type 0x00"),
    ("rows", saying(message(ord("D"), b"\0\0")), "type 0x44"),
    ("no authentication", saying(READY), "skipped authentication"),
    ("a key first", saying(frames.backend_key_data(KEY)), "skipped authentication"),
    ("a length of 3", saying(sized(b"R", 3)), "invalid length"),
    ("a negative length", saying(sized(b"R", -1)), "invalid length"),
    ("2 GB", saying(sized(b"R", 2**31 - 1)), "invalid length"),
    ("a huge error", saying(sized(b"E", 30_005)), "invalid length"),
    ("a broken error", saying(message(ord("E"), b"SFATAL")), "malformed ErrorResponse"),
    ("a flood of notices", saying(message(ord("N"), b"\0") * 1001), "too many messages"),
    ("long notices", saying(message(ord("N"), bytes(30_000)) * 40), "too many messages"),
]
REQUESTS = [
    ("an empty request", saying(message(ord("R"))), "malformed AuthenticationRequest"),
    ("an unknown request", asking(99), "unknown authentication request 99"),
    ("Kerberos 5", asking(2), "unknown authentication request 2"),
    ("GSS", asking(7), "asks for GSS"),
    ("SSPI", asking(9), "asks for SSPI"),
    ("MD5", asking(5, b"salt"), "authentication by md5"),
    ("MD5 with long salt", asking(5, b"salty"), "malformed"),
    ("clear text", asking(3), "authentication by password"),
    ("trust", asking(0), "authentication by trust"),
    ("OK with data", asking(0, b"x"), "malformed"),
    ("SASL without mechanisms", asking(10, b"\0"), "malformed AuthenticationSASL"),
    ("too many mechanisms", asking(10, b"x\0" * 17 + b"\0"), "malformed AuthenticationSASL"),
    ("SCRAM-SHA-1", asking(10, b"SCRAM-SHA-1\0\0"), "no SCRAM-SHA-256"),
    ("PLAIN", asking(10, b"PLAIN\0\0"), "no SCRAM-SHA-256"),
    ("only binding, without TLS", asking(10, b"SCRAM-SHA-256-PLUS\0\0"), "no SCRAM-SHA-256"),
    ("a challenge first", asking(11, b"r=x,s=eA==,i=4096"), "asks for SASL_CONTINUE"),
    ("a signature first", asking(12, b"v=eA=="), "asks for SASL_FINAL"),
]


@pytest.mark.parametrize(
    ("script", "words"), [pytest.param(*rest, id=name) for name, *rest in NONSENSE + REQUESTS]
)
@asyncio_test
async def test_what_no_target_may_say(script: Script, words: str) -> None:
    heard = await refused(script, granted(), ProtocolViolation, words)
    assert heard == frames.startup_message(PARAMETERS)


def challenging(text: str) -> Script:
    """Answers client-first with *text*, where ``{}`` is the client's nonce."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        _, nonce = await talk.challenged()
        challenge = text.replace("{}", nonce.decode()).encode()
        await talk.say(authentication(Authentication.SASL_CONTINUE, challenge))
        await talk.stall()

    return script


def proven(text: bytes, *behind: bytes) -> Script:
    """Takes the client's proof and answers it with *text*."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        _, nonce = await talk.challenged()
        challenge = b"r=%bx,s=%b,i=4096" % (nonce, SALT.encode())
        await talk.say(authentication(Authentication.SASL_CONTINUE, challenge))
        await talk.frame()
        await talk.say(text, *behind)
        await talk.stall()

    return script


async def begins_twice(talk: Talk) -> None:
    await talk.begin()
    await talk.challenged()
    await talk.challenged()


async def believes_at_once(talk: Talk) -> None:
    await talk.begin()
    await talk.challenged()
    await talk.say(ready())
    await talk.stall()


async def falls_back_to_md5(talk: Talk) -> None:
    await talk.begin()
    await talk.challenged()
    await talk.say(authentication(Authentication.MD5, b"salt"))
    await talk.stall()


UNPROVEN = [
    ("too few iterations", challenging(f"r={{}}x,s={SALT},i=4095"), "iteration count"),
    ("too many", challenging(f"r={{}}x,s={SALT},i=1000001"), "iteration count"),
    ("far too many", challenging(f"r={{}}x,s={SALT},i=99999999999"), "iteration count"),
    ("none", challenging(f"r={{}}x,s={SALT},i=0"), "iteration count"),
    ("negative", challenging(f"r={{}}x,s={SALT},i=-4096"), "iteration count"),
    ("no number", challenging(f"r={{}}x,s={SALT},i=4096x"), "iteration count"),
    ("another nonce", challenging(f"r=x{{}},s={SALT},i=4096"), "does not extend"),
    ("our nonce only", challenging(f"r={{}},s={SALT},i=4096"), "does not extend"),
    ("a long nonce", challenging(f"r={{}}{'x' * 257},s={SALT},i=4096"), "nonce out of bounds"),
    ("a strange nonce", challenging(f"r={{}}\x7f,s={SALT},i=4096"), "non-printable"),
    ("no salt", challenging("r={}x,s=,i=4096"), "salt is out of bounds"),
    ("a long salt", challenging(f"r={{}}x,s={'QUJD' * 86},i=4096"), "salt is out of bounds"),
    ("no base64", challenging("r={}x,s=?,i=4096"), "malformed base64"),
    ("an extension", challenging(f"m=x,r={{}}x,s={SALT},i=4096"), "malformed SCRAM"),
    ("nothing", challenging(""), "malformed SCRAM"),
    ("too much", challenging(f"r={{}}x,s={SALT},i=4096,{'x' * 2048}"), "too long"),
    ("SASL twice", begins_twice, "begins SASL twice"),
    ("OK before the challenge", believes_at_once, "left out its SCRAM signature"),
    ("MD5 after SASL", falls_back_to_md5, "authentication by md5"),
]


@pytest.mark.parametrize(
    ("script", "words"), [pytest.param(*rest, id=name) for name, *rest in UNPROVEN]
)
@asyncio_test
async def test_scram_that_goes_wrong_before_the_proof(script: Script, words: str) -> None:
    heard = await refused(script, granted(), ProtocolViolation, words)
    assert b",p=" not in heard
    assert no_secret(heard)


def final(text: bytes) -> bytes:
    return authentication(Authentication.SASL_FINAL, text)


FALSE = [
    ("OK without a signature", proven(ready()), ProtocolViolation, "left out its SCRAM signature"),
    ("a wrong signature", proven(final(b"v=" + b64encode(bytes(32)))), BadProof, "does not know"),
    ("no signature", proven(final(b"")), ProtocolViolation, "malformed SCRAM"),
    ("no base64", proven(final(b"v=?")), ProtocolViolation, "malformed base64"),
    ("an error", proven(final(b"e=other-error")), BadProof, "ended SCRAM with an error"),
    (
        "another challenge",
        proven(authentication(Authentication.SASL_CONTINUE, b"r=x,s=eA==,i=4096")),
        ProtocolViolation,
        "unexpected SASL message",
    ),
    (
        "clear text after all",
        proven(authentication(Authentication.CLEARTEXT)),
        ProtocolViolation,
        "authentication by password",
    ),
]


@pytest.mark.parametrize(
    ("script", "error", "words"), [pytest.param(*rest, id=name) for name, *rest in FALSE]
)
@asyncio_test
async def test_a_target_that_does_not_know_the_verifier(
    script: Script, error: type[Exception], words: str
) -> None:
    assert no_secret(await refused(script, granted(), error, words))


def after_proof(*messages: bytes) -> Script:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(*messages)
        await talk.stall()

    return script


AFTER = [
    ("a second signature", after_proof(final(b"v=eA==")), "unexpected SASL message"),
    ("no OK", after_proof(READY), "skipped authentication"),
    ("OK twice", after_proof(OK, OK), "authentication twice"),
    ("a nameless setting", after_proof(OK, message(ord("S"), b"\0on\0")), "ParameterStatus"),
    ("half a setting", after_proof(OK, message(ord("S"), b"x\0")), "ParameterStatus"),
    ("a long setting", after_proof(OK, sized(b"S", 65_541)), "invalid length"),
    (
        "a flood of settings",
        after_proof(OK, frames.parameter_status("a", "x" * 60_000) * 18),
        "too many messages",
    ),
    ("a short key", after_proof(OK, message(ord("K"), b"1234567")), "BackendKeyData"),
    ("a long key", after_proof(OK, sized(b"K", 4 + 4 + 257)), "invalid length"),
    ("an unknown state", after_proof(OK, frames.ready_for_query(b"X")), "ReadyForQuery"),
    ("no state", after_proof(OK, message(ord("Z"))), "ReadyForQuery"),
    ("rows", after_proof(OK, message(ord("D"), b"\0\0")), "type 0x44"),
]


@pytest.mark.parametrize(
    ("script", "words"), [pytest.param(*rest, id=name) for name, *rest in AFTER]
)
@asyncio_test
async def test_what_no_target_may_say_after_the_proof(script: Script, words: str) -> None:
    assert no_secret(await refused(script, granted(), ProtocolViolation, words))


@pytest.mark.parametrize(
    ("grant", "request_", "words"),
    [
        (granted(authentication=frozenset({"password"})), 3, "only over verified TLS"),
        (granted(authentication=frozenset({"password"}), tls=UNVERIFIED), 3, "verified TLS"),
        (granted(authentication=frozenset({"scram-sha-256"})), 0, "by trust"),
        (granted(authentication=frozenset({"md5"})), 10, "by scram-sha-256"),
        (granted(authentication=frozenset({"md5"}), account=Account("a")), 5, "has none"),
        (granted(account=Account("a")), 10, "has none"),
        (granted(account=certified()), 0, "by trust"),  # without TLS nothing is shown
        (
            granted(account=certified(), tls=VERIFIED, authentication=frozenset({"scram-sha-256"})),
            0,
            "by certificate",
        ),
    ],
)
@asyncio_test
async def test_what_the_resource_does_not_allow(grant: Grant, request_: int, words: str) -> None:
    data = {5: b"salt", 10: b"SCRAM-SHA-256\0\0"}.get(request_, b"")
    heard = await refused(asking(request_, data), grant, ProtocolViolation, words)
    assert heard == frames.startup_message(PARAMETERS)


@asyncio_test
async def test_a_hidden_channel_binding_is_noticed_by_a_good_target() -> None:
    """Somebody between us offers less than the target does: we say that we could do more."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        first, _ = await talk.challenged()
        assert frames.parse_sasl_initial_response(first)[1].startswith(b"y,,")
        await talk.say(error(b"SFATAL", b"C08P01", b"Mdowngrade"))
        await talk.stall()

    await refused(script, granted(tls=UNVERIFIED), TargetRefused, "downgrade")


@asyncio_test
async def test_what_a_target_says_no_with_is_for_administrators() -> None:
    script = saying(error(b"SFATAL", b"C28P01", b"Mpassword authentication failed"))
    async with facing(script, granted()) as (login, _):
        with pytest.raises(TargetRefused) as caught:
            await login.run(PARAMETERS)
    assert caught.value.detail == "FATAL: password authentication failed (SQLSTATE 28P01)"
    assert caught.value.said.sqlstate == "28P01"
    assert caught.value.public == Refused.public


@asyncio_test
async def test_a_target_that_hangs_up() -> None:
    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.say(OK[:7])
        talk.wire.close()

    await refused(script, granted(), Gone, None)


# -- primary or standby --------------------------------------------------------------------


def serving(*answers: bytes, **settings: str) -> Script:
    """Logs in and answers that many queries."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(ready(**settings))
        for each in answers:
            kind, _ = await talk.frame()
            assert kind == b"Q"
            await talk.say(each)
        await talk.stall()

    return script


def old(*answers: bytes) -> Script:
    """As before PostgreSQL 14: it does not say by itself what it is."""

    async def script(talk: Talk) -> None:
        await talk.begin()
        await talk.scram()
        await talk.say(OK, READY)
        for each in answers:
            assert (await talk.frame())[0] == b"Q"
            await talk.say(each)
        await talk.stall()

    return script


ANY, PRIMARY, STANDBY = TargetKind.ANY, TargetKind.PRIMARY, TargetKind.STANDBY


@pytest.mark.parametrize(
    ("script", "terms", "kind"),
    [
        (serving(in_hot_standby="off"), Terms(), "primary"),
        (serving(in_hot_standby="on"), Terms(), "standby"),
        (old(), Terms(), None),
        (old(answer(b"t")), Terms(targets=STANDBY), "standby"),
        (old(answer(b"f")), Terms(targets=STANDBY), "primary"),
        (old(answer(b"t")), Terms(max_lag_seconds=5), "standby"),
    ],
)
@asyncio_test
async def test_kind(script: Script, terms: Terms, kind: str | None) -> None:
    async with facing(script, granted(terms=terms)) as (login, _):
        await login.run(PARAMETERS)
        assert await login.kind() == kind
        assert login.rest() == b""


@pytest.mark.parametrize(
    ("wanted", "lag", "words"),
    [
        (STANDBY, None, None),
        (PRIMARY, None, "is a standby, not a primary"),
        (STANDBY, b"0", None),
        (STANDBY, b"4.9", None),
        (ANY, b"5.1", "lags 5.1 s behind"),
        (STANDBY, b"", "malformed replication lag"),
        (STANDBY, b"never", "malformed replication lag"),
        (STANDBY, b"NaN", "lags nan s behind"),
        (STANDBY, b"Infinity", "lags inf s behind"),
        (STANDBY, "NULL", "lag unknown"),
    ],
)
@asyncio_test
async def test_judging_a_standby(wanted: TargetKind, lag: bytes | None, words: str | None) -> None:
    terms = Terms(targets=wanted, max_lag_seconds=None if lag is None else 5)
    value = lag if isinstance(lag, bytes) else None
    script = serving(answer(value), in_hot_standby="on")
    async with facing(script, granted(terms=terms)) as (login, _):
        await login.run(PARAMETERS)
        kind = await login.kind()
        if words is None:
            await login.judge(kind, wanted)
            return
        error = ProtocolViolation if "malformed" in words else WrongKind
        with pytest.raises(error, match=words):
            await login.judge(kind, wanted)


@asyncio_test
async def test_a_primary_has_no_lag() -> None:
    grant = granted(terms=Terms(max_lag_seconds=5))
    async with facing(serving(), grant) as (login, talk):
        await login.run(PARAMETERS)
        await login.judge(await login.kind(), ANY)
    assert b"pg_last_xact_replay_timestamp" not in talk.heard


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (message(ord("D"), struct.pack("!hi", 2, 1) + b"t"), ProtocolViolation, "DataRow"),
        (message(ord("D"), struct.pack("!hi", 1, 9) + b"t"), ProtocolViolation, "DataRow"),
        (message(ord("D"), b"\0\1"), ProtocolViolation, "DataRow"),
        (sized(b"D", 261), ProtocolViolation, "invalid length"),
        (sized(b"T", 2**31 - 1), ProtocolViolation, "invalid length"),
        (message(ord("D"), struct.pack("!hi", 1, 1) + b"t") * 101, ProtocolViolation, "too many"),
        (OK, ProtocolViolation, "type 0x52"),
        (message(ord("G"), b"\0\0\0"), ProtocolViolation, "type 0x47"),
        (error(b"SERROR", b"C42501", b"Mpermission denied"), TargetRefused, "permission denied"),
    ],
)
@asyncio_test
async def test_answers_that_no_target_may_give(
    said: bytes, error: type[Exception], words: str
) -> None:
    async with facing(old(said), granted(terms=Terms(targets=STANDBY))) as (login, _):
        await login.run(PARAMETERS)
        with pytest.raises(error, match=words):
            await login.kind()


@asyncio_test
async def test_settings_may_change_while_we_ask() -> None:
    said = frames.parameter_status("in_hot_standby", "off") + answer(b"f")
    async with facing(old(said), granted(terms=Terms(targets=PRIMARY))) as (login, _):
        await login.run(PARAMETERS)
        assert await login.kind() == "primary"
        assert login.parameters == {"in_hot_standby": "off"}
