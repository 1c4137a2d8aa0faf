"""One side of an SSH connection: asyncssh's transport, our own relay behind it.

asyncssh does versions, key exchange, ciphers and authentication. From there on the messages
of the connection protocol (RFC 4254) go to a :class:`Junction` as they are, and what it sends
is packed here: many packets a write, and no MSG_IGNORE before each, which only CBC needed.

Knows asyncssh from the inside, as :mod:`gateway.ssh.peers` does: hence its version is pinned.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any, Protocol

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.packet import SSHPacket
from twisted.logger import Logger

from gateway.errors import ProtocolViolation
from gateway.ssh.messages import GLOBAL_REQUEST, uint32

MAX_HELD = 512 << 10  # bytes not yet looked at: two of the longest packets that asyncssh takes
PIECE = 16 << 10  # bytes looked at in one go: for each packet asyncssh copies what is behind it
TURN = 512  # packets before others have their turn: of the smallest, these take some 20 ms
PROMPT = 64  # reads whose data is acknowledged at once: peers with Nagle's algorithm log in
HIGH_WATER = 1 << 20  # bytes that wait for a slow peer before its other side is not read
MAX_UNSENT = 16 << 20  # bytes: TCP may bring 10 MiB beyond that water, only hostile peers more
PACKET = 200  # bytes that a packet costs while it waits, beside its own
REKEY = 32 << 30  # bytes: at most 2^31 packets, before whose double the keys have to change
PARTING = 0.5  # seconds for the peer to read why, and to hang up
SLOW = 10.0  # seconds for one that is still reading what it was sent before

UNREAD, REKEYING = "the peer does not read", "a key exchange is under way"

BY_APPLICATION = asyncssh.DISC_BY_APPLICATION
NO_MORE_METHODS = asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE
PROTOCOL_ERROR = asyncssh.DISC_PROTOCOL_ERROR

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

    def lost(self, leg: Leg, error: Exception | None) -> None:
        """*leg* is no more; a ProtocolViolation says that its peer is to blame."""
        ...


class Leg(SSHConnection):
    """What both legs have in common. Mixed in before asyncssh's own class."""

    def prepare(self) -> None:
        self._junction: Junction | None = None
        self._settled: asyncio.Future[None] = self._loop.create_future()
        self._unread = bytearray()  # what asyncssh has not been shown yet
        self._reads = 0
        self._reasons: set[str] = set()  # why nothing should be read now
        self._stopped = False  # nothing is read
        self._jams: set[str] = set()  # why what is sent does not go out
        self._deferred = 0  # bytes that wait for a key exchange
        self._rekey_bytes = REKEY
        self._rekey_seconds = 0.0  # peers do that if they like
        self._fault = ""  # for what we hang up on the peer
        self._carried: set[Leg] = set()  # legs that run through a channel of this one
        self._parted = False

    # -- joining

    def join(self, junction: Junction) -> None:
        """From here on, every message of the connection protocol is the junction's."""
        self._junction = junction
        self._channels = _Through(self)
        if self._transport is None:  # it went while nobody looked
            self._loop.call_soon(junction.lost, self, None)
        elif self._jams:
            junction.congested(self, True)
        self.go_on()

    def go_on(self) -> None:
        """Messages that waited for the log-in to be over are looked at."""
        if not self._settled.done():
            self._settled.set_result(None)

    def carry(self, leg: Leg) -> None:
        """*leg* runs through a channel of this one, and stands still when it does."""
        self._carried = {each for each in self._carried if not each.is_closed()} | {leg}
        for why in self._jams:
            leg.jam(f"its carrier: {why}", True)

    # -- receiving

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        self._reads += 1
        if self._reads <= PROMPT:
            self._acknowledge()
        self._unread += data
        self._recv_data()

    def _acknowledge(self) -> None:
        """Without this, each of a peer's small writes would wait 40 ms for our kernel."""
        sock = self._transport and self._transport.get_extra_info("socket")
        with suppress(OSError):  # it is no TCP, or gone
            if sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _recv_data(self) -> None:
        """Show asyncssh what has come, a piece at a time."""
        began = self._recv_seq
        if self._looking():
            super()._recv_data()
        while self._unread and self._looking():
            if self._recv_seq - began > TURN:
                self._loop.call_soon(self._recv_data)
                break
            self._inpbuf += self._unread[:PIECE]
            del self._unread[:PIECE]
            super()._recv_data()
        if self._junction is not None:
            self._junction.flush()
        self._stop_or_read()

    def _looking(self) -> bool:
        """asyncssh has not hung up, and waits for nothing but bytes."""
        if self._transport is None or self._parted:
            self._inpbuf = b""
            self._unread.clear()
        return self._recv_handler in (self._recv_version, self._recv_pkthdr, self._recv_packet)

    def _finish_recv_packet(
        self,
        pkttype: int,
        seq: int,
        _task: asyncio.Task[None] | None = None,
        is_async: bool = False,
    ) -> None:
        super()._finish_recv_packet(pkttype, seq, _task)
        if is_async:
            self._recv_data()

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

    def hold(self, why: str, yes: bool) -> None:
        """Do not read from the peer while anybody has a reason not to."""
        (self._reasons.add if yes else self._reasons.discard)(why)
        self._stop_or_read()

    def _stop_or_read(self) -> None:
        """Keys have to be exchanged even so: both sides may wait for one another's."""
        stop = not self._parted and (
            len(self._inpbuf) + len(self._unread) > MAX_HELD
            or (bool(self._reasons) and not self._exchanging())
        )
        if self._transport is None or stop == self._stopped:
            return
        self._stopped = stop
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _exchanging(self) -> bool:
        return not self._kex_complete or self._next_recv_encryption is not None

    def _send_kexinit(self) -> None:
        super()._send_kexinit()
        self._stop_or_read()

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        """asyncssh lets through some of what a peer's garbage makes Python raise."""
        error = exc_info[1] if exc_info else sys.exc_info()[1]
        if isinstance(error, ValueError | IndexError):
            self._hang_up(asyncssh.ProtocolError("malformed message"))
        super().internal_error(exc_info, error_logger)

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

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        waiting = len(self._deferred_packets)
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > waiting:
            self._deferred += sum(map(len, args)) + PACKET
            self.jam(REKEYING, True)
            if self._deferred > MAX_UNSENT:
                self._hang_up(asyncssh.ProtocolError("the key exchange does not end"))

    def _send_deferred_packets(self) -> None:
        self._deferred = 0
        super()._send_deferred_packets()
        self.jam(REKEYING, bool(self._deferred_packets))

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

    def _send(self, data: bytes) -> None:
        super()._send(data)
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._force_close(asyncssh.ConnectionLost("it asks, and does not read the answers"))

    def pause_writing(self) -> None:
        self.jam(UNREAD, True)

    def resume_writing(self) -> None:
        self.jam(UNREAD, False)

    def jam(self, why: str, yes: bool) -> None:
        """What is sent here waits: those whose words it is should not say more."""
        was = bool(self._jams)
        (self._jams.add if yes else self._jams.discard)(why)
        if self._junction is not None and was != bool(self._jams):
            self._junction.congested(self, bool(self._jams))
        for leg in self._carried:
            leg.jam(f"its carrier: {why}", yes)

    # -- ending

    def part(self, code: int, words: str) -> None:
        """Tell the peer why, and hang up; never waits, never raises."""
        transport = self._transport
        if transport is None or self._parted:
            return
        self._parted = True
        self._stop_or_read()  # closing with something unread would take back what is sent
        super()._send_disconnect(code, words, "en")
        self._linger(transport, self._loop.time() + SLOW)
        try:
            transport.write_eof()
        except (OSError, NotImplementedError):
            transport.abort()

    def _linger(self, transport: asyncio.Transport, until: float) -> None:
        unsent = transport.get_write_buffer_size()

        def look() -> None:
            reads = 0 < transport.get_write_buffer_size() < unsent
            if reads and self._loop.time() < until:
                self._linger(transport, until)
            else:
                transport.abort()

        self._loop.call_later(PARTING, look)

    def _hang_up(self, error: asyncssh.DisconnectError) -> None:
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    def _send_disconnect(self, code: int, reason: str, lang: str) -> None:
        """Only asyncssh and :meth:`_hang_up` come here: it is about what the peer did."""
        self._fault = self._fault or reason
        super()._send_disconnect(code, reason, lang)

    def over(self, error: Exception | None) -> None:
        """asyncssh's owner of the connection has been told that it is gone."""
        if not self._settled.done():
            self._settled.cancel()
        if error is not None and not isinstance(error, asyncssh.Error | OSError):
            log.error("An SSH connection failed inside the gateway: {why!r}", why=error)
        if self._junction is not None:
            self._junction.lost(self, ProtocolViolation(self._fault) if self._fault else error)


class _Through(dict[int, Any]):
    """In place of asyncssh's own channels: every number leads to the leg, and so to the relay."""

    def __init__(self, leg: Leg) -> None:
        super().__init__()
        self._leg = leg

    def __missing__(self, number: int) -> Leg:
        return self._leg
