"""The key that signs transcripts."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway import private
from gateway.errors import BadFile

PRIVATE = "transcripts.key"
PUBLIC = "transcripts.pub"


def signing_key(directory: Path, rests: Path | None = None) -> Ed25519PrivateKey:
    """The key in *directory*, made (PKCS #8, 0600) if there never was one.

    Its public half stands beside it in PEM, for auditors.

    :param rests: what there is already of what it signs
    :raises BadFile: it cannot be read or made, others may read it, or it was lost
    """
    path, public = directory / PRIVATE, directory / PUBLIC
    if rests is None and public.exists():
        rests = public
    key = _parse(private.kept(path, _made, rests=rests), path)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        stale = not public.exists() or public.read_bytes() != pem
    except OSError as error:
        raise BadFile.about(public, f"cannot be read: {error.strerror}") from error
    if stale:
        private.replace(public, pem, 0o644)
    return key


def load(directory: Path) -> Ed25519PrivateKey:
    """The key in *directory*, for those who only look.

    :raises BadFile: it cannot be read, or others may read it
    """
    path = directory / PRIVATE
    return _parse(private.read(path), path)


def public_key(path: Path) -> Ed25519PublicKey:
    """The public half, wherever an auditor keeps it.

    :raises BadFile: it cannot be read, or is something else
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise BadFile.about(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        raise BadFile.about(path, "is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadFile.about(path, "is not an Ed25519 key")
    return key


def _parse(pem: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadFile.about(path, "is not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile.about(path, "is not an Ed25519 key")
    return key


def _made() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
