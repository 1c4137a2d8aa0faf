"""SCRAM against RFC 7677, against scramp on either side, and against liars."""

from __future__ import annotations

import base64

import pytest
import scramp
from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadProof, ProtocolViolation
from gateway.identity.password import KeyCache, Keys, derive, make_verifier, mock_verifier
from gateway.model import Secret
from gateway.pg.scram import (
    PLAIN,
    PLUS,
    ClientState,
    ScramClient,
    ScramServer,
    mechanisms,
)

# RFC 7677 section 3
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

NONCE = "c" * 24
CHANNEL = b"\x01" * 32
VERIFIER = make_verifier("pencil", RFC_SALT)
KEYS = st.builds(Keys, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))


@define
class NamedClient(ScramClient):
    """Says a user, as the RFC and scramp want it and libpq does not."""

    @property
    def _bare(self) -> bytes:
        return b"n=user,r=" + self.nonce.encode()


def converse(client: ScramClient, server: ScramServer) -> None:
    challenge = client.challenge(server.first(client.mechanism, client.first()))
    client.verify(server.final(client.answer(derive(challenge))))


def test_server_speaks_the_vector() -> None:
    server = ScramServer(VERIFIER, RFC_SERVER_NONCE)
    assert server.first(PLAIN, RFC_CLIENT_FIRST) == RFC_SERVER_FIRST
    assert server.final(RFC_CLIENT_FINAL) == RFC_SERVER_FINAL


def test_client_speaks_the_vector() -> None:
    client = NamedClient(Secret(b"pencil"), RFC_CLIENT_NONCE)
    assert client.first() == RFC_CLIENT_FIRST
    assert client.answer(derive(client.challenge(RFC_SERVER_FIRST))) == RFC_CLIENT_FINAL
    client.verify(RFC_SERVER_FINAL)
    assert client.state is ClientState.PROVEN


@pytest.mark.parametrize("channel", [None, CHANNEL], ids=["plain", "plus"])
@pytest.mark.parametrize("password", ["pencil", "pä\u00adss\u2168", "a b"])
def test_scramp_logs_in_here(channel: bytes | None, password: str) -> None:
    server = ScramServer(make_verifier(password, b"s" * 16), "server-nonce", channel)
    client = scramp.ScramClient(
        list(mechanisms(channel)), "user", password, channel_binding=_scramp_binding(channel)
    )
    first = server.first(client.mechanism_name, client.get_client_first().encode())
    client.set_server_first(first.decode())
    client.set_server_final(server.final(client.get_client_final().encode()).decode())


@pytest.mark.parametrize("channel", [None, CHANNEL], ids=["plain", "plus"])
def test_here_logs_in_at_scramp(channel: bytes | None) -> None:
    mechanism = scramp.ScramMechanism(mechanisms(channel)[0])
    known = mechanism.make_auth_info("pencil", iteration_count=5000)
    server = mechanism.make_server(lambda _: known, channel_binding=_scramp_binding(channel))
    client = NamedClient(Secret(b"pencil"), NONCE, channel)
    server.set_client_first(client.first().decode())
    challenge = client.challenge(server.get_server_first().encode())
    server.set_client_final(client.answer(derive(challenge)).decode())
    client.verify(server.get_server_final().encode())
    assert client.state is ClientState.PROVEN


def _scramp_binding(channel: bytes | None) -> tuple[str, bytes] | None:
    return None if channel is None else ("tls-server-end-point", channel)


@pytest.mark.parametrize(
    ("client_channel", "offered", "server_channel", "refused"),
    [
        (None, (PLAIN,), None, None),
        (CHANNEL, (PLUS, PLAIN), CHANNEL, None),
        (None, (PLAIN,), CHANNEL, None),  # a client that cannot bind, over TLS
        (CHANNEL, (PLAIN,), None, None),  # "y": we could not, and did not offer it
        (CHANNEL, (PLAIN,), CHANNEL, ProtocolViolation),  # "y", though we offered: downgrade
        (CHANNEL, (PLUS,), b"\x02" * 32, BadProof),  # somebody in the middle
        (CHANNEL, (PLUS,), None, ProtocolViolation),  # not offered
        (None, (PLUS,), CHANNEL, ProtocolViolation),  # nothing in common
    ],
)
def test_channel_binding(
    client_channel: bytes | None,
    offered: tuple[str, ...],
    server_channel: bytes | None,
    refused: type[Exception] | None,
) -> None:
    client = ScramClient(Secret(b"pencil"), NONCE, client_channel, offered)
    server = ScramServer(VERIFIER, "server-nonce", server_channel)
    if refused is None:
        converse(client, server)
        assert client.state is ClientState.PROVEN
    else:
        with pytest.raises(refused):
            converse(client, server)


