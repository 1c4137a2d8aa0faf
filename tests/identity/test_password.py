"""Verifiers and SASLprep, with libpq as the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq

from gateway.identity.password import (
    SALT,
    format_verifier,
    make_verifier,
    matches,
    mock_verifier,
    parse_verifier,
    saslprep,
)

# CREATE ROLE … PASSWORD 'pencil' with the salt of RFC 7677
PENCIL = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_vector() -> None:
    verifier = parse_verifier(PENCIL)
    assert make_verifier("pencil", verifier.salt) == verifier
    assert format_verifier(verifier) == PENCIL
    assert matches(verifier, "pencil")
    assert not matches(verifier, "pencil ")
    assert not matches(verifier, "")
    assert not matches(verifier, "\ud800")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        "md5" + "0" * 32,
        PENCIL + "\n",
        PENCIL.replace("4096", "0"),
        PENCIL.replace("4096", "04096"),
        PENCIL.replace("4096", "1000001"),
        PENCIL.replace("W22Z", "W2 Z"),
        PENCIL.replace("W22Z", "W2üZ"),
        PENCIL.replace("WG5d", ""),
        PENCIL.replace("wfPL", ""),
        PENCIL.replace("SHA-256", "SHA-1"),
    ],
)
def test_bad_verifiers_are_not_repeated(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_verifier(text)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 section 3
        ("user", "user"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u0007", "a\u0007"),  # ASCII is left alone, unlike in the RFC
        ("ä\u0007", None),
        ("\u0627\u0031", None),
        ("a\u00a0b", "a b"),
        ("\u00ad", None),  # nothing left
        ("\u0221", None),  # unassigned in Unicode 3.2
    ],
)
def test_saslprep(password: str, prepared: str | None) -> None:
    assert saslprep(password) == prepared


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\0")
        | st.sampled_from("\u00a0\u00ad\u200b\u2168\u0627\u05d0aäß\u0301\u1680\ufeff"),
        min_size=1,
        max_size=12,
    )
)
def test_libpq_prepares_alike(password: str) -> None:
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    made = connection.encrypt_password(password.encode(), b"user", b"scram-sha-256")
    connection.finish()
    assert matches(parse_verifier(made.decode()), password)


def test_undecodable_passwords_are_taken_as_they_are() -> None:
    raw = b"p\xe4ss\xff"
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    made = connection.encrypt_password(raw, b"user", b"scram-sha-256")
    connection.finish()
    assert matches(parse_verifier(made.decode()), raw.decode("utf-8", "surrogateescape"))


@given(st.text(max_size=20), st.binary(min_size=32, max_size=32))
def test_mocks_look_real_and_stay(user: str, secret: bytes) -> None:
    name = user.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    mock, real = mock_verifier(name, secret), parse_verifier(PENCIL)
    assert mock == mock_verifier(name, secret)
    assert (mock.iterations, len(mock.salt)) == (real.iterations, SALT) == (4096, len(real.salt))
    assert len({mock.salt, mock_verifier(name + "x", secret).salt, real.salt}) == 3
    assert len({mock.stored_key, mock.server_key, real.stored_key, real.server_key}) == 4
    alike = mock_verifier(name, secret, like=real)
    assert (alike.iterations, alike.salt) == (real.iterations, real.salt)
    assert alike.stored_key == mock.stored_key
