"""Peers that do versions and keys as they should, and then what a test tells them to."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket
from attrs import frozen

from gateway.ssh.messages import string, uint32

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = range(1, 8)
KEXINIT, NEWKEYS = 20, 21
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS = 50, 51, 52
PK_OK, INFO_REQUEST, INFO_RESPONSE = 60, 60, 61
PASSED_OVER = {IGNORE, DEBUG, EXT_INFO}


@frozen
class Heard:
    """One message, and when it came (seconds)."""

    payload: bytes
    at: float

    @property
    def kind(self) -> int:
        return self.payload[0]


class Raw:
    """Mixed in before one of asyncssh's connections; *owner* is whom that reports to."""

    def prepare(self) -> None:
        self.heard: asyncio.Queue[Heard | None] = asyncio.Queue()
        self.error: Exception | None = None
        self.gone = asyncio.Event()
        self.deaf = False  # to what is said of keys
        self._auth = self
        self._auth_complete = True
        self._channels = _All(self)

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if KEXINIT <= pkttype < USERAUTH_REQUEST:
            return self.deaf or super().process_packet(pkttype, pktid, packet)
        if pkttype not in PASSED_OVER:
            self.heard.put_nowait(Heard(packet.get_full_payload(), time.perf_counter()))
        return True

    def _cleanup(self, exc: Exception | None) -> None:
        self.error = exc
        self.gone.set()
        self.heard.put_nowait(None)
        super()._cleanup(exc)

    def cancel(self) -> None:
        """What asyncssh does to a log-in that is under way."""

    def say(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.send_packet(payload[0], payload[1:])

    async def hear(self) -> Heard:
        """The next message; fails if there is none and the connection has ended."""
        async with asyncio.timeout(10):
            heard = await self.heard.get()
        assert heard is not None, f"it ended: {self.error!r}"
        return heard

    async def parting(self) -> str:
        """With which words the other side hangs up, whatever else it says before."""
        while (heard := await self.hear()).kind != DISCONNECT:
            pass
        packet = SSHPacket(heard.payload[5:])
        await asyncio.wait_for(self.gone.wait(), 10)
        return packet.get_string().decode()


class _All(dict[int, Any]):
    """Every channel there may be."""

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self._owner = owner

    def __missing__(self, number: int) -> Any:
        return self._owner

    def __contains__(self, number: object) -> bool:
        return False


class RawClient(Raw, asyncssh.SSHClientConnection):
    """A client that trusts anybody."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(loop, _client_options(**options))
        self.prepare()

    @property
    def id(self) -> bytes:
        """The session's identifier, which proofs are bound to."""
        return bytes(self._session_id)

    async def begin(self) -> None:
        """Up to where one may log in."""
        assert (await self.hear()).payload == bytes((SERVICE_ACCEPT,)) + string(b"ssh-userauth")

    async def tries(self, user: str, method: bytes, *fields: bytes) -> Heard:
        """Ask to be let in; the answer."""
        self.say(userauth(user, method, *fields))
        return await self.hear()

    async def logs_in(self, user: str, key: asyncssh.SSHKey) -> None:
        assert (await self.tries(user, b"publickey", *self.signed(user, key))).kind == (
            USERAUTH_SUCCESS
        )

    def signed(
        self, user: str, key: asyncssh.SSHKey, signer: asyncssh.SSHKey | None = None
    ) -> tuple[bytes, ...]:
        """The fields of a proof for *key*, made with the key that belongs to it, or not."""
        fields = (b"\x01", string(key.sig_algorithms[0]), string(key.public_data))
        said = string(self.id) + userauth(user, b"publickey", *fields)
        return (*fields, string((signer or key).sign(said, key.sig_algorithms[0])))


def _client_options(**more: Any) -> asyncssh.SSHClientConnectionOptions:
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        host="gateway",
        known_hosts=None,
        username="nobody",
        client_keys=None,
        agent_path=None,
        gss_host=None,
        **more,
    )


class RawServer(Raw, asyncssh.SSHServerConnection):
    """A server that lets a test answer whoever wants to log in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, key: asyncssh.SSHKey) -> None:
        options = asyncssh.SSHServerConnectionOptions(
            config=None, server_host_keys=[key], gss_host=None, login_timeout=0
        )
        super().__init__(loop, options)
        self._protocol_factory = asyncssh.SSHServer
        self.prepare()

    async def begin(self) -> None:
        """Up to where somebody asks to be let in."""
        assert (await self.hear()).payload == service(b"ssh-userauth")
        self.say(bytes((SERVICE_ACCEPT,)) + string(b"ssh-userauth"))

    async def asked(self) -> tuple[bytes, bytes]:
        """The account and the method of the next request."""
        packet = SSHPacket((await self.hear()).payload[1:])
        account, _, method = (packet.get_string() for _ in range(3))
        self.fields = packet.get_remaining_payload()
        return account, method

    def refuse(self, *methods: bytes) -> None:
        self.say(bytes((USERAUTH_FAILURE,)) + string(b",".join(methods)) + b"\0")


def offered(key: asyncssh.SSHKey) -> tuple[bytes, ...]:
    """The fields that ask whether *key* would do."""
    return b"\x00", string(key.sig_algorithms[0]), string(key.public_data)


def password(word: str) -> tuple[bytes, ...]:
    return b"\x00", string(word.encode())


def userauth(user: str, method: bytes, *fields: bytes) -> bytes:
    head = string(user.encode()) + string(b"ssh-connection") + string(method)
    return bytes((USERAUTH_REQUEST,)) + head + b"".join(fields)


def service(name: bytes) -> bytes:
    return bytes((SERVICE_REQUEST,)) + string(name)


def disconnect(words: bytes) -> bytes:
    return bytes((DISCONNECT,)) + uint32(11) + string(words) + string(b"")


async def connect(sock: socket.socket, **options: Any) -> RawClient:
    """A client whose keys are exchanged, or are about to be."""
    loop = asyncio.get_running_loop()
    client = RawClient(loop, **options)
    sock.setblocking(False)
    await loop.create_connection(lambda: client, sock=sock)
    return client
