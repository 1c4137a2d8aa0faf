"""The gateway's own CA: made once, kept; its server certificate renewed when it is due."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from gateway import ca, private
from gateway.errors import BadFile

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
NAMES = frozenset({"localhost", "127.0.0.1", "gw.example.com", "*.gw.example.com"})


def leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_what_is_made(tmp_path: Path) -> None:
    state = tmp_path / "state"
    certificate = leaf(ca.server_pem(state, NAMES, NOW))
    root = leaf((state / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(found.get_values_for_type(x509.DNSName)) == NAMES - {"127.0.0.1"}
    assert [str(ip) for ip in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert root.not_valid_after_utc - NOW > timedelta(days=3650)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [state, *state.glob("**/*")]}
    assert modes.pop("ca.crt") & 0o022 == 0
    assert modes == {"state": 0o700, "keys": 0o700, "ca.key": 0o600, "server.pem": 0o600}


@pytest.mark.parametrize(
    ("days", "names", "kept"),
    [
        (0, NAMES, True),
        (334, NAMES, True),
        (336, NAMES, False),
        (0, NAMES | {"10.0.0.1"}, False),
        (0, NAMES - {"localhost"}, False),
    ],
)
def test_renewal(tmp_path: Path, days: int, names: frozenset[str], kept: bool) -> None:
    first = ca.server_pem(tmp_path, NAMES, NOW)
    root = (tmp_path / "ca.crt").read_bytes()
    again = ca.server_pem(tmp_path, names, NOW + timedelta(days))
    assert (again == first) is kept
    assert ca.server_pem(tmp_path, names, NOW + timedelta(days)) == again
    assert (tmp_path / "ca.crt").read_bytes() == root


def test_a_spoilt_server_certificate_is_made_anew(tmp_path: Path) -> None:
    ca.server_pem(tmp_path, NAMES, NOW)
    private.replace(tmp_path / "keys" / "server.pem", b"junk")
    leaf(ca.server_pem(tmp_path, NAMES, NOW))


def test_an_authority_near_its_end_signs_no_longer_than_it_lives(tmp_path: Path) -> None:
    ca.authority(tmp_path, NOW)
    late = NOW + ca.AUTHORITY_LIFE - timedelta(days=10)
    pem = ca.server_pem(tmp_path, NAMES, late)
    assert leaf(pem).not_valid_after_utc == NOW + ca.AUTHORITY_LIFE
    assert ca.server_pem(tmp_path, NAMES, late) == pem


def test_a_lost_certificate_is_made_anew_for_the_same_key(tmp_path: Path) -> None:
    before = ca.authority(tmp_path, NOW).certificate
    (tmp_path / "ca.crt").unlink()
    after = ca.authority(tmp_path, NOW).certificate
    assert (after.subject, after.public_key()) == (before.subject, before.public_key())


def _lose_key(state: Path) -> None:
    (state / "keys" / "ca.key").unlink()


def _open_key(state: Path) -> None:
    (state / "keys" / "ca.key").chmod(0o640)


def _spoil_key(state: Path) -> None:
    private.replace(state / "keys" / "ca.key", b"junk")


def _swap_key(state: Path) -> None:
    ca.authority(state / "other", NOW)
    (state / "other" / "keys" / "ca.key").rename(state / "keys" / "ca.key")


def _spoil_certificate(state: Path) -> None:
    (state / "ca.crt").write_bytes(b"junk")


@pytest.mark.parametrize(
    ("spoil", "file", "words"),
    [
        (_lose_key, "ca.crt", "is missing"),
        (_open_key, "ca.key", "chmod 600"),
        (_spoil_key, "ca.key", "is not a private key"),
        (_swap_key, "ca.crt", "does not belong to the key"),
        (_spoil_certificate, "ca.crt", "is not a certificate"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: object, file: str, words: str) -> None:
    ca.authority(tmp_path, NOW)
    assert callable(spoil)
    spoil(tmp_path)
    with pytest.raises(BadFile, match=rf"{file}:1:1: .*{words}"):
        ca.authority(tmp_path, NOW)


def test_an_expired_authority_is_refused(tmp_path: Path) -> None:
    ca.authority(tmp_path, NOW)
    with pytest.raises(BadFile, match="expired"):
        ca.server_pem(tmp_path, NAMES, NOW + ca.AUTHORITY_LIFE)


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadFile, match="file:1:1: cannot be made: File exists"):
        ca.server_pem(tmp_path / "file", NAMES, NOW)


def test_server_names() -> None:
    names = ca.server_names(["0.0.0.0", "::", "10.0.0.5", "fe80::1"], "höst", "gw.example.com")
    own = {"localhost", "127.0.0.1", "::1", "10.0.0.5", "fe80::1"}
    assert names == own | {"gw.example.com", "*.gw.example.com"}
    assert ca.server_names([], "box", None) == {"localhost", "127.0.0.1", "::1", "box"}
