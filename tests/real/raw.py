"""A PostgreSQL client down to its bytes, for what no driver would send or show."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import scramp

from tests.real.servers import PATIENCE, GatewayProcess

PROTOCOL_3_0 = 3 << 16
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)


def startup(version: int = PROTOCOL_3_0, **parameters: str) -> bytes:
    """A StartupMessage."""
    pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items())
    return sized(struct.pack("!i", version) + pairs + b"\0")


def sized(body: bytes) -> bytes:
    return struct.pack("!i", len(body) + 4) + body


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + sized(body)


def sasl_initial(mechanism: str, data: str) -> bytes:
    text = data.encode()
    return message(b"p", mechanism.encode() + b"\0" + struct.pack("!i", len(text)) + text)


class Refusal(Exception):
    """An ErrorResponse; fields by the letters of the manual's 55.8."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(fields.get("M"))
        self.fields = fields
        self.sqlstate = fields.get("C", "")

    @property
    def words(self) -> str:
        """What it says without the audit id, which is another one each time."""
        return self.fields["M"].partition(" (audit id ")[0]


class RawClient:
    """One connection; every method that waits fails after a while instead of hanging."""

    def __init__(self, gateway: GatewayProcess, source: str = "127.0.0.1") -> None:
        self._gateway = gateway
        there, here = ("127.0.0.1", gateway.port), (source, 0)
        self.sock = socket.create_connection(there, PATIENCE, here)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def tls(self, server_name: str = "localhost", alpn: str | None = None) -> None:
        """The handshake itself, verified; :meth:`ask_tls` comes before where it is asked for."""
        context = ssl.create_default_context(cafile=self._gateway.ca)
        if alpn is not None:
            context.set_alpn_protocols([alpn])
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)

    def ask_tls(self, server_name: str = "localhost") -> None:
        """:raises Refusal: before there is any TLS"""
        self.send(SSL_REQUEST)
        answer = self.exactly(1)
        if answer != b"S":
            self._rest_of(answer)
        self.tls(server_name)

    def exactly(self, size: int) -> bytes:
        """:raises EOFError: the other side closed before"""
        data = b""
        while len(data) < size:
            received = self.sock.recv(size - len(data))
            if not received:
                raise EOFError(data)
            data += received
        return data

    def receive(self) -> tuple[bytes, bytes]:
        """The next message.

        :raises Refusal: it is an error
        """
        return self._rest_of(self.exactly(1))

    def _rest_of(self, kind: bytes) -> tuple[bytes, bytes]:
        (length,) = struct.unpack("!i", self.exactly(4))
        body = self.exactly(length - 4)
        if kind == b"E":
            parts = body.rstrip(b"\0").split(b"\0")
            raise Refusal({part[:1].decode(): part[1:].decode() for part in parts})
        return kind, body

    def authenticate(self, password: str) -> None:
        """SCRAM-SHA-256, up to AuthenticationOk."""
        kind, body = self.receive()
        assert (kind, body[:4]) == (b"R", struct.pack("!i", 10))
        # The user of SCRAM is ignored: the one of the start-up message counts.
        client = scramp.ScramClient(["SCRAM-SHA-256"], "ignored", password)
        self.send(sasl_initial(client.mechanism_name, client.get_client_first()))
        client.set_server_first(self.receive()[1][4:].decode())
        self.send(message(b"p", client.get_client_final().encode()))
        client.set_server_final(self.receive()[1][4:].decode())
        assert self.receive() == (b"R", struct.pack("!i", 0))

    def until_ready(self) -> list[tuple[bytes, bytes]]:
        """All messages up to and with ReadyForQuery."""
        found = [self.receive()]
        while found[-1][0] != b"Z":
            found.append(self.receive())
        return found

    def query(self, sql: str) -> list[tuple[bytes, bytes]]:
        self.send(message(b"Q", sql.encode() + b"\0"))
        return self.until_ready()

    def rest(self) -> bytes:
        """All until the other side closes; TimeoutError if it does not."""
        received = b""
        with suppress(ConnectionError, ssl.SSLError):
            while data := self.sock.recv(65536):
                received += data
        return received


def log_in(
    gateway: GatewayProcess,
    user: str,
    password: str,
    database: str = "orders",
    source: str = "127.0.0.1",
) -> str:
    """Log in from *source*, an address of 127.0.0.0/8; as whom the target knows us.

    :raises Refusal: we are not let in
    """
    with RawClient(gateway, source) as client:
        client.ask_tls()
        client.send(startup(user=user, database=database))
        client.authenticate(password)
        client.until_ready()
        (row,) = [body for kind, body in client.query("SELECT session_user") if kind == b"D"]
        return row[6:].decode()  # behind the number of columns and the length of the first


def refusal(
    gateway: GatewayProcess, user: str, password: str, database: str = "orders"
) -> Refusal | None:
    """What the gateway refuses a log-in with, None if it does not."""
    try:
        log_in(gateway, user, password, database)
    except Refusal as refused:
        return refused
    return None
