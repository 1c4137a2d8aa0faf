"""A socket as the pump sees it: plain, or with TLS on it; never waits."""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from OpenSSL import SSL

CHUNK = 65536  # bytes a receive: a pipe's worth, and below malloc's threshold for mmap


class Channel(Protocol):
    """One socket as the pump sees it. Both raise OSError when the connection is broken."""

    def fileno(self) -> int: ...

    def receive(self) -> bytes | None:
        """What has come; b"" at the end of the stream, None if nothing has."""
        ...

    def transmit(self, data: bytes) -> int:
        """Send what the kernel takes now; returns how much that was."""
        ...

    def pending(self) -> bool:
        """True if :meth:`receive` has data of which the socket does not know."""
        ...

    def half_close(self) -> None: ...

    def close(self) -> None: ...


class PlainChannel:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._recv(CHUNK)
        except BlockingIOError:
            return None

    def transmit(self, data: bytes) -> int:
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def pending(self) -> bool:
        return False

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


class TlsChannel:
    """The same over pyOpenSSL, which reads and writes the socket itself."""

    def __init__(self, sock: socket.socket, tls: SSL.Connection) -> None:
        self._sock = sock
        self._tls = tls
        self._recv = tls.recv
        self._send = tls.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._recv(16384)  # one TLS record is never longer
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.SysCallError as broken:
            if broken.args[0] == errno.ECONNRESET:
                raise ConnectionResetError(*broken.args) from broken
            return b""  # many clients close the socket without close_notify
        except SSL.Error as broken:
            raise ConnectionAbortedError("TLS failed") from broken

    def transmit(self, data: bytes) -> int:
        try:
            return self._send(data)
        except SSL.WantWriteError:
            return 0
        except (SSL.Error, SSL.WantReadError) as broken:
            raise ConnectionAbortedError("TLS failed") from broken

    def pending(self) -> bool:
        return self._tls.pending() > 0

    def half_close(self) -> None:
        try:
            self._tls.shutdown()
        except SSL.Error as broken:
            raise ConnectionAbortedError("TLS failed") from broken
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


def channel(sock: socket.socket, tls: SSL.Connection | None) -> Channel:
    return PlainChannel(sock) if tls is None else TlsChannel(sock, tls)
