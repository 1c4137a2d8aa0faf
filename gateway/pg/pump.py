"""Carries the bytes of every spliced session: receive, inspect, send at once.

One object a process. Its own epoll is a single descriptor in the event loop, so a wake-up
of the loop is paid once for all sessions that are ready, and each wake-up goes on until
nothing is ready or its budget is used up. What the other side cannot take is kept, and its
source is not read again until it is gone: memory a session is bounded by one chunk a
direction.

Knows nothing of PostgreSQL: what is in the bytes is the business of each flow's
``inspect``, which is called before they are sent.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from gateway.pg.channel import Channel

BUDGET = 64  # rounds a wake-up before other work of the loop has its turn


class Owner(Protocol):
    """Whoever understands the bytes of one session."""

    def from_client(self, data: bytes) -> bytes:
        """Sees bytes before they are sent, and says what to send.

        To hold them back, set the flow's ``held`` and call :meth:`Joint.release` later.

        Whatever it raises, *data* is not sent at all; comes back as :meth:`refused`.
        """
        ...

    def from_target(self, data: bytes) -> bytes: ...

    def refused(self, error: Exception) -> None:
        """What came was refused; the joint goes on until it is closed."""
        ...

    def lost(self, *, reset: bool) -> bool:
        """The target has gone, or broken off if *reset*. True: the joint is kept, without
        it, until :meth:`Joint.swap`; False: this is the end."""
        ...

    def ended(self, flow: Flow) -> None:
        """*flow*'s source has closed its side."""
        ...

    def over(self, broken: Channel | None) -> None:
        """Both sides are closed; *broken* is the one whose connection broke."""
        ...


@define(eq=False, slots=True)
class Flow:
    """One direction. ``rest`` has been inspected and waits for the sink to take it."""

    source: Channel
    sink: Channel
    inspect: Callable[[bytes], bytes]
    rest: bytes = b""
    held: bool = False  # inspected, and not yet free to go
    paused: bool = False  # nothing is read or sent, for now
    ended: bool = False  # nothing more is read from the source
    closed: bool = False  # and the sink was told
    carried: int = 0
    active: bool = False  # bytes have come since somebody last looked

    @property
    def stalled(self) -> bool:
        return self.held or self.paused or bool(self.rest)


@define(eq=False, slots=True)
class Joint:
    """Two channels joined by two flows: ``forth`` from the client, ``back`` from the target."""

    forth: Flow
    back: Flow
    owner: Owner
    pump: Pump = field(repr=False)
    dead: bool = False

    def feed(self, flow: Flow, data: bytes) -> None:
        """Carry *data*, which was received before the two were joined."""
        if data and not self.dead:
            self.pump.carry(self, flow, data)

    def release(self) -> None:
        """What was held is free to go (its record has become durable)."""
        for flow in (self.forth, self.back):
            if flow.held and not self.dead:
                flow.held = False
                self.pump.flush(self, flow)

    def tell(self, data: bytes, *, last: bool = False) -> None:
        """Send *data* of our own to the client, behind what waits for it.

        *last*: and nothing after.
        """
        self.back.rest += data
        self.back.ended = self.back.ended or last
        self.pump.flush(self, self.back)

    def pause(self) -> None:
        """Leave what the client sends where it is."""
        self.forth.paused = True
        self.pump.watch(self.forth.source)

    def resume(self) -> None:
        self.forth.paused = False
        self.pump.flush(self, self.forth)

    def unhook(self) -> None:
        """Do without the target from now on."""
        self.pump.unhook(self)

    def swap(self, target: Channel) -> None:
        """Go on with another target; nothing may be on its way to the old one."""
        self.unhook()
        self.forth.sink = self.back.source = target
        self.pump.hook(self)

    def close(self) -> None:
        self.pump.leave(self, None)


