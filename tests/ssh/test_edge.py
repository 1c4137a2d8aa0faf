"""What clients ask for, how they are refused, and the connections inside a connection."""

from __future__ import annotations

import asyncio
import functools
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.contracts import Credentials
from gateway.errors import Gone
from gateway.identity.password import make_verifier
from gateway.model import Address
from gateway.routing import State
from gateway.ssh import edge, legs
from gateway.ssh import messages as m
from gateway.ssh.authority import SshAuthority
from gateway.ssh.edge import Doorman
from gateway.ssh.messages import string, uint32
from tests.ssh.doors import ALICE, Door, opened, until
from tests.ssh.raw import DISCONNECT, USERAUTH_SUCCESS, Heard, RawClient, userauth
from tests.support import asyncio_test

HINT = "name what you want: ssh USER#RESOURCE@GATEWAY, or ssh -J USER@GATEWAY ACCOUNT@RESOURCE"
DENIED = "access denied"
NO = m.REQUEST_FAILURE


def reason(heard: Heard) -> tuple[int, str]:
    """Code and words of a disconnect."""
    assert heard.kind == DISCONNECT
    code = int.from_bytes(heard.payload[1:5])
    length = int.from_bytes(heard.payload[5:9])
    return code, heard.payload[9 : 9 + length].decode()


# -- straight in ---------------------------------------------------------------------------

REFUSALS = {
    "bob#web": (legs.BY_APPLICATION, DENIED),
    "alice#nope": (legs.BY_APPLICATION, DENIED),
    "alice/root#web": (legs.BY_APPLICATION, DENIED),
    "alice/deploy": (legs.BY_APPLICATION, HINT),
    "alice#": (legs.PROTOCOL_ERROR, "malformed resource name"),
    "#web": (legs.PROTOCOL_ERROR, "malformed user name"),
    "alice/#web": (legs.PROTOCOL_ERROR, "malformed account name"),
    "alice#a#b": (legs.PROTOCOL_ERROR, "malformed resource name"),
}