def test_wrong_password_and_unknown_user_are_told_the_same() -> None:
    words = set()
    for verifier in (VERIFIER, mock_verifier("nobody", b"k" * 32)):
        with pytest.raises(BadProof) as refused:
            converse(ScramClient(Secret(b"pencik"), NONCE), ScramServer(verifier, "server"))
        words.add((refused.value.public, refused.value.detail))
    assert len(words) == 1


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        ("SCRAM-SHA-1", RFC_CLIENT_FIRST),
        (PLUS, RFC_CLIENT_FIRST),
        (PLAIN, b""),
        (PLAIN, b"n"),
        (PLAIN, b"n,,"),
        (PLAIN, b"x,,n=,r=abc"),
        (PLAIN, b"n,a=root,n=,r=abc"),
        (PLAIN, b"n,,m=ext,n=,r=abc"),
        (PLAIN, b"n,,n=,m=ext,r=abc"),
        (PLAIN, b"n,,r=abc"),
        (PLAIN, b"n,,n=,r="),
        (PLAIN, b"n,,n=,r=a\x00b"),
        (PLAIN, b"n,,n=,r=a b"),
        (PLAIN, b"n,,n=,r=" + b"a" * 257),
        (PLAIN, b"n,,n=,r=abc," + b"x" * 2048),
        (PLAIN, b"p=tls-server-end-point,,n=,r=abc"),
        (PLUS, b"p=tls-unique,,n=,r=abc"),
        (PLUS, b"y,,n=,r=abc"),
    ],
)
def test_bad_client_first(mechanism: str, first: bytes) -> None:
    server = ScramServer(VERIFIER, "server", CHANNEL if mechanism == PLUS else None)
    with pytest.raises(ProtocolViolation):
        server.first(mechanism, first)
    with pytest.raises(ProtocolViolation, match="unexpected"):  # and no second try
        server.final(RFC_CLIENT_FINAL)


_PROOF = b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        b"c=biws" + _PROOF,
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO" + _PROOF,
        RFC_CLIENT_FINAL.replace(b"biws", b"biw"),
        RFC_CLIENT_FINAL.replace(b"biws", b"bi ws"),
        RFC_CLIENT_FINAL.replace(b"biws", b"eSws"),
        RFC_CLIENT_FINAL.replace(b"dHzb", b"dH\nzb"),
        RFC_CLIENT_FINAL[:-4],
        RFC_CLIENT_FINAL.replace(b",p=", b",x=" + b"y" * 2048 + b",p="),
    ],
)
def test_bad_client_final(final: bytes) -> None:
    server = ScramServer(VERIFIER, RFC_SERVER_NONCE)
    server.first(PLAIN, RFC_CLIENT_FIRST)
    with pytest.raises(ProtocolViolation):
        server.final(final)


def test_an_optional_extension_is_proved_with_the_rest() -> None:
    server = ScramServer(VERIFIER, RFC_SERVER_NONCE)
    server.first(PLAIN, RFC_CLIENT_FIRST)
    with pytest.raises(BadProof):
        server.final(RFC_CLIENT_FINAL.replace(b",p=", b",x=added,p="))


