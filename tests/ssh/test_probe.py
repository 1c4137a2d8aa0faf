"""Looking at SSH targets: a real server in this process, and some that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from gateway.health import Findings, RefusedAccounts, Sightings
from gateway.model import Account, Address, Protocol, Resource, Secret, Target
from gateway.ssh import probe as module
from gateway.ssh.authority import SshAuthority
from gateway.ssh.dial import SshDialer
from gateway.ssh.probe import SshProbe
from tests.leaks import nothing_left
from tests.pg.targets import Talk, no_descriptor_left, playing
from tests.support import asyncio_test

PATIENCE, SHORT = 10.0, 0.3  # seconds for what is to succeed, and for what is to time out
KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
WEB = Resource("web", Protocol.SSH, ())


def line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


class Server(asyncssh.SSHServer):
    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.seen.append("connected")

    def begin_auth(self, username: str) -> bool:
        self.seen.append(username)
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == "secret"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Address, list[str]]]:
    """A real server: where it is, and who came."""
    seen: list[str] = []
    server = await asyncssh.create_server(
        lambda: Server(seen), "127.0.0.1", 0, server_host_keys=[KEY]
    )
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1]), seen
    finally:
        server.close()
        await server.wait_closed()


def probe(tmp_path: Path) -> SshProbe:
    accounts = RefusedAccounts(lambda: 0.0, lambda spot, account, why: None)
    authority = SshAuthority.open(tmp_path)
    return SshProbe(SshDialer(authority, Sightings(lambda: 0.0), accounts, lambda: 0.0, 1.0))


def told(findings: Findings) -> list[tuple[str, bool | None]]:
    return [(step.name, step.ok) for step in findings.steps]


@asyncio_test
async def test_the_host_key_first_and_the_banner_from_then_on(tmp_path: Path) -> None:
    async with serving() as (address, seen):
        target, looking = Target(address, host_key=line(KEY)), probe(tmp_path)
        found = await looking(WEB, target, PATIENCE)
        assert (found.down, told(found)[-1]) == (None, ("host key", True))
        assert seen == ["connected", "gateway-health"]
        found = await looking(WEB, target, PATIENCE)
        assert told(found)[-1] == ("banner", True)
        assert found.steps[-1].said.startswith("SSH-2.0-AsyncSSH")
        assert "gateway-health" not in seen[2:]
        came = len(seen)
        heavy = Target(address, host_key=line(KEY), weight=2.0)
        for resource in (WEB, Resource("more", Protocol.SSH, ())):
            assert (await looking(resource, heavy, PATIENCE, fresh=False)) == found
        assert len(seen) == came, "it is left in peace"
        changed = Target(address, host_key=line(OTHER))  # the resource says something else now
        found = await looking(WEB, changed, PATIENCE)
        assert told(found)[-1] == ("host key", False)


@asyncio_test
async def test_somebody_else(tmp_path: Path) -> None:
    async with nothing_left(), serving() as (address, seen):
        target = Target(address, host_key=line(OTHER))
        found = await probe(tmp_path)(WEB, target, PATIENCE)
        assert found.down is not None
        assert found.down.startswith("host key: host key: ")
        assert found.hard
        assert "gateway-health" not in seen, "nobody is told who we are"


@asyncio_test
async def test_a_thorough_look_logs_in(tmp_path: Path) -> None:
    async with serving() as (address, seen):
        target, looking = Target(address, host_key=line(KEY)), probe(tmp_path)
        good, bad = (Account("deploy", Secret(word)) for word in (b"secret", b"wrong"))
        found = await looking.look(WEB, target, good, PATIENCE)
        assert told(found)[-3:] == [("banner", True), ("host key", True), ("log-in", True)]
        assert (found.down, found.strained) == (None, None)
        found = await looking.look(WEB, target, bad, PATIENCE)
        assert told(found)[-1] == ("log-in", False)
        assert (found.down, bool(found.strained)) == (None, True)
        found = await looking.look(WEB, target, None, PATIENCE)
        assert told(found)[-1] == ("host key", True)
        assert seen.count("deploy") == 2


@asyncio_test
async def test_what_is_no_ssh_server(tmp_path: Path) -> None:
    async def chatters(talk: Talk) -> None:
        await talk.say(b"HTTP/1.1 400 Bad Request\r\n" * 400)
        await talk.drain()

    async def stalls(talk: Talk) -> None:
        await talk.stall()

    async def hangs_up(talk: Talk) -> None:
        talk.wire.close()

    looking = probe(tmp_path)
    for script, said in (
        (chatters, "is no SSH server"),
        (stalls, "no answer in time"),
        (hangs_up, "closed the connection"),
    ):
        with no_descriptor_left():
            async with playing(script) as server:
                target = Target(server.address, host_key=line(KEY))
                found = await module._walk(target, SHORT, (module._banner,))
                assert found.down == f"banner: {said}"
                assert found.hard is (script is not stalls)
                found = await looking(WEB, target, SHORT)
                assert found.down is not None
                assert found.down.startswith("host key: ")


@asyncio_test
async def test_lines_before_the_version(tmp_path: Path) -> None:
    async def greets(talk: Talk) -> None:
        for part in (b"welcome\r\nSSH-1", b"9\r\nSSH-2.0-Te\xffst", b"ed\r\n"):
            await talk.say(part)
            await asyncio.sleep(0)
        await talk.drain()

    async with playing(greets) as server:
        found = await module._walk(Target(server.address), PATIENCE, (module._banner,))
    assert found.steps[-1].said == "SSH-2.0-Te\\xffsted"
