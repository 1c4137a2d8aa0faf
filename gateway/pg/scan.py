"""Walks the frames of one direction of a stream, however it is split. Sans-IO.

This is the hot path: one call a wake-up, one record a call where the chunk is a run of
whole frames, no copies of what is not recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from struct import Struct

from gateway.errors import GatewayError, ProtocolViolation
from gateway.record.format import CUT, CUT_FACTS

Add = Callable[[int, bytes], None]

MAX_FRAME = (
    0x3FFFFFFF + 4
)  # PostgreSQL's own limit: PQ_LARGE_MESSAGE_LIMIT, 1 GB - 1, plus the length
CAPTURE = 1 << 20  # 1 MiB of a statement tells what it does; the rest is its length and hash

# What becomes of a frame, by its type byte.
UNKNOWN, SKIP, STREAM, KEEP, MARK = range(5)

frame_length = Struct(">I").unpack_from
_cut = CUT_FACTS.pack


def table(skip: bytes = b"", stream: bytes = b"", keep: bytes = b"", mark: bytes = b"") -> bytes:
    actions = bytearray(256)
    for action, types in ((SKIP, skip), (STREAM, stream), (KEEP, keep), (MARK, mark)):
        for kind in types:
            actions[kind] = action
    return bytes(actions)


class Scanner:
    """One direction of a session. Subclasses say which frames matter.

    :ivar last: the type of the last frame, whole or not
    :ivar streamed: frames of the streamed kinds since the last one of another kind
    """

    RECORD: int
    DIRECTION: int
    TABLE: bytes

    def __init__(self, add: Add) -> None:
        self._add = add
        self._head = b""  # a header of which fewer than five bytes have come
        self._need = 0  # bytes of the present frame still to come
        self._capture: Capture | None = None
        self._counts = False  # the present frame is a streamed one
        self.last = 0
        self.streamed = 0
        self.streamed_bytes = 0

    @property
    def at_boundary(self) -> bool:
        """Between two frames: only here may a frame of our own be put in."""
        return not self._need and not self._head

    def to_boundary(self, data: bytes) -> int | None:
        """Bytes of *data* up to the end of the frame under way; None: it ends beyond them."""
        need = self._need
        if self._head:
            header = (self._head + data[:5])[:5]
            if len(header) < 5:
                return None
            need = frame_length(header, 1)[0] + 1 - len(self._head)
        return need if 0 <= need <= len(data) else None

    def scan(self, data: bytes) -> None:
        """Look at the next bytes of the stream. What raises is not to be forwarded, and the
        boundary stays where it was before *data*.

        :raises ProtocolViolation: a frame of no known type, or of an impossible length
        :raises NotRecorded: the transcript does not take it
        """
        need, head = self._need, self._head
        try:
            self._walk(data)
        except GatewayError:
            self._need, self._head = need, head
            raise

    def _walk(self, data: bytes) -> None:
        pos = self._finish(data) if self._need or self._head else 0
        actions = self.TABLE
        end = len(data)
        begin = pos  # where the present run of frames to record begins
        kind = self.last
        while end - pos >= 5:
            kind = data[pos]
            size = frame_length(data, pos + 1)[0] + 1
            action = actions[kind]
            if not 5 <= size <= MAX_FRAME or not action:
                raise violation(kind, size - 1)
            after = pos + size
            if action >= KEEP:
                if after > end:
                    break
                if action == MARK:
                    if self._mark(data, begin, pos, kind):
                        begin = pos
                    actions = self.TABLE  # of which a frame may want another one
                pos = after
                continue
            if begin < pos:
                self._record(data, begin, pos)
            pos = self._stream(data, pos, end, kind) if action == STREAM else after
            begin = pos
        self.last = kind
        if begin < pos <= end:
            self._record(data, begin, pos)
        if pos < end:
            self._begin(data, pos)
        elif pos > end:
            self._need = pos - end
            self._counts = action == STREAM

    def _record(self, data: bytes, begin: int, end: int) -> None:
        self._add(self.RECORD, data[begin:end])  # the whole of it is not copied by CPython

    def _mark(self, data: bytes, begin: int, pos: int, kind: int) -> bool:
        """A frame that means something for the counters.

        :return: True if the run up to *pos* was recorded, because a record had to go between
        """
        raise NotImplementedError

    def _between(self, data: bytes, begin: int, pos: int, kind: int, payload: bytes) -> bool:
        """Put a record of *kind* between the run that ends at *pos* and what follows."""
        if begin < pos:
            self._record(data, begin, pos)
        self._add(kind, payload)
        return True

    def _stream(self, data: bytes, pos: int, end: int, kind: int) -> int:
        """Pass over a run of frames of one streamed kind; returns where it ends.

        The last one may end beyond *end*.
        """
        start = pos
        count = 0
        tries = 4  # a run of unequal rows is not asked again and again whether it is equal
        while end - pos >= 5 and data[pos] == kind:
            size = frame_length(data, pos + 1)[0] + 1
            if not 5 <= size <= MAX_FRAME:
                raise violation(kind, size - 1)
            pos += size
            count += 1
            if tries and data[pos : pos + 5] == data[pos - size : pos - size + 5]:
                equal = _equal_run(data, pos, end, size)
                tries = tries - 1 if equal < 16 else 4
                pos += equal * size
                count += equal
        self.streamed += count
        self.streamed_bytes += min(pos, end) - start - 5 * count
        return pos

    def _begin(self, data: bytes, pos: int) -> None:
        """*data* ends inside the frame at *pos* (streamed frames never come here)."""
        if len(data) - pos < 5:
            self._head = data[pos:]
            return
        self._open(data[pos : pos + 5])
        self._take(data[pos + 5 :])

    def _open(self, header: bytes) -> None:
        kind = self.last = header[0]
        size = frame_length(header, 1)[0] + 1
        action = self.TABLE[kind]
        if not 5 <= size <= MAX_FRAME or not action:
            raise violation(kind, size - 1)
        self._need = size - 5
        self._counts = action == STREAM
        if action == STREAM:
            self.streamed += 1
        elif action != SKIP:
            if action == MARK:
                self._mark(header, 0, 0, kind)
            self._capture = Capture(header)

    def _take(self, body: bytes) -> None:
        """The next part of the frame under way; closes it when it is whole."""
        self._need -= len(body)
        if self._capture is None:
            if self._counts:
                self.streamed_bytes += len(body)
            return
        self._capture.take(body)
        if not self._need:
            self._close()

    def _close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            self._add(*capture.record(self.RECORD, self.DIRECTION))
            self._closed(capture)

    def _closed(self, capture: Capture) -> None:
        """A frame that came in parts is whole."""

    def _finish(self, data: bytes) -> int:
        """Go on with the frame under way; returns where the next one begins."""
        pos = 0
        if self._head:
            pos = 5 - len(self._head)
            header = self._head + data[:pos]
            if len(header) < 5:
                self._head = header
                return len(data)
            self._head = b""
            self._open(header)
            if not self._need:
                self._close()
                return pos
        body = data[pos : pos + self._need]
        self._take(body)
        return pos + len(body)


class Capture:
    """A frame that comes in parts: kept whole up to the cap, then its head, length and hash."""

    def __init__(self, header: bytes) -> None:
        self.kind = header[0]
        self._header = header
        self._size = frame_length(header, 1)[0] - 4
        self.body = bytearray()
        self._hash = hashlib.sha256() if self._size > CAPTURE else None

    @property
    def cut(self) -> bool:
        return self._hash is not None

    @property
    def frame(self) -> bytes:
        return self._header + bytes(self.body)

    def take(self, part: bytes) -> None:
        if self._hash is not None:
            self._hash.update(part)
            part = part[: CAPTURE - len(self.body)]
        self.body += part

    def record(self, kind: int, direction: int) -> tuple[int, bytes]:
        if self._hash is None:
            return kind, self.frame
        head = _cut(direction, self.kind, self._size, self._hash.digest())
        return CUT, head + bytes(self.body)


def _equal_run(data: bytes, pos: int, end: int, size: int) -> int:
    """How many frames from *pos* on surely have the same header, *size* bytes apart.

    Exact, not a guess: a frame whose header equals its predecessor's is as long, so the
    next header stands *size* further on. Compares the five header bytes as columns, which
    costs a nanosecond a row where a walk costs a hundred.
    """
    header = data[pos : pos + 5]
    room = (end - pos) // size
    count, step = 0, 16
    while count < room:
        step = min(step, room - count)
        start = pos + count * size
        stop = start + step * size
        if any(data[start + i : stop : size] != header[i : i + 1] * step for i in range(5)):
            break
        count += step
        step *= 4
    return count


def violation(kind: int, length: int) -> ProtocolViolation:
    return ProtocolViolation(f"invalid message: type {kind:#04x}, length {length}")