_R = b"r=" + NONCE.encode()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"m=ext," + _R + b"S,s=c2FsdA==,i=4096",
        _R + b",s=c2FsdA==,i=4096",  # adds nothing to our nonce
        b"r=other,s=c2FsdA==,i=4096",
        _R + b"S" * 257 + b",s=c2FsdA==,i=4096",
        _R + b"S,s=,i=4096",
        _R + b"S,s=c2FsdA=,i=4096",
        _R + b"S,s=" + base64.b64encode(b"s" * 257) + b",i=4096",
        _R + b"S,s=c2FsdA==",
        _R + b"S,s=c2FsdA==,i=4095",
        _R + b"S,s=c2FsdA==,i=1000001",
        _R + b"S,s=c2FsdA==,i=" + b"9" * 1000,
        _R + b"S,s=c2FsdA==,i=-4096",
        _R + b"S,s=c2FsdA==,i=4_096",
        _R + b"S,s=c2FsdA==,i=4096,x=" + b"y" * 2048,
    ],
)
def test_lying_target_asks_for_nothing(first: bytes) -> None:
    client = ScramClient(Secret(b"pencil"), NONCE)
    client.first()
    with pytest.raises(ProtocolViolation):
        client.challenge(first)


@pytest.mark.parametrize(
    ("final", "refused"),
    [
        (RFC_SERVER_FINAL.replace(b"6rri", b"6rrj"), BadProof),
        (b"v=", BadProof),
        (b"e=other-error", BadProof),
        (b"", ProtocolViolation),
        (b"v=6rri!", ProtocolViolation),
    ],
)
def test_target_that_does_not_know_the_password(final: bytes, refused: type[Exception]) -> None:
    client = NamedClient(Secret(b"pencil"), RFC_CLIENT_NONCE)
    client.first()
    client.answer(derive(client.challenge(RFC_SERVER_FIRST)))
    with pytest.raises(refused):
        client.verify(final)
    assert client.state is ClientState.FAILED
    with pytest.raises(ProtocolViolation):
        client.verify(RFC_SERVER_FINAL)


def test_steps_out_of_order() -> None:
    client = ScramClient(Secret(b"pencil"), NONCE)
    with pytest.raises(ProtocolViolation):
        client.verify(RFC_SERVER_FINAL)
    server = ScramServer(VERIFIER, "server")
    with pytest.raises(ProtocolViolation):
        server.final(RFC_CLIENT_FINAL)


def test_cache_is_bounded_and_knows_each_part() -> None:
    client = ScramClient(Secret(b"pencil"), RFC_CLIENT_NONCE)
    client.first()
    work = client.challenge(RFC_SERVER_FIRST)
    cache = KeyCache(capacity=2)
    assert cache.seen(work) is None
    assert cache.derive(work) == cache.seen(work) == derive(work)
    for other in (
        evolve(work, salt=b"other"),
        evolve(work, iterations=4097),
        evolve(work, password=Secret(b"pencils")),
    ):
        assert cache.seen(other) is None
        cache.derive(other)
    assert cache.seen(work) is None


@settings(max_examples=200)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_server_survives_anything(first: bytes, final: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        ScramServer(VERIFIER, "server").first(PLAIN, first)
    server = ScramServer(VERIFIER, RFC_SERVER_NONCE)
    server.first(PLAIN, RFC_CLIENT_FIRST)
    with pytest.raises((ProtocolViolation, BadProof)):
        server.final(final)


@settings(max_examples=200)
@given(st.binary(max_size=300), st.binary(max_size=300), KEYS)
def test_client_survives_anything(first: bytes, final: bytes, keys: Keys) -> None:
    client = ScramClient(Secret(b"pencil"), NONCE)
    client.first()
    with pytest.raises(ProtocolViolation):
        client.challenge(first)
    client = NamedClient(Secret(b"pencil"), RFC_CLIENT_NONCE)
    client.first()
    client.challenge(RFC_SERVER_FIRST)
    client.answer(keys)
    with pytest.raises((ProtocolViolation, BadProof)):
        client.verify(final)


def test_nothing_secret_is_shown() -> None:
    client = ScramClient(Secret(b"pencil"), RFC_CLIENT_NONCE)
    client.first()
    work = client.challenge(RFC_SERVER_FIRST)
    keys = derive(work)
    client.answer(keys)
    shown = f"{client!r}{work!r}{keys!r}{VERIFIER!r}{ScramServer(VERIFIER, 'server')!r}"
    for secret in (b"pencil", keys.client_key, keys.server_key, keys.stored_key):
        assert repr(secret)[2:-1] not in shown
