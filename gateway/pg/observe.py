"""Watches the frames of a spliced session go by, and says what to record.

Sans-IO. A scanner walks the five-byte headers of one direction, however the stream is
split, and hands whole frames to the transcript; bodies of rows and COPY data stream past
and are only counted. It is called before the bytes are forwarded, so whatever it hands
over has been recorded by the time the other side can act on it. What the frames say of the
session's state is told to a :class:`~gateway.pg.state.SessionState` on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from gateway.pg.effects import HARMLESS
from gateway.pg.scan import Add, Capture, Scanner, frame_length, table, violation
from gateway.pg.state import IDLE, SessionState
from gateway.record.format import CLIENT, COPIED, COPIED_FACTS, ROWS, TARGET

_rows = Struct(">Q").pack
_copied = COPIED_FACTS.pack


class ClientScanner(Scanner):
    """What the client sends.

    :ivar statements: how many Query, Execute and FunctionCall messages
    :ivar asked: how many messages that each call for one ReadyForQuery
    :ivar unsynced: an Execute has no Sync behind it yet
    :ivar copying: the target takes COPY data, and it is the client's turn
    :ivar terminated: the client has said goodbye
    """

    RECORD = CLIENT
    DIRECTION = 0
    TABLE = table(stream=b"d", keep=b"BDH", mark=b"PCQEFSXcf")

    def __init__(self, add: Add, state: SessionState | None = None) -> None:
        super().__init__(add)
        self._state = state or SessionState()
        self.statements = 0
        self.asked = 0
        self.unsynced = False
        self.copying = False
        self.terminated = False
        self._syncs = 0  # since the last statement

    def copy_began(self) -> None:
        """In copy-in mode a target ignores Sync, so those behind the Execute get no answer."""
        self.copying = True
        self.unsynced = self.unsynced or self._syncs > 0
        self.asked -= self._syncs
        self._syncs = 0

    @property
    def loose(self) -> bool:
        """The last message is one of those that have no effect without a Sync."""
        return self.last in _LOOSE

    def _mark(self, data: bytes, begin: int, pos: int, kind: int) -> bool:
        if kind == 0x53:  # Sync
            self._syncs += 1
            self.unsynced = False
            self.asked += 1
            return False
        if kind == 0x51:  # Query
            if len(data) - pos > 5:  # else its text comes later: see _closed
                self._state.queried(
                    data[pos + 5 : pos + frame_length(data, pos + 1)[0]], self.asked
                )
        elif kind in b"PCBF" or self._state.portals:
            if len(data) - pos > 5:
                self._look(kind, data[pos : pos + 1 + frame_length(data, pos + 1)[0]], self.asked)
            if kind in b"PCB":
                return False
        if kind == 0x63 or kind == 0x66:  # CopyDone, CopyFail
            self.copying = False
            return self._between(data, begin, pos, COPIED, self._copied())
        if kind == 0x58:  # Terminate
            self.terminated = True
            return False
        self.statements += 1
        self._syncs = 0
        self.copying = False  # a COPY that failed ends without a word of the client's
        self.unsynced = kind == 0x45  # Execute; all others are answered by ReadyForQuery
        if not self.unsynced:
            self.asked += 1
        return False

    def _closed(self, capture: Capture) -> None:
        kind = capture.kind
        if capture.cut and kind not in b"BF":  # whose beginning tells what they do
            self._state.give_up("a statement longer than what is recorded of it")
        elif kind == 0x51:
            self._state.queried(bytes(capture.body[:-1]), self.asked - 1)
        else:
            self._look(kind, capture.frame, self.asked - (kind == 0x46))  # counted by _mark

    def _look(self, kind: int, frame: bytes, batch: int) -> None:
        look = _LOOKS.get(kind)
        if look is not None:
            look(self._state, frame, batch)
            if self._state.effective:
                self.TABLE = _WATCHFUL

    def _copied(self) -> bytes:
        copied = _copied(0, self.streamed, self.streamed_bytes)
        self.streamed = self.streamed_bytes = 0
        return copied


_LOOSE = b"PBDCEH"
_WATCHFUL = table(stream=b"d", keep=b"DH", mark=b"BPCQEFSXcf")  # while a Bind may matter
# Functions that leave nothing beyond their transaction: those of large objects, by OID.
_LARGE_OBJECTS = frozenset(
    oid.to_bytes(4, "big")
    for oid in (952, 953, 954, 955, 956, 957, 958, 715, 1004, 3170, 3171, 3172, 964)
)


def _called(state: SessionState, frame: bytes, batch: int) -> None:
    """A FunctionCall, of any function."""
    if frame[5:9] not in _LARGE_OBJECTS:
        state.pin("fast-path function calls", batch)


_LOOKS: dict[int, Callable[[SessionState, bytes, int], None]] = {
    ord("P"): SessionState.parsing,
    ord("B"): SessionState.binding,
    ord("E"): SessionState.executing,
    ord("C"): SessionState.closing,
    ord("F"): _called,
}


class TargetScanner(Scanner):
    """What the target sends.

    :param copy_began: called where it begins to take COPY data
    :ivar status: the last ReadyForQuery's: I, T or E
    :ivar ready: how many of them came
    :ivar erred: how many had come when the last ErrorResponse did
    """

    RECORD = TARGET
    DIRECTION = 1
    TABLE = table(skip=b"ANTRKn", stream=b"Dd", keep=b"2IHWVt", mark=b"CEsZcG13S")

    def __init__(
        self,
        add: Add,
        copy_began: Callable[[], None] = lambda: None,
        state: SessionState | None = None,
    ) -> None:
        super().__init__(add)
        self._copy_began = copy_began
        self._state = state or SessionState()
        self.status = IDLE
        self.ready = 0
        self.erred = -1

    def _mark(self, data: bytes, begin: int, pos: int, kind: int) -> bool:
        if kind == 0x5A:  # ReadyForQuery
            length = frame_length(data, pos + 1)[0]
            if length != 5:
                raise violation(kind, length)
            self.ready += 1
            if pos + 5 < len(data):
                self.status = data[pos + 5]
                if self._state.pending:
                    self._state.ready(self.status, self.ready)
            return False
        if kind == 0x31 or kind == 0x33:  # ParseComplete, CloseComplete
            self._state.answers += 1
            return False
        if kind == 0x53:  # ParameterStatus
            if pos + 5 < len(data):
                self._state.reports(data[pos + 5 : pos + 1 + frame_length(data, pos + 1)[0]])
            return False
        if kind == 0x47:  # CopyInResponse
            self._copy_began()
            return False
        streamed, self.streamed = self.streamed, 0
        length, self.streamed_bytes = self.streamed_bytes, 0
        if kind == 0x63:  # CopyDone
            return self._between(data, begin, pos, COPIED, _copied(1, streamed, length))
        if kind == 0x43:  # CommandComplete
            if data[pos + 5 : pos + 8] not in HARMLESS or self._state.expected:
                self._tagged(data[pos + 5 : pos + 1 + frame_length(data, pos + 1)[0]])
        elif kind == 0x45:  # ErrorResponse
            self.erred = self.ready
            self._state.failed()
        if streamed and kind != 0x43:  # PortalSuspended or ErrorResponse: no tag tells the rows
            return self._between(data, begin, pos, ROWS, _rows(streamed))
        return False

    def _tagged(self, body: bytes) -> None:
        if body:  # else it is still to come
            self._state.tagged(body.partition(b"\0")[0], self.ready, self.status)

    def _closed(self, capture: Capture) -> None:
        if capture.kind == 0x5A:
            self.status = capture.body[0]
            self._state.ready(self.status, self.ready)
        elif capture.kind == 0x43:
            self._tagged(bytes(capture.body))
        elif capture.kind == 0x53:
            self._state.reports(bytes(capture.body))
