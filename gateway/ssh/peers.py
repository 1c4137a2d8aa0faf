"""The two kinds of legs, with what asyncssh leaves open while they log in.

It counts no tries, takes signatures that it would not make, and certificates that name
nobody. Knows asyncssh from the inside, as :mod:`gateway.ssh.legs` does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket
from asyncssh.public_key import SSHOpenSSHCertificate

from gateway.model import IPAddress
from gateway.ssh.legs import NO_MORE_METHODS, Leg

MAX_FAILURES = 6  # of authentication, as OpenSSH's MaxAuthTries, beside the "none" it begins with
MAX_TRIES = 20  # requests for it: each key is offered, and then used

TOO_MANY = "too many authentication failures"

ALGORITHMS: dict[str, Any] = {
    # What ssh-audit has nothing against; post-quantum first. ChaCha20 costs five times as
    # much as GCM for small packets here, and clients prefer it where it is offered.
    "kex_algs": [
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group18-sha512",
    ],
    "encryption_algs": [
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes128-ctr",
    ],
    "mac_algs": ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"],
    "compression_algs": ["none"],
    "x509_trusted_certs": None,  # or it would look for some in the daemon's home directory
    "x509_trusted_cert_paths": [],
    "login_timeout": 0,  # the story has its own deadline
    "keepalive_interval": 0,  # the peers' own keep-alives pass through
}

# asyncssh asks for these, uses neither, and fails where nobody has the daemon's number: in
# containers that run as any.
os.environ.setdefault("LOGNAME", "gateway")
os.environ.setdefault("HOME", "/")


class ServerLeg(Leg, asyncssh.SSHServerConnection):
    """Towards a client."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        owner: asyncssh.SSHServer,
        user: Callable[[], str],
    ) -> None:
        super().__init__(loop, options)
        self._protocol_factory = lambda: owner
        self._user = user
        self._failures = self._tries = 0
        self._begins = False  # the request that is being judged is the "none" of a beginning
        self._server_host_key_algs = _modern(self._server_host_key_algs)
        self._sig_algs = _modern(self._sig_algs)
        self.prepare()

    async def reload_config(self) -> None:
        """There are no files that depend on the user's name."""

    def comes_from(self, source: IPAddress) -> None:
        """Where the client really is: certificates may be good for some addresses only."""
        self._peer_addr = str(source)

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise asyncssh.DisconnectError(NO_MORE_METHODS, TOO_MANY)
        self._begins = self._tries == 1 and method == b"none"
        # asyncssh takes the empty name for one that it knows already.
        await super()._finish_userauth(begin_auth or self._tries == 1, method, packet)

    def send_userauth_failure(self, partial_success: bool) -> None:
        self._failures += not self._begins
        if self._failures >= MAX_FAILURES:
            raise asyncssh.DisconnectError(NO_MORE_METHODS, TOO_MANY)
        super().send_userauth_failure(partial_success)

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """asyncssh takes signatures that it has not offered to take: those with SHA-1."""
        if msg and SSHPacket(signature).get_string() not in self._sig_algs:
            return False
        return bool(await super().validate_public_key(username, key_data, msg, signature))

    async def _validate_openssh_certificate(
        self, username: str, cert: SSHOpenSSHCertificate
    ) -> asyncssh.SSHKey | None:
        """A certificate names the person; the log-in name may hold more.

        One that names nobody would be good for everybody, and a command that it imposes
        would be for a target to run.
        """
        if not cert.principals or "force-command" in cert.options:
            return None
        found: asyncssh.SSHKey | None = await super()._validate_openssh_certificate(
            self._user(), cert
        )
        return found


class ClientLeg(Leg, asyncssh.SSHClientConnection):
    """Towards a target."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHClientConnectionOptions,
        owner: asyncssh.SSHClient,
    ) -> None:
        super().__init__(loop, options)
        self._protocol_factory = lambda: owner
        self.prepare()

    def _connection_made(self) -> None:
        super()._connection_made()
        self._server_host_key_algs = _modern(self._server_host_key_algs)


def _modern(algorithms: Sequence[bytes] | None) -> list[bytes]:
    """Without SHA-1, and spellings of long ago: what begins so has other names by now."""
    return [each for each in algorithms or () if not each.startswith(b"ssh-rsa")]
