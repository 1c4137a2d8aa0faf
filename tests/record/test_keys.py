"""The signing key: made once, private, its public half for everybody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.errors import GatewayError
from gateway.record.keys import PRIVATE, PUBLIC, signing_key


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
