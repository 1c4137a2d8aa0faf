"""One side of an SSH connection: asyncssh's transport and log-in, our own relay behind them.

asyncssh does versions, key exchange, ciphers and authentication. From there on the messages
of the connection protocol (RFC 4254) go to a :class:`Junction` as they are, and what it sends
is packed here: many packets a write, and no MSG_IGNORE before each, which only CBC needed.

Knows asyncssh from the inside, in this file only: hence its version is pinned.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.packet import SSHPacket
from asyncssh.public_key import SSHOpenSSHCertificate
from twisted.logger import Logger

from gateway.ssh.messages import GLOBAL_REQUEST, uint32

MAX_HELD = 512 << 10  # bytes not yet looked at: two of the longest packets that asyncssh takes
HIGH_WATER = 1 << 20  # bytes that wait for a slow peer before its other side is not read
PARTING = 0.5  # seconds for the peer to read why, and to hang up
MAX_FAILURES = 7  # of authentication: OpenSSH's MaxAuthTries, and the "none" it begins with

BY_APPLICATION = asyncssh.DISC_BY_APPLICATION
NO_MORE_METHODS = asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE
PROTOCOL_ERROR = asyncssh.DISC_PROTOCOL_ERROR

Ciphers = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
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
    "encryption_algs": list(Ciphers),
    "mac_algs": ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"],
    "compression_algs": ["none"],
    "login_timeout": 0,  # the story has its own deadline
    "keepalive_interval": 0,  # the peers' own keep-alives pass through
}

log = Logger()


class Junction(Protocol):
    """Where both legs of a session meet."""

    def received(self, leg: Leg, payload: bytes) -> None: ...

    def flush(self) -> None:
        """What had come at once has been received."""
        ...

    def congested(self, leg: Leg, full: bool) -> None:
        """*leg*'s peer does not keep up, or does so again."""
        ...

    def lost(self, leg: Leg, error: Exception | None) -> None: ...


class Leg(SSHConnection):
    """What both legs have in common. Mixed in before asyncssh's own class."""

    def prepare(self) -> None:
        self._junction: Junction | None = None
        self._settled: asyncio.Future[None] = self._loop.create_future()
        self._reasons: set[str] = set()  # why nothing is read now
        self._parted = False

    # -- joining

    def join(self, junction: Junction) -> None:
        """From here on, every message of the connection protocol is the junction's."""
        self._junction = junction
        self._channels = _Through(self)
        self.go_on()

    def go_on(self) -> None:
        """Messages that waited for the log-in to be over are looked at."""
        if not self._settled.done():
            self._settled.set_result(None)

    # -- receiving

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        if pkttype < GLOBAL_REQUEST:
            return super().process_packet(pkttype, pktid, packet)
        if self._junction is not None:
            self._junction.received(self, packet.get_full_payload())
            return True
        if self._settled.done():
            return super().process_packet(pkttype, pktid, packet)
        return self._later(pkttype, pktid, packet)

    async def _later(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        await asyncio.shield(self._settled)
        result = self.process_packet(pkttype, pktid, packet)
        if not isinstance(result, bool):
            await result

    def _recv_data(self) -> None:
        if self._parted:
            self._inpbuf = b""
            return
        super()._recv_data()
        if self._junction is not None:
            self._junction.flush()
        self.hold("too much at once", len(self._inpbuf) > MAX_HELD)

    def hold(self, why: str, yes: bool) -> None:
        """Do not read from the peer while anybody has a reason not to."""
        was = bool(self._reasons)
        (self._reasons.add if yes else self._reasons.discard)(why)
        if self._transport is None or was == bool(self._reasons):
            return
        if self._reasons:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def log_received_packet(self, *args: Any, **kwargs: Any) -> None: ...

    def log_sent_packet(self, *args: Any, **kwargs: Any) -> None: ...

    # -- sending

    def transmit(self, payloads: Iterable[bytes]) -> None:
        """Send whole messages, with one write where no key exchange is under way."""
        packed: list[bytes] = []
        for payload in payloads:
            if self._plain_sailing():
                packed.append(self._packed(payload))
            else:
                self._write(packed)
                self.send_packet(payload[0], payload[1:])
        self._write(packed)

    def _plain_sailing(self) -> bool:
        return (
            self._kex_complete
            and not self._deferred_packets
            and self._compressor is None
            and self._rekey_bytes_sent < self._rekey_bytes
        )

    def _packed(self, payload: bytes) -> bytes:
        """A binary packet (RFC 4253, 6), padded to the cipher's block."""
        assert self._send_encryption is not None
        block = self._send_blocksize
        padding = block - (self._send_enchdrlen + len(payload)) % block
        if padding < 4:
            padding += block
        body = bytes((padding,)) + payload + os.urandom(padding)
        sequence, length = self._send_seq, len(body)
        self._send_seq = (sequence + 1) & 0xFFFFFFFF
        self._rekey_bytes_sent += length
        packet, mac = self._send_encryption.encrypt_packet(sequence, uint32(length), body)
        return packet + mac

    def _write(self, packed: list[bytes]) -> None:
        if packed:
            self._send(b"".join(packed))
            packed.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(HIGH_WATER)

    def pause_writing(self) -> None:
        if self._junction is not None:
            self._junction.congested(self, True)

    def resume_writing(self) -> None:
        if self._junction is not None:
            self._junction.congested(self, False)

    # -- ending

    def part(self, code: int, words: str) -> None:
        """Tell the peer why, and hang up; never waits, never raises."""
        transport = self._transport
        if transport is None or self._parted:
            return
        self._parted = True
        self._send_disconnect(code, words, "en")
        self._loop.call_later(PARTING, transport.abort)
        try:
            transport.write_eof()
        except (OSError, NotImplementedError):
            transport.abort()

    def over(self, error: Exception | None) -> None:
        """asyncssh's owner of the connection has been told that it is gone."""
        if not self._settled.done():
            self._settled.cancel()
        if error is not None and not isinstance(error, asyncssh.Error | OSError):
            log.error("An SSH connection failed inside the gateway: {why!r}", why=error)
        if self._junction is not None:
            self._junction.lost(self, error)


class _Through(dict[int, Any]):
    """In place of asyncssh's own channels: every number leads to the leg, and so to the relay."""

    def __init__(self, leg: Leg) -> None:
        super().__init__()
        self._leg = leg

    def __missing__(self, number: int) -> Leg:
        return self._leg


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
        self._failures = 0
        self.prepare()

    async def reload_config(self) -> None:
        """There are no files that depend on the user's name."""

    def send_userauth_failure(self, partial_success: bool) -> None:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise asyncssh.DisconnectError(NO_MORE_METHODS, "too many authentication failures")
        super().send_userauth_failure(partial_success)

    async def _validate_openssh_certificate(
        self, username: str, cert: SSHOpenSSHCertificate
    ) -> asyncssh.SSHKey | None:
        """A certificate names the person; the log-in name may hold more."""
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
