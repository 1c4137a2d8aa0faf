"""What goes over the wire beneath the connection protocol: garbage, floods, keys, stalled peers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from gateway.model import End, EndReason
from gateway.ssh import legs
from gateway.ssh import messages as m
from gateway.ssh.authority import SshAuthority
from gateway.ssh.messages import string, uint32
from tests.ssh.doors import ALICE, flooded, opened, until
from tests.ssh.raw import DISCONNECT, KEXINIT, UNIMPLEMENTED, RawClient, service, userauth
from tests.support import asyncio_test

BANNER = b"SSH-2.0-Gateway\r\n"
HELLO = b"SSH-2.0-peer\r\n"


def packet(payload: bytes, length: int | None = None) -> bytes:
    """Without encryption; *length* is a lie."""
    padding = 8 - (5 + len(payload)) % 8 + 8
    told = 1 + len(payload) + padding if length is None else length
    return struct.pack(">IB", told, padding) + payload + bytes(padding)


async def answer(sock: socket.socket, *said: bytes) -> bytes:
    """All that comes back, until the other side has closed."""
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    for part in said:
        writer.write(part)
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            return await reader.read(-1)
    except ConnectionError:
        return b""  # it was closed with something unread
    finally:
        writer.close()


# -- before keys ---------------------------------------------------------------------------

VERSIONS = {
    "an empty line": b"\r\n",
    "another protocol": b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "another version": b"SSH-1.5-old\r\n",
    "a long version": b"SSH-2.0-" + b"x" * 300 + b"\r\n",
    "a line without end": b"x" * 9000,
    "zeroes": bytes(9000),
    "a version that is no text": b"SSH-2.0-\xff\xfe\r\n",
    "noise": os.urandom(9000) + b"\n",
    "words before it": b"hello\r\n" + HELLO,
}


@pytest.mark.parametrize("case", VERSIONS)
@asyncio_test
async def test_garbage_instead_of_a_version(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        said = VERSIONS[case]
        for pieces in ([said], [said[i : i + 1] for i in range(min(len(said), 400))]):
            if len(pieces) == 1 or b"\n" in b"".join(pieces):
                assert len(await answer(door.knock(), *pieces)) < 2000
        await door.told()


LENGTHS = [0, 1, 3, 4, 6, 11, (256 << 10) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


@pytest.mark.parametrize("length", LENGTHS)
@asyncio_test
async def test_packet_lengths(length: int, tmp_path: Path, shared_authority: SshAuthority) -> None:
    """Refused at once, without waiting for what they announce."""
    async with opened(tmp_path, shared_authority) as door:
        said = await answer(door.knock(), HELLO + packet(b"\x02" + uint32(0), length) + bytes(64))
        assert said.startswith(BANNER) or not said
        await door.told()


def kexinit(*lists: bytes, tail: bytes = bytes(5)) -> bytes:
    return bytes((KEXINIT,)) + bytes(16) + b"".join(map(string, lists)) + tail


EARLY = {
    "an empty packet": b"",
    "a torn KEXINIT": bytes((KEXINIT,)) + bytes(16) + uint32(1 << 30),
    "an empty KEXINIT": bytes((KEXINIT,)),
    "a KEXINIT with nothing in it": kexinit(*[b""] * 10),
    "a KEXINIT of noise": bytes((KEXINIT,)) + os.urandom(500),
    "a KEXINIT with a tail": kexinit(*[b"none"] * 10, tail=bytes(9)),
    "a KEXINIT with names that are no text": kexinit(*[b"\xff\xfe"] * 10),
    "a huge KEXINIT": kexinit(*[b"x," * 12_000] * 10),
    "a service request": service(b"ssh-userauth"),
    "a log-in": b"\x32" + string(b"alice") + string(b"ssh-connection") + string(b"none"),
    "a channel": b"\x5a" + string(b"session") + uint32(0) * 3,
    "new keys": b"\x15",
    "a key exchange": b"\x1e" + string(bytes(32)),
    "an unknown message": b"\xff",
}


@pytest.mark.parametrize("case", EARLY)
@asyncio_test
async def test_what_has_no_place_before_keys(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        said = await answer(door.knock(), HELLO + packet(EARLY[case]), packet(EARLY[case]))
        assert said.startswith(BANNER) or not said
        await door.told()


SHARES = {
    "zero": bytes(32),
    "one": (1).to_bytes(32, "little"),
    "short": b"x",
    "nothing": b"",
    "long": bytes(100_000),
}


@pytest.mark.parametrize("case", SHARES)
@asyncio_test
async def test_bad_shares_of_a_key(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """Points of small order, and what is no point."""
    async with opened(tmp_path, shared_authority) as door:
        names = [b"curve25519-sha256", b"ssh-ed25519", *[b"aes128-ctr"] * 2]
        names += [*[b"hmac-sha2-256-etm@openssh.com"] * 2, b"none", b"none", b"", b""]
        share = b"\x1e" + string(SHARES[case])
        said = await answer(door.knock(), HELLO + packet(kexinit(*names)) + packet(share))
        assert said.startswith(BANNER)
        assert b"ssh-ed25519" in said  # our KEXINIT: what follows is our answer to the share
        await door.told()


# -- beneath encryption --------------------------------------------------------------------


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
        assert not door.sightings.seen("web", [door.address])[door.address].open_sessions


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
