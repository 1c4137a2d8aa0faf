"""Secrets at rest: AES-256-GCM under a key file that only the gateway's user can read."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import private
from gateway.errors import BadFile, GatewayError

NAME = "vault.key"
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
    def open(cls, directory: Path, rests: Path | None = None) -> FileVault:
        """Read ``vault.key`` in *directory*; make both if there never was one (0600 in 0700).

        :param rests: what there is already of what it seals
        :raises VaultUnusable: others may read the key, it is damaged, or it was lost
        """
        path = directory / NAME
        return cls._of(path, lambda: private.kept(path, _made, KEY_FILE, rests))

    @classmethod
    def load(cls, directory: Path) -> FileVault:
        """The same for those who only look.

        :raises VaultUnusable: others may read the key, it is damaged, or not there
        """
        path = directory / NAME
        return cls._of(path, lambda: private.read(path, KEY_FILE))

    @classmethod
    def _of(cls, path: Path, read: Callable[[], bytes]) -> FileVault:
        try:
            data = read()
        except BadFile as bad:
            (problem,) = bad.problems
            raise VaultUnusable(f"{problem.file}: {problem.message}") from bad
        return cls(_parse(data, path))

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


def _made() -> bytes:
    return VERSION.encode() + base64.b64encode(secrets.token_bytes(KEY)) + b"\n"


def _parse(data: bytes, path: Path) -> bytes:
    try:
        text = data.decode("ascii")
        key = base64.b64decode(text.strip().removeprefix(VERSION), validate=True)
    except ValueError:
        raise VaultUnusable(f"{path} is damaged") from None
    if not text.startswith(VERSION) or len(key) != KEY:
        raise VaultUnusable(f"{path} is damaged")
    return key
