"""The pump over real sockets: order, back-pressure, half-close, and its bounds."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.errors import NotRecorded
from gateway.pg.channel import CHUNK, Channel, PlainChannel
from gateway.pg.pump import Flow, Joint, Pump
from tests.pg.targets import tcp_pair, until
from tests.support import asyncio_test


class Owner:
    """Passes everything on, and remembers what it was told."""

    def __init__(self) -> None:
        self.hold = False
        self.refuse = False
        self.keep = False  # the joint, when the target is gone
        self.losses: list[bool] = []
        self.joint: Joint
        self.refusals: list[Exception] = []
        self.endings: list[Flow] = []
        self.done = asyncio.get_running_loop().create_future()

    def from_client(self, data: bytes) -> bytes:
        if self.refuse:
            raise NotRecorded("full")
        self.joint.forth.held = self.hold
        return data

    def from_target(self, data: bytes) -> bytes:
        return data

    def refused(self, error: Exception) -> None:
        self.refusals.append(error)
        self.joint.tell(b"no", last=True)

    def lost(self, *, reset: bool) -> bool:
        self.losses.append(reset)
        return self.keep

    def ended(self, flow: Flow) -> None:
        self.endings.append(flow)

    def over(self, broken: Channel | None) -> None:
        self.done.set_result(broken)


class Buffered(PlainChannel):
    """Reads ahead, as TLS may: of what it holds its socket does not know."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._held = b""

    def receive(self) -> bytes | None:
        if not self._held:
            data = super().receive()
            if not data:
                return data
            self._held = data
        part, self._held = self._held[:4], self._held[4:]
        return part

    def pending(self) -> bool:
        return bool(self._held)


@contextmanager
def joined() -> Iterator[tuple[Owner, socket.socket, socket.socket]]:
    """An owner, and the far ends of its client and its target."""
    loop = asyncio.get_running_loop()
    pump = Pump(loop)
    client, near_client = tcp_pair()
    target, near_target = tcp_pair()
    for sock in (client, near_client, target, near_target):
        sock.setblocking(False)
    owner = Owner()
    owner.joint = pump.join(PlainChannel(near_client), PlainChannel(near_target), owner)
    try:
        yield owner, client, target
    finally:
        owner.joint.close()
        pump.close()
        for sock in (client, target):
            sock.close()


async def received(sock: socket.socket, length: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < length:
        part = await loop.sock_recv(sock, length - len(data))
        if not part:
            break
        data += part
    return data


@asyncio_test
async def test_bytes_go_both_ways_and_ends_follow_them() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        await loop.sock_sendall(client, b"question")
        assert await received(target, 8) == b"question"
        client.shutdown(socket.SHUT_WR)
        assert await received(target, 1) == b""
        await loop.sock_sendall(target, b"answer")
        target.close()
        assert await received(client, 100) == b"answer"
        assert await owner.done is None
        assert owner.endings == [owner.joint.forth, owner.joint.back]


@asyncio_test
async def test_a_side_that_does_not_read_stops_the_other() -> None:
    loop = asyncio.get_running_loop()
    data = bytes(range(256)) * 40_000
    with joined() as (owner, client, target):
        sending = asyncio.ensure_future(loop.sock_sendall(target, data))
        await until(lambda: owner.joint.back.stalled)
        assert len(owner.joint.back.rest) <= CHUNK
        got = await received(client, len(data))
        await sending
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert owner.joint.back.carried == len(data)


@asyncio_test
async def test_what_is_held_goes_when_it_is_released_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        owner.hold = True
        await loop.sock_sendall(client, b"one")
        await until(lambda: owner.joint.forth.held)
        await loop.sock_sendall(client, b"two")
        with pytest.raises(BlockingIOError):
            target.recv(1)
        owner.hold = False
        owner.joint.release()
        assert await received(target, 6) == b"onetwo"


@asyncio_test
async def test_what_is_refused_is_never_sent() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        owner.refuse = True
        await loop.sock_sendall(client, b"secret")
        assert await received(client, 2) == b"no"
        client.close()
        owner.joint.close()
        assert await received(target, 1) == b""
        assert [type(refusal) for refusal in owner.refusals] == [NotRecorded]


@pytest.mark.parametrize("first", ["client", "target"])
@pytest.mark.parametrize("speaks", [False, True])
@asyncio_test
async def test_a_reset_ends_both_sides_and_names_the_one(first: str, speaks: bool) -> None:
    """Whether it is noticed by reading from it or by writing to it."""
    with joined() as (owner, client, target):
        gone, other = (client, target) if first == "client" else (target, client)
        near = (owner.joint.forth if first == "client" else owner.joint.back).source
        if speaks:
            other.send(b"hello")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        assert await owner.done is near
        assert owner.joint.dead
        assert await received(other, 100) == b""


@asyncio_test
async def test_a_stalled_flow_whose_source_hangs_up_does_not_spin() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, _, target):
        data = b"x" * 10_000_000
        sending = asyncio.ensure_future(loop.sock_sendall(target, data))
        await until(lambda: owner.joint.back.stalled)
        sending.cancel()
        target.close()
        before = owner.joint.pump.wake_ups
        for _ in range(10):
            await asyncio.sleep(0)
        assert owner.joint.pump.wake_ups == before
        assert not owner.done.done()


