"""What the vault seals, refuses to read, and never shows."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vault import FileVault, NotUnsealed, VaultUnusable

ONE, OTHER = FileVault(b"1" * 32), FileVault(b"2" * 32)


@given(st.binary())
def test_what_is_sealed_comes_back_and_never_looks_the_same(secret: bytes) -> None:
    sealed = ONE.seal(secret)
    assert sealed.startswith("v1:")
    assert ONE.unseal(sealed) == secret
    assert ONE.seal(secret) != sealed


@given(st.data())
def test_one_altered_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(base64.b64decode(ONE.seal(b"secret").removeprefix("v1:")))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotUnsealed):
        ONE.unseal("v1:" + base64.b64encode(sealed).decode())


@pytest.mark.parametrize(
    "sealed",
    [
        "",
        "v1:",
        "v1:AAAA",
        "v1:no base64",
        ONE.seal(b"secret").replace("v1:", "v2:"),
        ONE.seal(b"secret") + "=",
        OTHER.seal(b"secret"),
        "v1:é",
    ],
)
def test_what_is_not_of_this_vault_stays_closed(sealed: str) -> None:
    with pytest.raises(NotUnsealed) as refused:
        ONE.unseal(sealed)
    assert "secret'" not in str(refused.value)


def test_the_key_is_made_once_and_its_owners_only(tmp_path: Path) -> None:
    keys = tmp_path / "state" / "keys"
    made = FileVault.open(keys)
    assert keys.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in keys.iterdir()] == ["vault.key"]
    assert (keys / "vault.key").stat().st_mode & 0o777 == 0o600
    assert FileVault.open(keys).unseal(made.seal(b"secret")) == b"secret"


def test_looking_makes_no_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with pytest.raises(VaultUnusable, match=r"vault\.key: .*No such file"):
        FileVault.load(keys)
    assert not keys.exists()
    made = FileVault.open(keys)
    assert FileVault.load(keys).unseal(made.seal(b"secret")) == b"secret"


def test_no_second_key_is_made_where_one_was_used(tmp_path: Path) -> None:
    """It would open nothing of what the first one sealed."""
    keys, store = tmp_path / "keys", tmp_path / "gateway.sqlite"
    with pytest.raises(VaultUnusable, match=rf"vault\.key: is missing, and {store} "):
        FileVault.open(keys, store)
    assert not (keys / "vault.key").exists()
    made = FileVault.open(keys)
    assert FileVault.open(keys, store).unseal(made.seal(b"secret")) == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_key_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    FileVault.open(tmp_path / "keys")
    (tmp_path / "keys" / "vault.key").chmod(mode)
    with pytest.raises(VaultUnusable, match=r"vault\.key: others.*chmod 600"):
        FileVault.open(tmp_path / "keys")


def test_a_directory_that_others_reach_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(VaultUnusable, match="chmod 700"):
        FileVault.open(tmp_path / "keys")


@pytest.mark.parametrize(
    "content",
    [b"", b"v1:", b"v1:AAAA", b"\xff" * 40, b"v2:" + base64.b64encode(bytes(32)), b"v1:" * 999],
)
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    FileVault.open(tmp_path / "keys")
    (tmp_path / "keys" / "vault.key").write_bytes(content)
    with pytest.raises(VaultUnusable, match="damaged"):
        FileVault.open(tmp_path / "keys")
    assert (tmp_path / "keys" / "vault.key").read_bytes() == content


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    FileVault.open(tmp_path / "elsewhere")
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "vault.key").symlink_to(tmp_path / "elsewhere" / "vault.key")
    with pytest.raises(VaultUnusable):
        FileVault.open(tmp_path / "keys")


def test_what_is_derived_depends_on_key_and_purpose_alone() -> None:
    derived = {vault.derive(purpose) for vault in (ONE, OTHER) for purpose in (b"a", b"b")}
    assert len(derived) == 4
    assert {len(each) for each in derived} == {32}
    assert FileVault(b"1" * 32).derive(b"a") == ONE.derive(b"a")


def test_it_never_shows_its_key(tmp_path: Path) -> None:
    assert "1111" not in f"{ONE!r} {ONE}"
    vault = FileVault.open(tmp_path / "keys")
    content = (tmp_path / "keys" / "vault.key").read_bytes()
    assert base64.b64decode(content[3:]) != vault.derive(b"")