@pytest.mark.parametrize("login", REFUSALS)
@asyncio_test
async def test_refusals(login: str, tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        door.everybody_has(ALICE)
        client = await door.raw()
        client.say(userauth(login, b"publickey", *client.signed(login, ALICE)))
        heard = await client.hear()
        if heard.kind == USERAUTH_SUCCESS:
            heard = await client.hear()
        code, words = reason(heard)
        said, _, quoted = words.partition(" (audit id ")
        assert (code, said) == REFUSALS[login]
        entries = door.house.entries()
        assert [entry["id"] for entry in entries] == ([quoted.rstrip(")")] if quoted else [])
        await door.told()


@asyncio_test
async def test_a_log_in_has_its_time(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority, house={"login_seconds": 0.1}) as door:
        client = await door.raw()
        client.say(userauth("alice#web", b"none"))
        said = await client.parting()
        (entry,) = door.house.entries()
        assert said == f"log-in took too long (audit id {entry['id']})"
        mute = door.knock()
        await door.told()
        assert mute.recv(100).startswith(b"SSH-2.0-Gateway\r\n")
        mute.close()


@asyncio_test
async def test_no_target_can_take_it(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        door.address_is(Address("127.0.0.1", 1))
        client = await door.raw()
        await client.logs_in("alice#web", ALICE)
        assert reason(await client.hear())[1].startswith("no target can take this session now (")
        await door.told()


@asyncio_test
async def test_a_gateway_that_drains(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        await door.house.live.drain(0)
        client = await door.raw()
        await client.logs_in("alice#web", ALICE)
        assert reason(await client.hear())[1].startswith("the gateway is shutting down (audit id ")
        await door.told()


@asyncio_test
async def test_a_client_that_goes_before_it_is_known() -> None:
    """Its name has come, and it leaves before anybody has looked it up."""
    doorman = Doorman(Door.__new__(Door))  # nothing of it is asked for
    doorman.leg = Leg()  # type: ignore[assignment]
    asking = asyncio.ensure_future(doorman.begin_auth("alice#web"))
    await asyncio.sleep(0)
    doorman.connection_lost(None)
    assert (await doorman.login()).user == "alice"
    with pytest.raises(Gone):
        await doorman.prove(Credentials("alice", make_verifier("pencil", b"s" * 16)))
    with pytest.raises(asyncssh.ConnectionLost):
        await asking


class Leg:
    """One that is told that it is over, and no more."""

    def over(self, error: Exception | None) -> None: ...


# -- host certificates ---------------------------------------------------------------------


@asyncio_test
async def test_host_certificates(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """For the names that were asked for; the same for an hour."""
    async with opened(tmp_path, shared_authority) as door:
        one = door.ssh.options(frozenset({"web"}))
        assert door.ssh.options(frozenset({"web"})) is one
        assert door.ssh.options(frozenset({"db"})) is not one


# -- through a connection ------------------------------------------------------------------


async def inside(
    outer: asyncssh.SSHClientConnection, host: str, user: str = "deploy", **options: Any
) -> asyncssh.SSHClientConnection:
    given = {"known_hosts": None, "config": None, "agent_path": None, "client_keys": None}
    return await asyncssh.connect(host, username=user, tunnel=outer, **{**given, **options})


@asyncio_test
async def test_sessions_inside_a_connection(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """Each with its own certificate and its own story; they end with what carries them."""
    ca = asyncssh.import_public_key(shared_authority.host_ca_line().partition(" * ")[2])
    async with opened(tmp_path, shared_authority) as door:
        outer = await door.client("alice")
        for host in ("web", "web.gw.test"):
            inner = await inside(outer, host, known_hosts=([], [ca], []))
            assert (await inner.run("exit 3")).exit_status == 3
        assert {info.user for info in door.house.live.infos()} == {"alice"}
        assert len(door.house.live) == 2
        outer.abort()
        await door.empty()


@pytest.mark.parametrize("host", ["nope", "nope.gw.test", "127.0.0.1", "gw.test", "", "we\x1bb"])
@asyncio_test
async def test_where_a_connection_does_not_lead(
    host: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await jumper(door)
        client.say(tcpip(0, host))
        heard = await client.hear()
        assert heard.kind == m.CHANNEL_OPEN_FAILURE
        assert int.from_bytes(heard.payload[5:9]) == m.PROHIBITED
        seen = door.seen()
        assert (seen.state, seen.latency, seen.open_sessions) == (State.UNKNOWN, None, 0)


async def jumper(door: Door) -> RawClient:
    """alice, on her way to somewhere."""
    client = await door.raw()
    await client.logs_in("alice", ALICE)
    return client


def tcpip(number: int, host: str) -> bytes:
    where = string(host.encode()) + uint32(22) + string(b"127.0.0.1") + uint32(1)
    return opening(number, b"direct-tcpip", where)


def opening(number: int, kind: bytes, rest: bytes = b"") -> bytes:
    head = string(kind) + uint32(number) + uint32(1 << 20) + uint32(32768)
    return bytes((m.CHANNEL_OPEN,)) + head + rest


ELSEWHERE = {
    "a shell": opening(0, b"session"),
    "a Unix socket": opening(
        0, b"direct-streamlocal@openssh.com", string(b"/run/x") + string(b"") + uint32(0)
    ),
    "a tunnel": opening(0, b"tun@openssh.com", uint32(1) + uint32(0)),
    "an agent": opening(0, b"auth-agent@openssh.com"),
    "a display": opening(0, b"x11", string(b"127.0.0.1") + uint32(1)),
    "something": opening(0, b"something@example.com"),
}


@pytest.mark.parametrize("case", ELSEWHERE)
@asyncio_test
async def test_a_connection_for_jumping_is_for_nothing_else(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await jumper(door)
        client.say(ELSEWHERE[case])
        heard = await client.hear()
        assert heard.kind == m.CHANNEL_OPEN_FAILURE
        if case == "a shell":
            assert HINT.encode() in heard.payload


@asyncio_test
async def test_global_requests_of_a_connection_for_jumping(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await jumper(door)
        for request, answer in (
            (string(b"tcpip-forward") + b"\x01" + string(b"127.0.0.1") + uint32(0), NO),
            (string(b"streamlocal-forward@openssh.com") + b"\x01" + string(b"/tmp/never"), NO),
            (string(b"something@example.com") + b"\x01" + bytes(1000), NO),
            (string(b"keepalive@openssh.com") + b"\x01", m.REQUEST_SUCCESS),
        ):
            client.say(bytes((m.GLOBAL_REQUEST,)) + request)
            assert (await client.hear()).kind == answer


@asyncio_test
async def test_a_limited_number_of_ways_lead_through(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await jumper(door)
        client.say(*(tcpip(number, "web") for number in range(1000)))
        kinds = [(await client.hear()).kind for _ in range(1000)]
        assert kinds.count(m.CHANNEL_OPEN_CONFIRMATION) == edge.MAX_HOPS
        client.abort()
        await until(lambda: not door.house.live._seats)


@pytest.mark.parametrize("name", ["root", "", "a/b", "deploy#web", "x" * 1000])
@asyncio_test
async def test_an_account_that_is_none(
    name: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        outer = await door.client("alice")
        with pytest.raises(asyncssh.Error):
            await runs(outer, name or "\u00ad")  # which is nothing, once it is prepared
        named = [entry["account"] for entry in door.house.entries() if "account" in entry]
        assert named == (["root"] if name == "root" else [])
        assert not door.house.live.infos()


async def runs(outer: asyncssh.SSHClientConnection, account: str) -> None:
    inner = await inside(outer, "web", user=account)
    await inner.run("exit 3")


@asyncio_test
async def test_who_may_no_more_goes_nowhere(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """Every connection inside is decided anew."""
    async with opened(tmp_path, shared_authority) as door:
        outer = await door.client("alice")
        inner = await inside(outer, "web")
        assert (await inner.run("exit 3")).exit_status == 3
        door.nobody_may()
        with pytest.raises(asyncssh.ChannelOpenError):
            await inside(outer, "web")


@asyncio_test
async def test_nobody_behind_a_connection(
    tmp_path: Path, shared_authority: SshAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is hung up on after a while, but not while something goes through."""
    monkeypatch.setattr(edge, "LINGER", 0.05)
    async with opened(tmp_path, shared_authority) as door:
        outer = await door.client("alice")
        inner = await inside(outer, "web")
        process = await inner.create_process("cat")
        await asyncio.sleep(0.3)
        process.stdin.write("still here\n")
        assert await process.stdout.readline() == "still here\n"
        inner.close()
        await asyncio.wait_for(outer.wait_closed(), 10)


WIDE = 0x7FFFFFFF  # bytes that a client says it has room for, and has not


async def carrier(door: Door) -> asyncssh.SSHClientConnection:
    """A client whose connection inside this one is full of what it does not read."""
    outer = await door.client("alice")
    outer.create_connection = functools.partial(outer.create_connection, window=WIDE)
    inner = await inside(outer, "web")
    process = await inner.create_process("flood", encoding=None, window=WIDE)
    await process.stdout.read(1)
    return outer


@asyncio_test
async def test_a_carrier_that_is_not_read_stops_what_it_carries(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """Whatever windows its channels have."""
    async with opened(tmp_path, shared_authority) as door:
        outer = await carrier(door)
        outer._transport.pause_reading()
        (_, target) = door.session().running._legs
        await until(lambda: target._reasons)
        (leg,) = [leg for leg in door.legs() if leg._carried]
        for _ in range(50):
            assert leg._transport.get_write_buffer_size() < legs.HIGH_WATER + 2 * legs.MAX_HELD
            await asyncio.sleep(0.001)
        outer._transport.resume_reading()
        await until(lambda: not target._reasons)


@asyncio_test
async def test_a_session_that_begins_where_nothing_is_read(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        outer = await carrier(door)
        (first,) = door.house.live.infos()
        door.target.slow.clear()
        await inside(outer, "web")
        await until(lambda: len(door.target.connections) == 2)
        outer._transport.pause_reading()
        (leg,) = [leg for leg in door.legs() if leg._carried]
        await until(lambda: leg._jams)
        door.target.slow.set()
        await until(lambda: len(door.house.live) == 2)
        (other,) = [info for info in door.house.live.infos() if info.id != first.id]
        session = door.house.live.find(other.id)
        assert session is not None
        assert session.running._legs[1]._reasons
        outer._transport.resume_reading()


@asyncio_test
async def test_the_source_is_that_of_the_carrier(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        outer = await door.client("alice", source=ip_address("203.0.113.7"))
        inner = await inside(outer, "web")
        await inner.run("exit 0")
        assert [info.source for info in door.house.live.infos()] == ["203.0.113.7"]
