"""A TCP connection, plain or TLS, for as long as there is a conversation on it.

Log-ins are conversations: a coroutine that receives and sends in turn, under somebody
else's deadline. When it is over, :meth:`Wire.take` gives the socket away to whoever
carries the session.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from gateway.errors import Gone, ProtocolViolation
from gateway.model import IPAddress, unmapped

RECEIVE = 16384  # bytes at once: a TLS record is never longer, and a log-in is shorter


class Wire:
    """Owns a non-blocking socket. Every method that waits raises :class:`Gone` at a hang-up."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._loop = loop
        self.tls: SSL.Connection | None = None
        self._source: IPAddress | None = None

    @property
    def source(self) -> IPAddress:
        """Where the client is: the peer's address, or what a trusted proxy says.

        An IPv4 address that came mapped is IPv4 again.
        """
        if self._source is None:
            self._source = self._peer()
        return self._source

    @source.setter
    def source(self, told: IPAddress) -> None:
        self._source = told

    def _peer(self) -> IPAddress:
        try:
            address = ip_address(self._sock.getpeername()[0].partition("%")[0])
        except OSError as gone:
            raise Gone from gone
        return unmapped(address)

    async def peek(self) -> bytes:
        """The first byte that waits, left where it is; b"" at the end of the stream."""
        while True:
            try:
                return self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                await self._readable()
            except OSError as gone:
                raise Gone from gone

    async def look(self, least: int, most: int) -> bytes:
        """What waits, *least* to *most* bytes, left where it is; fewer at the end of the stream.

        The kernel is asked to wake us only when there are enough (SO_RCVLOWAT).
        """
        data = self._look(most)
        if data is not None and (not data or len(data) >= least):
            return data
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        try:
            await self._readable()
            return self._look(most) or b""
        finally:
            if self._sock.fileno() >= 0:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _look(self, most: int) -> bytes | None:
        try:
            return self._sock.recv(most, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError as gone:
            raise Gone from gone

    async def discard(self, length: int) -> None:
        """Take *length* bytes that were looked at off the stream."""
        while length > 0:
            try:
                taken = len(self._sock.recv(length))
            except OSError as gone:
                raise Gone from gone
            if not taken:
                raise Gone
            length -= taken

    async def receive(self) -> bytes:
        """The next bytes, at least one.

        :raises Gone: there will be none
        """
        while True:
            data = self._receive()
            if data:
                return data
            if data is not None:
                raise Gone
            await self._readable()

    def _receive(self) -> bytes | None:
        try:
            if self.tls is None:
                return self._sock.recv(RECEIVE)
            return self.tls.recv(RECEIVE)
        except (BlockingIOError, SSL.WantReadError):
            return None
        except (OSError, SSL.Error):
            return b""

    async def send(self, data: bytes) -> None:
        while data:
            try:
                sent = self._sock.send(data) if self.tls is None else self.tls.send(data)
            except (BlockingIOError, SSL.WantWriteError):
                await self._writable()
            except (OSError, SSL.Error) as gone:
                raise Gone from gone
            else:
                data = data[sent:]

    async def accept_tls(self, context: SSL.Context) -> None:
        """Be the server of a TLS handshake.

        :raises ProtocolViolation: it failed
        """
        tls = SSL.Connection(context, self._sock)
        tls.set_accept_state()
        await self._handshake(tls)

    async def start_tls(self, context: SSL.Context, server_name: str | None) -> None:
        """Be the client of a TLS handshake; *server_name* is sent as SNI.

        :raises ProtocolViolation: it failed, or the chain does not verify
        """
        tls = SSL.Connection(context, self._sock)
        if server_name is not None:
            tls.set_tlsext_host_name(server_name.encode("idna"))
        tls.set_connect_state()
        await self._handshake(tls)

    async def _handshake(self, tls: SSL.Connection) -> None:
        while True:
            try:
                tls.do_handshake()
            except SSL.WantReadError:
                await self._readable()
            except SSL.WantWriteError:
                await self._writable()
            except SSL.SysCallError as gone:
                raise Gone from gone
            except SSL.Error as failed:
                raise ProtocolViolation("TLS handshake failed", _reasons(failed)) from failed
            else:
                self.tls = tls
                return

    def take(self) -> tuple[socket.socket, SSL.Connection | None]:
        """Give the socket away; the wire is of no use afterwards."""
        return self._sock, self.tls

    def close(self) -> None:
        """Say goodbye as the protocol has it, and close. Never waits, never raises."""
        if self._sock.fileno() < 0:
            return
        try:
            if self.tls is not None:
                self.tls.shutdown()
            self._sock.shutdown(socket.SHUT_WR)
        except (OSError, SSL.Error):
            pass  # the peer was faster
        self._sock.close()

    async def linger(self) -> None:
        """Close behind data that was sent: read on until the peer closes too.

        A socket closed with unread data resets the connection, and the peer may lose what
        it was told. The caller sets the deadline.
        """
        try:
            if self.tls is not None:
                self.tls.shutdown()
            self._sock.shutdown(socket.SHUT_WR)
            while True:
                await self._readable()  # each time: who never stops talking must not stop us
                if not self._sock.recv(RECEIVE):
                    return
        except (OSError, SSL.Error, Gone):
            pass  # nothing is left to wait for
        finally:
            self._sock.close()

    async def _readable(self) -> None:
        await self._once(self._loop.add_reader, self._loop.remove_reader)

    async def _writable(self) -> None:
        await self._once(self._loop.add_writer, self._loop.remove_writer)

    async def _once(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        fd = self._sock.fileno()
        if fd < 0:
            raise Gone
        ready: asyncio.Future[None] = self._loop.create_future()
        add(fd, _settle, ready)
        try:
            await ready
        finally:
            remove(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _reasons(failed: SSL.Error) -> str:
    """OpenSSL's own words; they name no secrets."""
    stack = failed.args[0] if failed.args else ()
    return "; ".join(entry[-1] for entry in stack) or "TLS failed"


class Adopt(Protocol):
    """Takes a connection out of Twisted's hands before a byte of it has been read.

    Twisted's transport reads ahead and wraps TLS around memory; a session needs the
    socket itself.
    """

    def __init__(self, adopted: Callable[[socket.socket], None]) -> None:
        self._adopted = adopted

    def connectionMade(self) -> None:
        transport = cast("Any", self.transport)  # what listenTCP and endpoints give: tcp.Connection
        transport.stopReading()
        transport.stopWriting()
        # detach() leaves the descriptor open and the transport without one.
        self._adopted(socket.socket(fileno=transport.getHandle().detach()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Never called: the transport has nothing left to lose."""