@contextmanager
def several(pump: Pump, *owners: Owner) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Each owner's joint with a client that reads ahead; the far ends of both sides."""
    ends = []
    for owner in owners:
        (client, near_client), (target, near_target) = tcp_pair(), tcp_pair()
        for sock in (client, near_client, target, near_target):
            sock.setblocking(False)
        owner.joint = pump.join(Buffered(near_client), PlainChannel(near_target), owner)
        ends.append((client, target))
    try:
        yield ends
    finally:
        for owner, (client, target) in zip(owners, ends, strict=True):
            owner.joint.close()
            client.close()
            target.close()


@asyncio_test
async def test_what_was_read_ahead_goes_on_without_an_event() -> None:
    pump = Pump(asyncio.get_running_loop())
    data = bytes(range(256)) * 40
    with several(pump, Owner()) as [(client, target)]:
        client.send(data)
        assert await received(target, len(data)) == data
    pump.close()


@asyncio_test
async def test_an_owner_that_fails_holds_nobody_up() -> None:
    class Broken(Owner):
        def from_client(self, data: bytes) -> bytes:
            if data != b"good":
                raise ZeroDivisionError
            return data

        def refused(self, error: Exception) -> None:
            super().refused(error)
            raise error

    loop = asyncio.get_running_loop()
    failures: list[dict[str, object]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, told: failures.append(told))
    pump = Pump(loop)
    broken, good = Broken(), Owner()
    data = bytes(range(256)) * 40
    with several(pump, broken, good) as [(client, _), (other, target)]:
        client.send(b"goodbad!good")
        other.send(data)
        assert await received(target, len(data)) == data
        assert [type(refusal) for refusal in broken.refusals] == [ZeroDivisionError]
    assert len(failures) == 1
    pump.close()
    loop.set_exception_handler(before)


@asyncio_test
async def test_what_we_say_last_comes_behind_what_waits_and_nothing_after() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        data = b"x" * 10_000_000
        sending = asyncio.ensure_future(loop.sock_sendall(target, data))
        await until(lambda: owner.joint.back.stalled)
        owner.joint.tell(b"bye", last=True)
        got = await received(client, len(data) + 10)
        assert got.startswith(b"x" * CHUNK)
        assert got.lstrip(b"x") == b"bye"
        sending.cancel()


@asyncio_test
async def test_the_longest_wake_up_is_told_once() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        await loop.sock_sendall(client, b"x")
        await received(target, 1)
        pump = owner.joint.pump
        assert len(pump) == 1
        assert pump.take_lag() > 0
        assert pump.take_lag() == 0


@pytest.mark.parametrize("how", ["ends", "breaks"])
@asyncio_test
async def test_a_joint_that_is_kept_goes_on_with_another_target(how: str) -> None:
    """What the client says meanwhile stays where it is, and what waits for it is sent."""
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        owner.keep = True
        if how == "breaks":
            linger = struct.pack("ii", 1, 0)
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        owner.joint.pause()
        target.close()
        await until(lambda: owner.losses)
        assert owner.losses == [how == "breaks"]
        assert len(owner.joint.pump) == 1
        await loop.sock_sendall(client, b"question")
        owner.joint.tell(b"wait")
        assert await received(client, 4) == b"wait"
        other, near = tcp_pair()
        other.setblocking(False)
        near.setblocking(False)
        owner.joint.swap(PlainChannel(near))
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        owner.joint.resume()
        assert await received(other, 8) == b"question"
        await loop.sock_sendall(other, b"answer")
        assert await received(client, 6) == b"answer"
        assert owner.endings == []
        other.close()
        owner.keep = False
        client.close()
        await owner.done


@asyncio_test
async def test_a_target_is_left_for_another_without_a_break() -> None:
    loop = asyncio.get_running_loop()
    with joined() as (owner, client, target):
        other, near = tcp_pair()
        for sock in (other, near):
            sock.setblocking(False)
        owner.joint.pause()
        owner.joint.swap(PlainChannel(near))
        owner.joint.resume()
        assert await received(target, 1) == b""
        await loop.sock_sendall(client, b"question")
        assert await received(other, 8) == b"question"
        assert owner.losses == []
        other.close()


@asyncio_test
async def test_a_joint_without_a_target_can_be_closed() -> None:
    with joined() as (owner, client, target):
        owner.keep = True
        owner.joint.pause()
        target.close()
        await until(lambda: owner.losses)
        owner.joint.close()
        assert await received(client, 1) == b""
        assert len(owner.joint.pump) == 0
