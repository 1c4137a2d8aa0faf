"""Beneath the connection protocol: flipped bits, floods, keys that change, peers that stall."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.model import End, EndReason
from gateway.ssh import legs
from gateway.ssh import messages as m
from gateway.ssh.authority import SshAuthority
from gateway.ssh.messages import string, uint32
from tests.ssh.doors import ALICE, flooded, opened, until
from tests.ssh.raw import DISCONNECT, UNIMPLEMENTED, RawClient, service, userauth
from tests.support import asyncio_test


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-ctr"])
@asyncio_test
async def test_flipped_bits(cipher: str, tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        for at in (0, 3, 7, 20, -1):
            client = await door.raw(encryption_algs=[cipher])
            send, client._send = client._send, lambda data: None
            sent: list[bytes] = []
            client._send = sent.append
            client.say(service(b"ssh-userauth"))
            data = bytearray(b"".join(sent) + bytes(300_000))
            data[at] ^= 0x40
            send(bytes(data))
            await asyncio.wait_for(client.gone.wait(), 10)
        await door.told()


@asyncio_test
async def test_a_flood_leaves_others_their_turn(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        client.say(*(b"\x02" + string(b"") for _ in range(20_000)))
        task = asyncio.ensure_future(others())
        await client.logs_in("alice#web", ALICE)  # all is looked at, in order
        task.cancel()
        assert turns > 20_000 / 3 / legs.TURN


@asyncio_test
async def test_who_asks_and_does_not_read_is_hung_up_on(
    tmp_path: Path, shared_authority: SshAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legs, "MAX_UNSENT", 100_000)
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        client._transport.pause_reading()
        while not client._transport.is_closing():
            client.say(*(b"\x0a" for _ in range(1000)))  # each is answered: not implemented
            await asyncio.sleep(0)
            if door.stories[0].done():
                break
        client.abort()
        await door.told()


# -- a session's bytes ---------------------------------------------------------------------


@asyncio_test
async def test_what_came_before_the_target_was_there(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """A channel that is asked for in the same breath as the log-in is opened all the same."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        client.say(
            log_in(client),
            b"\x5a" + string(b"session") + uint32(7) + uint32(1000) + uint32(1000),
        )
        kinds = [(await client.hear()).kind for _ in range(2)]
        assert kinds == [52, m.CHANNEL_OPEN_CONFIRMATION]


def log_in(client: RawClient) -> bytes:
    return userauth("alice#web", b"publickey", *client.signed("alice#web", ALICE))


