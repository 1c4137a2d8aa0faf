"""Secrets at rest: AES-256-GCM under a key file that only the gateway's user can read."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import GatewayError

VERSION = "v1:"  # of the sealed text and of the key file
KEY = 32  # bytes: AES-256, and what is derived
NONCE = 12  # bytes: NIST SP 800-38D; random ones stay apart for 2^32 secrets
TAG = 16  # bytes: the full tag
KEY_FILE = 256  # bytes: five times what is written, so that no odd file is read whole


class VaultUnusable(GatewayError):
    """The key file cannot be trusted or used; the message says why and never shows it."""


class NotUnsealed(GatewayError):
    """A sealed secret was altered, or sealed under another key."""


@frozen
class FileVault:
    """Implements :class:`gateway.contracts.Vault`.

    Sealed text is ``v1:`` and base64 of nonce, ciphertext and tag. The file's key seals
    nothing itself: each purpose has its own, derived with HKDF-SHA256 (RFC 5869).
    """

    _key: bytes = field(repr=False)

    @classmethod
    def open(cls, directory: Path) -> FileVault:
        """Read ``vault.key`` in *directory*; make both if they are not there (0600 in 0700).

        :raises VaultUnusable: others may read the key, or it is damaged
        """
        path = directory / "vault.key"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _judge(directory.stat(), directory, "700")
            if not path.exists():
                _make(path)
            return cls(_parse(_read(path), path))
        except OSError as failed:
            raise VaultUnusable(f"{path}: {failed.strerror}") from failed

    def seal(self, secret: bytes) -> str:
        nonce = secrets.token_bytes(NONCE)
        sealed = nonce + self._cipher().encrypt(nonce, secret, VERSION.encode())
        return VERSION + base64.b64encode(sealed).decode()

    def unseal(self, sealed: str) -> bytes:
        """:raises NotUnsealed: it was altered, or is not of this vault"""
        if not sealed.startswith(VERSION):
            raise NotUnsealed("a sealed secret is of a version that is not known here")
        try:
            data = base64.b64decode(sealed.removeprefix(VERSION), validate=True)
            if len(data) < NONCE + TAG:
                raise NotUnsealed("a sealed secret is cut short")
            return self._cipher().decrypt(data[:NONCE], data[NONCE:], VERSION.encode())
        except (ValueError, InvalidTag):
            raise NotUnsealed(
                "a secret cannot be unsealed: it was altered, or the vault's key is another one"
            ) from None

    def derive(self, purpose: bytes) -> bytes:
        """32 bytes, always the same for one *purpose*, that tell nothing of the key."""
        return self._subkey(b"derived:" + purpose)

    def _cipher(self) -> AESGCM:
        return AESGCM(self._subkey(b"sealing"))

    def _subkey(self, info: bytes) -> bytes:
        return HKDF(SHA256(), KEY, salt=None, info=b"gateway vault " + info).derive(self._key)


def _make(path: Path) -> None:
    """Whole or not at all, and never over a key that somebody else has just made."""
    draft = path.with_name(f".vault.key.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(VERSION.encode() + base64.b64encode(secrets.token_bytes(KEY)) + b"\n")
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise VaultUnusable(f"{path} is not a file")
        _judge(status, path, "600")
        return file.read(KEY_FILE)


def _judge(status: os.stat_result, path: Path, mode: str) -> None:
    if status.st_mode & 0o077:
        raise VaultUnusable(f"{path}: others than its owner have access; chmod {mode} it")
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:  # root may look at it
        raise VaultUnusable(f"{path} belongs to another user")


def _parse(data: bytes, path: Path) -> bytes:
    try:
        text = data.decode("ascii")
        key = base64.b64decode(text.strip().removeprefix(VERSION), validate=True)
    except ValueError:
        raise VaultUnusable(f"{path} is damaged") from None
    if not text.startswith(VERSION) or len(key) != KEY:
        raise VaultUnusable(f"{path} is damaged")
    return key
