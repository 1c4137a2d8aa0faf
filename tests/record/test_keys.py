"""The signing key: made once, private, its public half for everybody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from gateway.errors import BadFile, GatewayError
from gateway.record.keys import PRIVATE, PUBLIC, load, public_key, signing_key

CURVE = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)


def test_it_is_made_once_and_kept_private(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    first, second = signing_key(directory), signing_key(directory)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / PRIVATE).stat().st_mode) == 0o600
    assert {path.name for path in directory.iterdir()} == {PRIVATE, PUBLIC}
    public = load_pem_public_key((directory / PUBLIC).read_bytes())
    public.verify(first.sign(b"words"), b"words")


def test_a_public_half_that_was_exchanged_is_put_right(tmp_path: Path) -> None:
    signing_key(tmp_path)
    right = (tmp_path / PUBLIC).read_bytes()
    (tmp_path / PUBLIC).write_bytes(b"other")
    signing_key(tmp_path)
    assert (tmp_path / PUBLIC).read_bytes() == right


def test_looking_makes_and_mends_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"transcripts\.key.*No such file"):
        load(tmp_path / "keys")
    assert not (tmp_path / "keys").exists()
    made = signing_key(tmp_path / "keys")
    (tmp_path / "keys" / PUBLIC).write_bytes(b"other")
    assert load(tmp_path / "keys").private_bytes_raw() == made.private_bytes_raw()
    assert (tmp_path / "keys" / PUBLIC).read_bytes() == b"other"


def test_no_second_key_is_made_where_one_was_used(tmp_path: Path) -> None:
    """What it would sign nobody could tell from what the first one did."""
    store, keys = tmp_path / "gateway.sqlite", tmp_path / "keys"
    with pytest.raises(BadFile, match=rf"transcripts\.key.*is missing, and {store} "):
        signing_key(keys, store)
    signing_key(keys)
    assert signing_key(keys, store).public_key() == load(keys).public_key()
    (keys / PRIVATE).unlink()
    public = (keys / PUBLIC).read_bytes()
    with pytest.raises(BadFile, match=r"is missing, and .*transcripts\.pub "):
        signing_key(keys)
    assert not (keys / PRIVATE).exists()
    assert (keys / PUBLIC).read_bytes() == public


def test_the_public_half_is_all_that_an_auditor_has(tmp_path: Path) -> None:
    made = signing_key(tmp_path).public_key()
    assert public_key(tmp_path / PUBLIC) == made
    for name, content in (("none", None), ("junk", b"junk"), ("curve", CURVE)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadFile):
            public_key(path)
    with pytest.raises(BadFile, match="is not a public key in PEM"):
        public_key(tmp_path / PRIVATE)


@pytest.mark.parametrize(("content", "mode"), [(None, 0o640), (b"", 0o600), (b"junk", 0o600)])
def test_a_key_that_cannot_be_trusted_is_refused(
    tmp_path: Path, content: bytes | None, mode: int
) -> None:
    signing_key(tmp_path)
    path = tmp_path / PRIVATE
    if content is not None:
        path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(GatewayError):
        signing_key(tmp_path)
