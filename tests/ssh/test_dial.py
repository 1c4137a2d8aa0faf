"""Targets that follow a script, most of them hostile: each costs its log-in, and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import SSHPacket
from attrs import evolve

from gateway.errors import Unreachable
from gateway.health import Sightings
from gateway.model import (
    Account,
    Address,
    Ask,
    Grant,
    Identity,
    Protocol,
    Resource,
    Secret,
    Target,
    Terms,
)
from gateway.routing import Seen, State
from gateway.ssh import messages as m
from gateway.ssh.authority import SshAuthority
from gateway.ssh.dial import SshDialer, SshUpstream
from gateway.ssh.messages import string, uint32
from tests.leaks import nothing_left
from tests.ssh.doors import accounts, no_errors, public
from tests.ssh.raw import INFO_REQUEST, PK_OK, RawServer, disconnect
from tests.ssh.targets import Script, nobody, playing, saying
from tests.support import asyncio_test

MINTED = Account("deploy", minted=True)
PASSWORD = Account("deploy", password=Secret(b"target secret"))
OTHER = asyncssh.generate_private_key("ssh-ed25519")
SESSION = "0123456789abcdef"


class Dialling:
    """A dialer, and what it has seen."""

    def __init__(self, authority: SshAuthority, patience: float) -> None:
        self.now = 1000.0
        self.sightings = Sightings(lambda: self.now)
        self._dialer = SshDialer(authority, self.sightings, accounts(), time.time, patience)

    async def dial(self, account: Account, *targets: Target) -> SshUpstream:
        return await self._dialer.dial(granted(account, *targets), SESSION)

    def seen(self, target: Target) -> Seen:
        return self.sightings.seen(granted(PASSWORD, target).resource)[target.address]

    async def fails(self, account: Account, *targets: Target) -> str:
        """What the audit log would say."""
        with pytest.raises(Unreachable) as failed:
            await self.dial(account, *targets)
        return failed.value.detail


def granted(account: Account, *targets: Target) -> Grant:
    web = Resource("web", Protocol.SSH, targets, MappingProxyType({account.name: account}))
    ask = Ask(Protocol.SSH, "alice", "web", ip_address("127.0.0.1"))
    return Grant(ask, Identity("alice", "publickey"), web, account, Terms(), "b", "r")


@asynccontextmanager
async def dialling(authority: SshAuthority, patience: float = 5) -> AsyncIterator[Dialling]:
    async with nothing_left(), no_errors(), asyncio.timeout(30):
        yield Dialling(authority, patience)


async def lets_in(server: RawServer) -> None:
    """An honest target that takes keys."""
    while (await server.asked())[1] != b"publickey":
        server.refuse(b"publickey")
    offer = SSHPacket(server.fields)
    assert not offer.get_boolean()
    server.say(bytes((PK_OK,)) + string(offer.get_string()) + string(offer.get_string()))
    await server.asked()
    server.say(b"\x34", bytes((m.GLOBAL_REQUEST,)) + string(b"hostkeys-00@openssh.com") + b"\0")


# -- who lets us in ------------------------------------------------------------------------


@asyncio_test
async def test_a_certificate_that_is_minted(shared_authority: SshAuthority) -> None:
    async with dialling(shared_authority) as dialer, playing(lets_in) as target:
        upstream = await dialer.dial(MINTED, target)
        assert upstream.address == str(target.address)
        seen = dialer.seen(target)
        assert (seen.state, seen.open_sessions) == (State.UP, 1)
        upstream.abort()
        assert dialer.seen(target).open_sessions == 0


@pytest.mark.parametrize("method", [b"password", b"keyboard-interactive"])
@asyncio_test
async def test_a_password(method: bytes, shared_authority: SshAuthority) -> None:
    heard: list[bytes] = []

    async def script(server: RawServer) -> None:
        while (await server.asked())[1] != method:
            server.refuse(method)
        if method == b"keyboard-interactive":
            server.say(question(b"Password: "))
            heard.append((await server.hear()).payload)
        server.say(b"\x34")

    async with dialling(shared_authority) as dialer, playing(script) as target:
        upstream = await dialer.dial(PASSWORD, target)
        assert all(answer.endswith(string(b"target secret")) for answer in heard)
        upstream.abort()


def question(*prompts: bytes) -> bytes:
    asked = b"".join(string(prompt) + b"\0" for prompt in prompts)
    return bytes((INFO_REQUEST,)) + string(b"") * 3 + uint32(len(prompts)) + asked


@asyncio_test
async def test_the_next_one_takes_over(shared_authority: SshAuthority) -> None:
    async with (
        dialling(shared_authority, patience=0.3) as dialer,
        playing(lets_in) as good,
        saying(stays=True) as mute,
        saying(b"SSH-2.0-\r\n") as short,
    ):
        for _ in range(5):  # in whatever order
            dialer.now += 100
            upstream = await dialer.dial(MINTED, nobody(), mute, good, short)
            assert upstream.target == good.address
            upstream.abort()


# -- who does not --------------------------------------------------------------------------


@asyncio_test
async def test_nobody_there(shared_authority: SshAuthority) -> None:
    async with dialling(shared_authority) as dialer:
        target = nobody()
        assert "refused" in await dialer.fails(MINTED, target)
        assert dialer.seen(target).state is State.DOWN
        assert await dialer.fails(MINTED) == "the resource has no targets"


@asyncio_test
async def test_another_host_key(shared_authority: SshAuthority) -> None:
    """Nothing is told to whoever has it, least of all a password."""
    asked: list[object] = []

    async def script(server: RawServer) -> None:
        asked.append(await server.asked())

    async with dialling(shared_authority) as dialer, playing(script, key=OTHER) as target:
        assert "host key" in await dialer.fails(PASSWORD, target)
        assert asked == []


@asyncio_test
async def test_a_target_without_a_key_is_nobody(shared_authority: SshAuthority) -> None:
    """Even if that should ever come to be: not to know a key is not to trust all."""
    async with dialling(shared_authority) as dialer, playing(lets_in) as target:
        assert "host key" in await dialer.fails(MINTED, evolve(target, host_key=None))


async def refuses(server: RawServer) -> None:
    while True:
        await server.asked()
        server.refuse(b"publickey", b"password", b"keyboard-interactive")


async def asks_for_more(server: RawServer) -> None:
    """The proof was good, and it is not enough."""
    while True:
        await server.asked()
        server.say(b"\x33" + string(b"publickey") + b"\x01")


@pytest.mark.parametrize("account", [MINTED, PASSWORD], ids=["certificate", "password"])
@pytest.mark.parametrize("script", [refuses, asks_for_more])
@asyncio_test
async def test_a_target_that_refuses_the_account(
    script: Script, account: Account, shared_authority: SshAuthority
) -> None:
    """It works, so that others may be sent there."""
    async with dialling(shared_authority) as dialer, playing(script) as target:
        assert "refuses the account" in await dialer.fails(account, target)
        assert dialer.seen(target).state is not State.DOWN


async def lets_anybody_in(server: RawServer) -> None:
    """As one does who wants to hear what is said to another."""
    await server.asked()
    server.say(b"\x34")


async def asks_nothing(server: RawServer) -> None:
    while (await server.asked())[1] != b"keyboard-interactive":
        server.refuse(b"keyboard-interactive")
    server.say(question())
    await server.hear()
    server.say(b"\x34")


async def asks_something_else(server: RawServer) -> None:
    while (await server.asked())[1] != b"keyboard-interactive":
        server.refuse(b"keyboard-interactive")
    server.say(question(b"PIN of the vault: "))
    assert b"target secret" not in (await server.hear()).payload
    server.refuse()


async def wants_a_new_password(server: RawServer) -> None:
    while (await server.asked())[1] != b"password":
        server.refuse(b"password")
    server.say(b"\x3c" + string(b"it has expired") + string(b""))
    await server.asked()
    server.refuse()


async def succeeds_unasked(server: RawServer) -> None:
    server.say(b"\x34")


async def opens_a_channel(server: RawServer) -> None:
    await server.asked()
    server.say(b"\x5a" + string(b"session") + uint32(0) * 3)


async def says_goodbye(server: RawServer) -> None:
    await server.asked()
    server.say(disconnect(b"no more \x1b[31mroom"))


async def tears_a_message(server: RawServer) -> None:
    await server.asked()
    server.say(b"\x33" + uint32(1 << 31))


async def asks_for_a_log_in(server: RawServer) -> None:
    await server.asked()
    server.say(b"\x32" + string(b"root") + string(b"ssh-connection") + string(b"none"))


async def prints_banners(server: RawServer) -> None:
    await server.asked()
    for _ in range(100):
        server.say(b"\x35" + string(b"\x1b[2J" * 5000) + string(b""))
    server.say(b"\x35" + string(b"\xff\xfe") + string(b""))


HOSTILE = [
    lets_anybody_in,
    asks_nothing,
    asks_something_else,
    wants_a_new_password,
    succeeds_unasked,
    opens_a_channel,
    says_goodbye,
    tears_a_message,
    asks_for_a_log_in,
    prints_banners,
]


@pytest.mark.parametrize("script", HOSTILE)
@asyncio_test
async def test_hostile_targets(script: Script, shared_authority: SshAuthority) -> None:
    async with dialling(shared_authority) as dialer, playing(script) as target:
        said = await dialer.fails(PASSWORD, target)
        assert said.startswith(f"{target.address}: ")
        assert "target secret" not in said


GARBAGE: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "zeroes": (bytes(10_000),),
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
    "an old version": (b"SSH-1.5-old\r\n",),
    "lines without end": (b"hello\r\n" * 2000,),
    "a line without end": (b"x" * 20_000,),
    "a version that is no text": (b"SSH-2.0-\xff\xfe\r\n",),
    "a long version": (b"SSH-2.0-" + b"x" * 1000 + b"\r\n",),
    "a length": (b"SSH-2.0-x\r\n", b"\xff" * 64),
    "a torn KEXINIT": (b"SSH-2.0-x\r\n", b"\0\0\0\x1c\x0a\x14" + bytes(40)),
}


@pytest.mark.parametrize("case", GARBAGE)
@pytest.mark.parametrize("stays", [False, True])
@asyncio_test
async def test_garbage(case: str, stays: bool, shared_authority: SshAuthority) -> None:
    async with (
        dialling(shared_authority, patience=0.3) as dialer,
        saying(*GARBAGE[case], stays=stays) as target,
    ):
        assert (await dialer.fails(MINTED, target)).startswith(f"{target.address}: ")
        assert dialer.seen(target).state is State.DOWN


@asyncio_test
async def test_a_target_that_stalls(shared_authority: SshAuthority) -> None:
    """At each step of a log-in; it has its time, and no more."""

    async def stalls(server: RawServer) -> None:
        await server.asked()

    async with (
        dialling(shared_authority, patience=0.2) as dialer,
        playing(stalls) as target,
        saying(b"SSH-2.0-x\r\n", stays=True) as mute,
    ):
        for each in (target, mute):
            assert await dialer.fails(MINTED, each) == f"{each.address}: no answer in time"


@asyncio_test
async def test_a_dialler_that_is_given_up(shared_authority: SshAuthority) -> None:
    """Nobody waits for the log-in any more: its socket is closed."""
    there = asyncio.Event()

    async def stalls(server: RawServer) -> None:
        await server.asked()
        there.set()

    async with dialling(shared_authority) as dialer, playing(stalls) as target:
        task = asyncio.ensure_future(dialer.dial(MINTED, target))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@asyncio_test
async def test_nothing_of_the_daemons_own_is_used(
    shared_authority: SshAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its keys nor whom it trusts, wherever they lie around."""
    home = tmp_path / ".ssh"
    home.mkdir()
    OTHER.write_private_key(str(home / "id_ed25519"))
    (home / "known_hosts").write_text(f"* {public(OTHER)}\n")
    (home / "config").write_text("NoSuchOption yes\n")
    (home / "ca-bundle.crt").write_text("no certificate\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    methods: list[bytes] = []

    async def script(server: RawServer) -> None:
        while True:
            methods.append((await server.asked())[1])
            server.refuse(b"publickey", b"password")

    async with dialling(shared_authority) as dialer, playing(script) as target:
        assert "refuses the account" in await dialer.fails(PASSWORD, target)
        assert methods == [b"none", b"password"]
    async with dialling(shared_authority) as dialer, playing(script, key=OTHER) as target:
        assert "host key" in await dialer.fails(PASSWORD, target)


def test_an_upstream_shows_no_secret(shared_authority: SshAuthority) -> None:
    any_leg: Any = None
    upstream = SshUpstream(any_leg, Address("db", 22), lambda: None)
    assert "release" not in repr(upstream)
