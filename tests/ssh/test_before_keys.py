"""What strangers send before any keys are exchanged: each is hung up on, and nothing grows."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from gateway.ssh.authority import SshAuthority
from gateway.ssh.messages import string, uint32
from tests.ssh.doors import opened
from tests.ssh.raw import KEXINIT, service
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
