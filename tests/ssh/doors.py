"""The whole SSH door in one process: a house, a target behind it, and clients that come."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncssh
from attrs import evolve
from twisted.logger import LogLevel, capturedLogs

from gateway.health import RefusedAccounts, Sightings
from gateway.model import (
    Account,
    Address,
    Allow,
    Binding,
    End,
    EndReason,
    IPAddress,
    Protocol,
    Resource,
    Role,
    Selector,
    Snapshot,
    SshRights,
    Target,
    Terms,
    User,
)
from gateway.routing import Seen
from gateway.session import serve
from gateway.ssh import messages as m
from gateway.ssh.authority import SshAuthority
from gateway.ssh.dial import SshDialer
from gateway.ssh.edge import SshDoor, SshEdge
from gateway.ssh.legs import Leg
from gateway.ssh.messages import string, uint32
from gateway.wire import Wire
from tests.leaks import nothing_left
from tests.ssh import raw
from tests.story import PENCIL, House

ALICE = asyncssh.generate_private_key("ssh-ed25519")
HOST = asyncssh.generate_private_key("ssh-ed25519")
NAMES = frozenset({"127.0.0.1", "gw.test"})
EVERYTHING = SshRights(forward=("127.0.0.1:*",), agent=True, x11=True)

BUFFER = 65_536  # bytes that the kernel keeps for a client that does not read
PATIENCE = 30  # seconds for all of a test
ALLOWED = Terms(ssh=EVERYTHING)


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


class ShellTarget:
    """An asyncssh server that runs a few commands of its own."""

    def __init__(self, authority: SshAuthority) -> None:
        self._trusted = asyncssh.import_authorized_keys(
            f"cert-authority {authority.user_ca_line()}"
        )
        self.ran: list[str] = []
        self.flooded = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.slow = asyncio.Event()  # logs nobody in before
        self.slow.set()

    async def start(self, **options: Any) -> Address:
        given = {
            "server_host_keys": [HOST],
            "authorized_client_keys": self._trusted,
            "process_factory": self._run,
            "server_factory": lambda: _Host(self),
            "encoding": None,
            **options,
        }
        self._server = await asyncssh.listen("127.0.0.1", 0, config=None, **given)
        return Address("127.0.0.1", self._server.get_port())

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        for connection in self.connections:
            connection.abort()
            await connection.wait_closed()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.ran.append(process.command or "")
        words = (process.command or "").split()
        if words[:1] == ["exit"]:
            process.exit(int(words[1]))
        elif words[:1] == ["cat"]:
            async for data in process.stdin:
                process.stdout.write(data)
            process.exit(0)
        elif words[:1] == ["flood"]:
            await self._flood(process)
        else:
            await asyncio.Event().wait()

    async def _flood(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """As fast as TCP takes it: asyncssh itself would go on without end."""
        transport = process.get_extra_info("connection")._transport
        while not transport.is_closing():
            if transport.get_write_buffer_size() < BUFFER:
                process.stdout.write(bytes(32_000))
                self.flooded += 32_000
            await asyncio.sleep(0)


class _Host(asyncssh.SSHServer):
    def __init__(self, target: ShellTarget) -> None:
        self._target = target

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._target.connections.append(conn)

    async def begin_auth(self, username: str) -> bool:
        await self._target.slow.wait()
        return True


def accounts() -> RefusedAccounts:
    """None is refused yet, and nobody is told."""
    return RefusedAccounts(time.time, lambda spot, account, why: None)


class Door:
    """Where clients come in. ``stories`` are those that are being told."""

    def __init__(self, root: Path, authority: SshAuthority, **house: Any) -> None:
        self.house = House(root, limits=(50, 50), **house)
        self.house.now = time.time()
        self.sightings = Sightings(time.time)
        dialer = SshDialer(authority, self.sightings, accounts(), time.time, 5)
        self.ssh = SshDoor(authority, dialer, NAMES, "gw.test", time.time)
        self.target = ShellTarget(authority)
        self.stories: list[asyncio.Task[None]] = []
        self.edges: list[SshEdge] = []
        self._clients: list[asyncssh.SSHClientConnection] = []

    async def open(self, terms: Terms = ALLOWED, **target: Any) -> None:
        self.address = await self.target.start(**target)
        self.house.snapshot = objects(self.address, terms)

    async def close(self) -> None:
        running = [self.house.live.find(info.id).running for info in self.house.live.infos()]
        for splice in running:
            splice.end(End(EndReason.SHUTDOWN))
        for client in self._clients:
            client.abort()
            await client.wait_closed()
        for edge in self.edges:
            edge.close()
        for story in self.stories:
            story.cancel()
        await asyncio.gather(*self.stories, return_exceptions=True)
        await self.target.stop()
        await until(lambda: all(leg.is_closed() for splice in running for leg in splice._legs))
        self.house.leave()

    def change(self, **parts: Any) -> None:
        self.house.snapshot = evolve(self.house.snapshot, **parts)

    def nobody_may(self) -> None:
        self.change(bindings=())

    def everybody_has(self, key: asyncssh.SSHKey) -> None:
        """All users have the same key."""
        users = self.house.snapshot.users.items()
        self.change(users={name: evolve(user, ssh_keys=(public(key),)) for name, user in users})

    def address_is(self, *addresses: Address) -> None:
        """web is somewhere else."""
        web = self.house.snapshot.resources["web"]
        targets = tuple(Target(address, host_key=public(HOST)) for address in addresses)
        self.change(resources={"web": evolve(web, targets=targets)})

    def legs(self) -> list[Leg]:
        """Those of clients that are connected."""
        return [edge._leg for edge in self.edges if not edge._leg.is_closed()]

    def let_in(self, key: asyncssh.SSHKey) -> None:
        """alice has another key."""
        users = dict(self.house.snapshot.users)
        users["alice"] = evolve(users["alice"], ssh_keys=(public(ALICE), public(key)))
        self.change(users=users)

    async def told(self) -> None:
        """All stories have come to their end: a session, or none."""
        await asyncio.wait_for(asyncio.gather(*self.stories), 10)

    async def empty(self) -> None:
        """No session runs any more."""
        async with asyncio.timeout(10):
            await self.house.live._empty.wait()

    def knock(self, source: IPAddress | None = None) -> socket.socket:
        """A connection, and its story."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            client.connect(server.getsockname())
            taken, _ = server.accept()
        wire = Wire(taken, asyncio.get_running_loop())
        if source is not None:
            wire.source = source
        self.edges.append(edge := SshEdge(self.ssh, wire))
        self.stories.append(asyncio.ensure_future(serve(self.house.door, edge)))
        return client

    async def raw(self, **options: Any) -> raw.RawClient:
        """A client with keys, who may log in now."""
        client = await raw.connect(self.knock(), **options)
        self._clients.append(client)
        await client.begin()
        return client

    async def client(
        self, user: str = "alice#web", source: IPAddress | None = None, **options: Any
    ) -> asyncssh.SSHClientConnection:
        """One of asyncssh's own, logged in as alice."""
        given = {"client_keys": [ALICE], "known_hosts": None, "config": None, **options}
        sock = self.knock(source)
        sock.setblocking(False)
        client = await asyncssh.connect(sock=sock, username=user, agent_path=None, **given)
        self._clients.append(client)
        return client

    def seen(self) -> Seen:
        """What is known of the target that web has at first."""
        web = Resource("web", Protocol.SSH, (Target(self.address),))
        return self.sightings.seen(web)[self.address]

    def session(self) -> Any:
        """The one that runs."""
        (info,) = self.house.live.infos()
        return self.house.live.find(info.id)


