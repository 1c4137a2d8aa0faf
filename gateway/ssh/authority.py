"""The gateway's SSH keys, and the certificates it signs with them.

In the state directory's ``keys``, each 0600 and made at the first start::

    ssh_host_ed25519_key, ssh_host_rsa_key   who the gateway is
    ssh_host_ca    signs host certificates: people trust one line for every name
    ssh_user_ca    signs user certificates: targets trust it for accounts
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

from gateway import private
from gateway.errors import BadFile
from gateway.model import SshRights

HOST_LIFE = 86_400.0  # seconds; made anew for each name that is asked for, so a day is ample
USER_LIFE = 300.0  # seconds: a log-in takes one, clocks differ by some
BACKDATE = 300.0  # seconds that a peer's clock may be behind
RSA_BITS = 3072  # as ssh-keygen makes them
LEAST_RSA_BITS = 2048  # NIST SP 800-131A allows no fewer

Key = Ed25519PrivateKey | RSAPrivateKey


@frozen
class KeyPair:
    """A private key and a certificate on its public half, in OpenSSH's formats."""

    private_key: bytes = field(repr=False)
    certificate: bytes


@frozen(eq=False)
class SshAuthority:
    """Keys that are there for as long as the gateway runs."""

    host_keys: tuple[Key, ...] = field(repr=False)
    host_ca: Ed25519PrivateKey = field(repr=False)
    user_ca: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def open(cls, keys: Path) -> SshAuthority:
        """:raises BadFile: a key is there and cannot be used"""
        return cls(
            (_ed25519(keys / "ssh_host_ed25519_key"), _rsa(keys / "ssh_host_rsa_key")),
            _ed25519(keys / "ssh_host_ca"),
            _ed25519(keys / "ssh_user_ca"),
        )

    def host_pairs(self, names: Iterable[str], now: float) -> tuple[KeyPair, ...]:
        """The host keys, certified for *names* (hosts as people type them)."""
        principals = [name.encode() for name in sorted(names)]
        return tuple(self._host(key, principals, now) for key in self.host_keys)

    def _host(self, key: Key, principals: list[bytes], now: float) -> KeyPair:
        builder = _builder(key, b"gateway", principals, now, HOST_LIFE)
        signed = builder.type(SSHCertificateType.HOST).sign(self.host_ca)
        return KeyPair(_private(key), signed.public_bytes())

    def mint(self, account: str, session_id: str, rights: SshRights, now: float) -> KeyPair:
        """A fresh key that logs in as *account* for a few minutes, and may do what *rights*
        say; *session_id* stands in the target's log."""
        key = Ed25519PrivateKey.generate()
        builder = _builder(
            key, f"gateway {session_id}".encode(), [account.encode()], now, USER_LIFE
        )
        for extension, allowed in (
            (b"permit-pty", True),
            (b"permit-user-rc", True),
            (b"permit-agent-forwarding", rights.agent),
            (b"permit-X11-forwarding", rights.x11),
            (b"permit-port-forwarding", bool(rights.forward)),
        ):
            if allowed:
                builder = builder.add_extension(extension, b"")
        signed = builder.type(SSHCertificateType.USER).sign(self.user_ca)
        return KeyPair(_private(key), signed.public_bytes())

    def user_ca_line(self) -> str:
        """For a target's ``TrustedUserCAKeys``."""
        return f"{_public(self.user_ca)} gateway user CA"

    def host_ca_line(self) -> str:
        """For a person's ``known_hosts``."""
        return f"@cert-authority * {_public(self.host_ca)} gateway host CA"


def public_lines(keys: Path) -> tuple[str, str]:
    """The host CA's line for ``known_hosts``, and the user CA's for ``TrustedUserCAKeys``.

    :raises BadFile: the keys cannot be read, or are not made yet: the daemon does that
    """
    for name in ("ssh_host_ca", "ssh_user_ca"):
        if not (keys / name).exists():
            raise BadFile.about(
                keys / name, "is not there yet; the gateway makes it when it starts"
            )
    authority = SshAuthority.open(keys)
    return authority.host_ca_line(), authority.user_ca_line()


def _builder(
    key: Key, key_id: bytes, principals: list[bytes], now: float, life: float
) -> SSHCertificateBuilder:
    return (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .serial(secrets.randbits(63))
        .key_id(key_id)
        .valid_principals(principals)
        .valid_after(int(now - BACKDATE))
        .valid_before(int(now + life))
    )


def _private(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _public(key: Key) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _ed25519(path: Path) -> Ed25519PrivateKey:
    """:raises BadFile: it is there and cannot be used"""
    key = _kept(path, Ed25519PrivateKey.generate)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile.about(path, "is not an Ed25519 key")
    return key


def _rsa(path: Path) -> RSAPrivateKey:
    """:raises BadFile: it is there and cannot be used"""
    key = _kept(path, lambda: generate_private_key(65537, RSA_BITS))
    if not isinstance(key, RSAPrivateKey) or key.key_size < LEAST_RSA_BITS:
        raise BadFile.about(path, f"is not an RSA key of {LEAST_RSA_BITS} bits or more")
    return key


def _kept(path: Path, make: Callable[[], Key]) -> object:
    data = private.kept(path, lambda: _private(make()))
    try:
        return load_ssh_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        raise BadFile.about(path, "is not a private key that can be used") from wrong
