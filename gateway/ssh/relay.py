"""The SSH connection protocol between a client and a target, message by message. Sans-IO.

Both legs are authenticated elsewhere; from there on their messages are relayed as they are.
Channel numbers need no translation: whoever opens a channel numbers it, and since nobody
but the two peers opens any, their numbers are unique on our legs too. Windows, end of file
and exit status are the peers' own affair and stay in order, so nothing is buffered here. What
a role does not allow is answered by us, in its turn.

``send`` is called with whole payloads; the caller records before it sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field

from gateway.errors import ProtocolViolation
from gateway.model import SshRights
from gateway.ssh import messages as m
from gateway.ssh.notes import ChannelNotes, Notes
from gateway.ssh.rights import may_forward, may_forward_path, may_listen, may_request

CLIENT, TARGET = 0, 1

MAX_CHANNELS = 256  # open at once: browsers behind ssh -D hold dozens, nobody thousands
MAX_PENDING = 128  # requests of one channel without their answer
MAX_PACKET = 32768  # bytes of data a packet: RFC 4253 section 6.1; nobody gains by more

Send = Callable[[int, bytes], None]

_FORWARDS = (b"forwarded-tcpip", b"forwarded-streamlocal@openssh.com")
_SILENT = frozenset({b"hostkeys-00@openssh.com"})  # would name the target to the client
_EXTENDED = b"\x00\x00\x00\x01"  # SSH_EXTENDED_DATA_STDERR


@define(eq=False)
class Answers:
    """Replies that are due to one side, in the order of its requests.

    Those of the other side come in that order by themselves; ours wait behind them.
    """

    _due: deque[tuple[bytes, bytes]] = field(factory=deque)  # request, our reply or b""

    def expect(self, request: bytes, ours: bytes = b"") -> None:
        """:raises ProtocolViolation: too many are due already"""
        if len(self._due) >= MAX_PENDING:
            raise ProtocolViolation("too many requests without an answer")
        self._due.append((request, ours))

    def answered(self) -> bytes:
        """The other side has replied: to which request.

        :raises ProtocolViolation: nobody asked
        """
        if not self._due:
            raise ProtocolViolation("an answer to no question")
        return self._due.popleft()[0]

    def ready(self) -> list[bytes]:
        """Replies of ours whose turn has come."""
        ready = []
        while self._due and self._due[0][1]:
            ready.append(self._due.popleft()[1])
        return ready


@define(eq=False)
class Channel:
    """One channel. ``numbers`` are those of its client and its target; None: not known yet."""

    kind: bytes
    opener: int
    numbers: list[int | None]
    notes: ChannelNotes
    closed: list[bool] = field(factory=lambda: [False, False])
    answers: tuple[Answers, Answers] = field(factory=lambda: (Answers(), Answers()))


class Relay:
    """:meth:`receive` every message of the connection protocol, from either side.

    :ivar requests: shells, commands and subsystems that were asked for
    """

    def __init__(self, rights: SshRights, notes: Notes, send: Send) -> None:
        self._rights = rights
        self._notes = notes
        self._send = send
        self._channels: tuple[dict[int, Channel], dict[int, Channel]] = ({}, {})
        self._open_channels = 0  # or about to be
        self._answers = (Answers(), Answers())  # to global requests
        self._allowed: set[bytes] = set()  # kinds of channels that the target may open
        self.requests = 0

    def receive(self, side: int, payload: bytes) -> None:
        """A message from *side*.

        :raises ProtocolViolation: it breaks the protocol
        :raises NotRecorded: the transcript does not take it
        """
        kind = payload[0]
        if kind == m.CHANNEL_DATA:
            self._data(side, payload)
        elif kind > m.CHANNEL_OPEN_FAILURE:
            self._on_channel(side, kind, payload)
        else:
            handler = _HANDLERS.get(kind)
            if handler is None:
                raise ProtocolViolation(f"unknown message {kind}")
            handler(self, side, payload)

    def close(self) -> None:
        """The session is over: tell the transcript of what was still open."""
        client, target = self._channels
        for channel in dict.fromkeys((*client.values(), *target.values())):
            channel.notes.close()

    # -- data

    def _data(self, side: int, payload: bytes) -> None:
        channel = self._open(side, payload)
        channel.notes.data(side, m.body(payload, 5))
        self._send(1 - side, payload)

    def _extended(self, side: int, channel: Channel, payload: bytes) -> None:
        if payload[5:9] != _EXTENDED or side == CLIENT:
            raise ProtocolViolation("extended data of an unknown type")
        channel.notes.stderr(m.body(payload, 9))
        self._send(1 - side, payload)

    def _open(self, side: int, payload: bytes) -> Channel:
        """The channel that *payload* from *side* is for, open for it to speak."""
        channel = self._channels[1 - side].get(m.recipient(payload))
        if channel is None or None in channel.numbers or channel.closed[side]:
            raise ProtocolViolation("a message for a channel that is not open")
        return channel

    def _on_channel(self, side: int, kind: int, payload: bytes) -> None:
        channel = self._open(side, payload)
        if kind == m.CHANNEL_REQUEST:
            self._request(side, channel, payload)
        elif kind in (m.CHANNEL_SUCCESS, m.CHANNEL_FAILURE):
            request = self._answered(side, channel.answers[1 - side], payload)
            if side == TARGET and kind == m.CHANNEL_FAILURE:
                channel.notes.refused(request)
        elif kind == m.CHANNEL_EXTENDED_DATA:
            self._extended(side, channel, payload)
        elif kind == m.CHANNEL_CLOSE:
            self._close(side, channel, payload)
        elif kind in (m.CHANNEL_EOF, m.CHANNEL_WINDOW_ADJUST):
            self._send(1 - side, payload)
        else:
            raise ProtocolViolation(f"unknown message {kind}")

    def _close(self, side: int, channel: Channel, payload: bytes) -> None:
        channel.closed[side] = True
        if all(channel.closed):
            self._forget(channel)
        self._send(1 - side, payload)

    def _forget(self, channel: Channel) -> None:
        channel.notes.close()
        self._open_channels -= 1
        for side, number in enumerate(channel.numbers):
            if number is not None:
                self._channels[side].pop(number, None)

    def _answered(self, side: int, due: Answers, reply: bytes) -> bytes:
        """Pass on a reply of *side*, and ours that waited behind it; to which request it was."""
        request = due.answered()
        self._send(1 - side, reply)
        self._ours(1 - side, due)
        return request

    def _ours(self, side: int, due: Answers) -> None:
        for reply in due.ready():
            self._send(side, reply)

    # -- opening channels

    def _opening(self, side: int, payload: bytes) -> None:
        fields = m.Reader(payload)
        kind, number = fields.string(), fields.uint32()
        window, packet = fields.uint32(), fields.uint32()
        rest = fields.rest()
        if number in self._channels[side]:
            raise ProtocolViolation("a channel number that is in use")
        if self._open_channels >= MAX_CHANNELS:
            self._send(side, m.open_failure(number, m.RESOURCE_SHORTAGE, "too many channels"))
            return
        if not self._may_open(side, kind, rest):
            self._notes.refused_open(kind, _destination(kind, rest))
            self._send(side, m.open_failure(number, m.PROHIBITED, "not permitted"))
            return
        numbers: list[int | None] = [None, None]
        numbers[side] = number
        notes = self._notes.channel(kind, _destination(kind, rest))
        self._channels[side][number] = Channel(kind, side, numbers, notes)
        self._open_channels += 1
        head = bytes((m.CHANNEL_OPEN,)) + m.string(kind) + m.uint32(number) + m.uint32(window)
        self._send(1 - side, head + m.uint32(min(packet, MAX_PACKET)) + rest)

    def _may_open(self, side: int, kind: bytes, rest: bytes) -> bool:
        if side == TARGET:
            return kind in self._allowed
        if kind == b"session":
            return True
        fields = m.Reader(rest, 0)
        if kind == b"direct-tcpip":
            return may_forward(self._rights, _text(fields.string()), fields.uint32())
        if kind == b"direct-streamlocal@openssh.com":
            return may_forward_path(self._rights, _text(fields.string()))
        return False

    def _opened(self, side: int, payload: bytes) -> None:
        """CHANNEL_OPEN_CONFIRMATION, of a channel that the other side asked for."""
        channel = self._waiting(side, payload)
        fields = m.Reader(payload, 5)
        number, window, packet = fields.uint32(), fields.uint32(), fields.uint32()
        if number in self._channels[side]:
            raise ProtocolViolation("a channel number that is in use")
        channel.numbers[side] = number
        self._channels[side][number] = channel
        sizes = m.uint32(window) + m.uint32(min(packet, MAX_PACKET))
        self._send(1 - side, payload[:9] + sizes + fields.rest())

    def _not_opened(self, side: int, payload: bytes) -> None:
        channel = self._waiting(side, payload)
        channel.notes.refused(b"open")
        self._forget(channel)
        self._send(1 - side, payload)

    def _waiting(self, side: int, payload: bytes) -> Channel:
        channel = self._channels[1 - side].get(m.recipient(payload))
        if channel is None or channel.opener == side or channel.numbers[side] is not None:
            raise ProtocolViolation("an answer to no channel that was asked for")
        return channel

    # -- requests

    def _request(self, side: int, channel: Channel, payload: bytes) -> None:
        fields = m.Reader(payload, 5)
        request, wants_reply = fields.string(), fields.boolean()
        if side == TARGET:
            channel.notes.told(request, fields)
        elif not self._asks(channel, request, fields.rest()):
            channel.notes.denied(request)
            if wants_reply:
                number = channel.numbers[CLIENT]
                assert number is not None
                channel.answers[CLIENT].expect(request, m.channel_failure(number))
                self._ours(CLIENT, channel.answers[CLIENT])
            return
        if wants_reply:
            channel.answers[side].expect(request)
        self._send(1 - side, payload)

    def _asks(self, channel: Channel, request: bytes, detail: bytes) -> bool:
        """Whether the client may ask this of the target; if so, it is in the transcript."""
        if channel.kind != b"session":
            return False
        first = m.Reader(detail, 0).string() if request in _NAMED else b""
        if not may_request(self._rights, request, first):
            return False
        if request in (b"shell", b"exec", b"subsystem"):
            self.requests += 1
        if request in _OPENS:
            self._allowed.add(_OPENS[request])
        channel.notes.asks(request, detail)
        return True

    # -- global requests

    def _global(self, side: int, payload: bytes) -> None:
        fields = m.Reader(payload)
        request, wants_reply = fields.string(), fields.boolean()
        if side == TARGET and request in _SILENT:
            return
        if self._may_ask(side, request, fields):
            if wants_reply:
                self._answers[side].expect(request)
            self._send(1 - side, payload)
        elif wants_reply:
            self._answers[side].expect(request, bytes((m.REQUEST_FAILURE,)))
            self._ours(side, self._answers[side])

    def _may_ask(self, side: int, request: bytes, fields: m.Reader) -> bool:
        if request == b"keepalive@openssh.com":
            return True
        if side == TARGET:
            return False
        if request == b"no-more-sessions@openssh.com":
            return True
        if request in (b"tcpip-forward", b"cancel-tcpip-forward"):
            host, port = _text(fields.string()), fields.uint32()
            allowed = may_listen(self._rights, host, port)
            where = f"{host}:{port}"
        elif request in (_STREAM_FORWARD, b"cancel-" + _STREAM_FORWARD):
            where = _text(fields.string())
            allowed = may_forward_path(self._rights, where)
        else:
            return False
        if not request.startswith(b"cancel-"):
            self._notes.listens(where, allowed)
        if allowed:
            self._allowed.update(_FORWARDS)
        return allowed

    def _global_reply(self, side: int, payload: bytes) -> None:
        self._answered(side, self._answers[1 - side], payload)


_STREAM_FORWARD = b"streamlocal-forward@openssh.com"
_NAMED = frozenset({b"subsystem", b"env"})  # requests that are judged by their first field
_OPENS = {  # what a request lets the target open later
    b"auth-agent-req@openssh.com": b"auth-agent@openssh.com",
    b"x11-req": b"x11",
}
_HANDLERS: dict[int, Callable[[Relay, int, bytes], None]] = {
    m.GLOBAL_REQUEST: Relay._global,
    m.REQUEST_SUCCESS: Relay._global_reply,
    m.REQUEST_FAILURE: Relay._global_reply,
    m.CHANNEL_OPEN: Relay._opening,
    m.CHANNEL_OPEN_CONFIRMATION: Relay._opened,
    m.CHANNEL_OPEN_FAILURE: Relay._not_opened,
}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _destination(kind: bytes, rest: bytes) -> str:
    """Where a channel leads, for the transcript; "" for a session."""
    fields = m.Reader(rest, 0)
    if kind in (b"direct-tcpip", b"forwarded-tcpip"):
        return f"{_text(fields.string())}:{fields.uint32()}"
    if kind in (b"direct-streamlocal@openssh.com", b"forwarded-streamlocal@openssh.com"):
        return _text(fields.string())
    return ""