class Pump:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._joints: dict[int, tuple[Joint, Flow, Flow]] = {}  # fd: joint, inflow, outflow
        self._masks: dict[int, int] = {}
        self._again: deque[int] = deque()  # have data of which their socket does not know
        self._lag = 0.0
        self.wake_ups = 0
        loop.add_reader(self._epoll.fileno(), self._wake)

    def take_lag(self) -> float:
        """Seconds that the longest wake-up took since this was last asked."""
        lag, self._lag = self._lag, 0.0
        return lag

    def __len__(self) -> int:
        return sum(inflow is joint.forth for joint, inflow, _ in self._joints.values())

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def join(self, client: Channel, target: Channel, owner: Owner) -> Joint:
        """Begin to carry bytes between *client* and *target*."""
        forth = Flow(client, target, owner.from_client)
        back = Flow(target, client, owner.from_target)
        joint = Joint(forth, back, owner, self)
        self._hook(joint, forth, back)
        self.hook(joint)
        return joint

    def hook(self, joint: Joint) -> None:
        """Begin with the target that *joint* has now."""
        self._hook(joint, joint.back, joint.forth)

    def _hook(self, joint: Joint, inflow: Flow, outflow: Flow) -> None:
        channel = inflow.source
        self._joints[channel.fileno()] = (joint, inflow, outflow)
        self.watch(channel)
        if channel.pending():
            self._soon(channel.fileno())

    def unhook(self, joint: Joint) -> None:
        """Close the target's channel, if it is not closed yet."""
        self._drop(joint.back.source)

    def _drop(self, channel: Channel) -> None:
        fd = channel.fileno()
        if fd < 0:
            return
        if self._masks.pop(fd, 0):
            self._epoll.unregister(fd)
        del self._joints[fd]
        channel.close()

    def watch(self, channel: Channel) -> None:
        """Ask epoll for just what *channel* is waited for.

        A channel that is waited for nothing is taken out altogether: epoll tells of a
        hang-up whether asked or not, and would wake us without end.
        """
        fd = channel.fileno()
        if fd < 0:
            return  # a target that is lost
        _, inflow, outflow = self._joints[fd]
        mask = 0
        if not inflow.ended and not inflow.stalled:
            mask |= select.EPOLLIN
        if outflow.rest and not outflow.held:
            mask |= select.EPOLLOUT
        before = self._masks.get(fd, 0)
        if mask == before:
            return
        self._masks[fd] = mask
        if not mask:
            self._epoll.unregister(fd)
        elif before:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def flush(self, joint: Joint, flow: Flow) -> None:
        """Send what waits; when it is gone, go on reading or pass the end on."""
        if flow.held or flow.paused:
            return
        try:
            if flow.rest:
                flow.rest = flow.rest[flow.sink.transmit(flow.rest) :]
            if flow.ended and not flow.rest and not flow.closed:
                flow.closed = True
                flow.sink.half_close()
        except OSError:
            self._broken(joint, flow.sink)
            return
        if joint.forth.closed and joint.back.closed:
            self.leave(joint, None)
            return
        self.watch(flow.sink)
        self.watch(flow.source)
        if not flow.ended and not flow.rest and flow.source.pending():
            self._soon(flow.source.fileno())

    def leave(self, joint: Joint, broken: Channel | None) -> None:
        """Close both sides, at once."""
        if joint.dead:
            return
        joint.dead = True
        for flow in (joint.forth, joint.back):
            self._drop(flow.source)
        joint.owner.over(broken)

    def _broken(self, joint: Joint, channel: Channel) -> None:
        if channel is joint.forth.source or not self._lost(joint, reset=True):
            self.leave(joint, channel)

    def _lost(self, joint: Joint, *, reset: bool) -> bool:
        """True if the joint goes on, without its target."""
        if joint.dead or not joint.owner.lost(reset=reset):
            return False
        self.unhook(joint)
        return True

    def _soon(self, fd: int) -> None:
        if not self._again:
            self._loop.call_soon(self._wake)
        self._again.append(fd)

    def _wake(self) -> None:
        began = time.monotonic()
        try:
            self._work()
        finally:  # an error in one session must not make the others wait for ever
            if self._again:
                self._loop.call_soon(self._wake)
            self.wake_ups += 1
            self._lag = max(self._lag, time.monotonic() - began)

    def _work(self) -> None:
        poll = self._epoll.poll
        for _ in range(BUDGET):
            again = len(self._again)
            events = poll(0, 64)
            if not events and not again:
                break
            for _ in range(again):
                self._ready(self._again.popleft(), select.EPOLLIN)
            for fd, mask in events:
                self._ready(fd, mask)

    def _ready(self, fd: int, mask: int) -> None:
        found = self._joints.get(fd)
        if found is None:
            return  # an earlier event of this round closed it
        joint, inflow, outflow = found
        if mask & select.EPOLLOUT:
            self.flush(joint, outflow)
            if joint.dead:
                return
        if mask & ~select.EPOLLOUT and not inflow.ended and not inflow.stalled:
            self._read(joint, inflow)

    def _read(self, joint: Joint, flow: Flow) -> None:
        try:
            data = flow.source.receive()
        except OSError:
            self._broken(joint, flow.source)
            return
        if data:
            self.carry(joint, flow, data)
        elif data is not None and not (flow is joint.back and self._lost(joint, reset=False)):
            if joint.dead:
                return
            flow.ended = True
            joint.owner.ended(flow)
            if not joint.dead:
                self.flush(joint, flow)

    def carry(self, joint: Joint, flow: Flow, data: bytes) -> None:
        """Have *data* inspected and send it."""
        flow.carried += len(data)
        flow.active = True
        try:
            data = flow.inspect(data)
        except Exception as error:  # a mistake of ours too costs this session only
            joint.owner.refused(error)
            return
        if joint.dead or not data:
            return
        if flow.held or flow.rest or flow.ended:
            flow.rest += data
            self.flush(joint, flow)
            if not joint.dead:
                self.watch(flow.source)
            return
        try:
            sent = flow.sink.transmit(data)
        except OSError:
            self._broken(joint, flow.sink)
            return
        if sent < len(data):
            flow.rest = data[sent:]
            self.watch(flow.source)
            self.watch(flow.sink)
        elif flow.source.pending():
            self._again.append(flow.source.fileno())
