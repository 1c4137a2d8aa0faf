"""The key that signs transcripts."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.errors import GatewayError
from gateway.record.log import private_directories

PRIVATE = "transcripts.key"
PUBLIC = "transcripts.pub"


def signing_key(directory: Path) -> Ed25519PrivateKey:
    """The key in *directory*, made (PKCS #8, 0600) if there is none yet.

    Its public half stands beside it in PEM, for auditors.

    :raises GatewayError: it cannot be read or made, or others may read it
    """
    path = directory / PRIVATE
    try:
        if not path.exists():
            _make(path)
        key = _load(path)
        public = directory / PUBLIC
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if not public.exists() or public.read_bytes() != pem:
            public.write_bytes(pem)
    except OSError as error:
        raise GatewayError(f"{error.filename or path}: {error.strerror}") from error
    return key


def _load(path: Path) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise GatewayError(f"{path}: others may read this key; make it 0600")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise GatewayError(f"{path}: not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise GatewayError(f"{path}: not an Ed25519 key")
    return key


def _make(path: Path) -> None:
    """Whole or not at all, and never in the place of one that came first."""
    private_directories(path.parent)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    fresh = path.with_suffix(f".{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(fd)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