@pytest.mark.parametrize("who", ["client", "target", "both"])
@asyncio_test
async def test_keys_that_are_exchanged_all_the_time(
    who: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    often = {"rekey_bytes": 50_000}
    target = often if who != "client" else {}
    async with opened(tmp_path, shared_authority, **target) as door:
        client = await door.client(**(often if who != "target" else {}))
        data = os.urandom(2_000_000)
        done = await client.run("cat", input=data, encoding=None)
        assert done.stdout == data
        client.close()
        await client.wait_closed()


@asyncio_test
async def test_our_own_exchange_of_keys(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """What waits for it is sent in its order, and the other side stands still meanwhile."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.client()
        process = await client.create_process("cat", encoding=None)
        for leg in door.session().running._legs:
            leg._rekey_bytes = 30_000
        data = os.urandom(1_000_000)
        process.stdin.write(data)
        process.stdin.write_eof()
        assert await process.stdout.read() == data
        client.close()
        await client.wait_closed()


@asyncio_test
async def test_an_exchange_of_keys_that_does_not_end(
    tmp_path: Path, shared_authority: SshAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's flood waits; what the client goes on to ask for is too much in the end."""
    monkeypatch.setattr(legs, "MAX_UNSENT", 1_000_000)
    async with opened(tmp_path, shared_authority) as door:
        client, channel = await flooded(door)
        client.deaf = True
        client._send_kexinit()
        (leg, other) = door.session().running._legs
        await until(lambda: other._reasons)
        assert len(leg._deferred_packets) < 1000
        client._kex_complete = True  # it says more than it may
        denied = m.uint32(channel) + string(b"env") + b"\x01" + string(b"X") + string(b"y")
        client.say(*(bytes((m.CHANNEL_REQUEST,)) + denied for _ in range(5000)))
        await asyncio.wait_for(client.gone.wait(), 10)
        await door.empty()
        await until(other.is_closed)
        (ended,) = door.house.ended
        assert ended.reason == "protocol violation: client: the key exchange does not end"


@asyncio_test
async def test_a_client_that_never_reads(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """The target is not read any more; when the client reads again, all goes on."""
    async with opened(tmp_path, shared_authority) as door:
        client, _ = await flooded(door)
        client._transport.pause_reading()
        (leg, other) = door.session().running._legs
        await until(lambda: other._reasons)
        for _ in range(50):
            assert leg._transport.get_write_buffer_size() < legs.HIGH_WATER + 2 * legs.MAX_HELD
            await asyncio.sleep(0.001)
        client._transport.resume_reading()
        await until(lambda: not other._reasons)
        before = door.target.flooded
        await until(lambda: door.target.flooded > before + 3_000_000)


@asyncio_test
async def test_a_slow_client_hears_all_that_a_target_said_before_it_went(
    tmp_path: Path, shared_authority: SshAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legs, "PARTING", 0.05)
    async with opened(tmp_path, shared_authority) as door:
        client, _ = await flooded(door)
        client._transport.pause_reading()
        (leg, other) = door.session().running._legs
        await until(lambda: other._reasons)
        door.target.connections[0].abort()
        while not client.gone.is_set():
            await sips(client, 0.02)
        assert door.house.ended[0].reason.startswith("target closed")
        assert leg.is_closed()
        assert (await client.parting()).startswith("the target closed the connection")


class Clock:
    """A loop whose one timer a test lets run out."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, due: Callable[[], None]) -> None:
        self.due = due


class Transport:
    """One of which a test says how much is unsent; ``heard`` is what it was told."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.heard: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.heard.append(name)


@asyncio_test
async def test_how_long_a_peer_is_waited_for(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """As long as it goes on reading, but not for ever; and whatever it says is not kept."""
    async with opened(tmp_path, shared_authority) as door:
        for sizes, seconds in (([100, 60, 60], 1.0), ([100, 0], 1.0), ([9, 8, 7, 6, 5, 4], 3.0)):
            await door.client()
            leg = door.edges[-1]._leg
            mine = leg._loop, leg._transport
            leg._loop, leg._transport = clock, transport = Clock(), Transport(sizes.pop(0))
            leg.hold("a test", True)
            leg.part(legs.BY_APPLICATION, "goodbye")
            assert transport.heard == ["pause_reading", "resume_reading", "write", "write_eof"]
            while sizes:
                assert "abort" not in transport.heard
                transport.unsent = sizes.pop(0)
                clock.now += seconds
                clock.due()
                if clock.now > legs.SLOW:
                    break
            assert transport.heard[-1] == "abort"
            leg._loop, leg._transport = mine


async def sips(client: RawClient, rest: float) -> None:
    """Reads a little, and rests."""
    transport = client._transport
    if transport is not None:
        transport.resume_reading()
        await asyncio.sleep(0.001)
        transport.pause_reading()
    await asyncio.sleep(rest)


@asyncio_test
async def test_a_target_that_never_reads(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        await client.logs_in("alice#web", ALICE)
        client.say(b"\x5a" + string(b"session") + uint32(0) + uint32(1000) + uint32(1000))
        await client.hear()
        (leg, other) = door.session().running._legs
        (accepted,) = door.target.connections
        accepted._transport.pause_reading()
        data = bytes((m.CHANNEL_DATA,)) + uint32(0) + string(bytes(30_000))
        for _ in range(1000):  # more than any window, too
            client.say(data)
        await until(lambda: leg._reasons)
        assert other._transport.get_write_buffer_size() < legs.HIGH_WATER + 2 * legs.MAX_HELD
        door.session().running.end(End(EndReason.KILLED))
        await until(other.is_closed)  # it is not waited for


@asyncio_test
async def test_a_client_that_has_gone_when_the_target_is_there(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """Its session ends as soon as it begins."""
    async with opened(tmp_path, shared_authority) as door:
        door.target.slow = asyncio.Event()
        client = await door.raw()
        client.say(log_in(client))
        assert (await client.hear()).kind == 52
        await until(lambda: door.target.connections)
        client.abort()
        for _ in range(20):
            await asyncio.sleep(0.001)
        door.target.slow.set()
        await door.told()
        await door.empty()
        assert [info.reason for info in door.house.ended] == ["client closed"]
        assert not door.seen().open_sessions


@asyncio_test
async def test_messages_of_the_transport_layer_pass_by_the_relay(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        await client.logs_in("alice#web", ALICE)
        client.say(b"\x02" + string(b"x"), b"\x04\x00" + string(b"x") + string(b""), b"\x0a")
        assert (await client.hear()).kind == UNIMPLEMENTED
        client.say(b"\xc0")
        assert (await client.hear()).kind == DISCONNECT