def objects(address: Address, terms: Terms, *, key: asyncssh.SSHKey = HOST) -> Snapshot:
    """alice may do on web whatever *terms* say; bob may log in, and nothing else."""
    web = Resource(
        "web",
        Protocol.SSH,
        (Target(address, host_key=public(key)),),
        MappingProxyType({"deploy": Account("deploy", minted=True)}),
    )
    alice = User("alice", password=PENCIL, ssh_keys=(public(ALICE),))
    users = {"alice": alice, "bob": evolve(alice, name="bob")}
    role = Role("all", (Allow(Selector(frozenset({"web"})), frozenset({"deploy"}), terms),))
    binding = Binding("all", "all", users=frozenset({"alice"}))
    return Snapshot(1, {"web": web}, users, {"all": role}, (binding,))


@asynccontextmanager
async def opened(root: Path, authority: SshAuthority, **options: Any) -> AsyncIterator[Door]:
    """A door that leaves nothing behind: no descriptor, no task, no failure in the log."""
    async with nothing_left(), no_errors():
        door = Door(root, authority, **options.pop("house", {}))
        await door.open(**options)
        try:
            async with asyncio.timeout(PATIENCE):
                yield door
        finally:
            await door.close()


@asynccontextmanager
async def no_errors() -> AsyncIterator[None]:
    """What a peer does wrong is no error of ours."""
    with capturedLogs() as events:
        yield
    assert not [event for event in events if event["log_level"] >= LogLevel.error]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.001)


async def flooded(door: Door) -> tuple[raw.RawClient, int]:
    """A client to which the target sends without end, and the target's channel."""
    client = await door.raw()
    await client.logs_in("alice#web", ALICE)
    client.say(b"\x5a" + string(b"session") + uint32(0) + uint32(0xFFFFFFFF) + uint32(32768))
    channel = struct.unpack(">I", (await client.hear()).payload[5:9])[0]
    client.say(b"\x62" + uint32(channel) + string(b"exec") + b"\x01" + string(b"flood"))
    assert (await client.hear()).kind == m.CHANNEL_SUCCESS
    return client, channel
