"""What a transcript tells of files that move through a session. Sans-IO.

An event is a dict with ``operation``, ``path``, ``bytes`` (None: nothing to count) and
``sha256`` (hex, None: not known), and whatever else there is to tell. Contents are counted
and hashed as they go past, never kept.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from gateway.errors import ProtocolViolation
from gateway.record.facts import Text

Event = dict[str, Any]
Emit = Callable[[Event], None]

MAX_EARLY = 256 << 10  # bytes kept of what overtook others: eight blocks of 32 KiB, as most ask for
PIECE = 128  # bytes that a kept piece costs beside its own


def event(operation: str, path: Text | None, size: int | None = None, **more: Any) -> Event:
    """*more* that is None is not told."""
    told = {name: value for name, value in more.items() if value is not None}
    return {"operation": operation, "path": path, "bytes": size, "sha256": None} | told


def mode(bits: int) -> str:
    """Permissions in octal, without the type of the file."""
    return f"{bits & 0o7777:04o}"


class Watch(ABC):
    """Looks at both directions of a stream and emits what it was used for.

    The bytes must be shown in the order in which each side could know of them: a request
    before its answer. What is not understood ends the watch, with an event ``undecoded``
    that says why, and never the session. Whatever *emit* raises comes through.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._over = False

    def from_client(self, data: bytes) -> None:
        self._look(self._client, data)

    def from_target(self, data: bytes) -> None:
        self._look(self._target, data)

    def close(self) -> None:
        """The stream has ended: tell what was under way, marked ``unfinished``."""
        if self._over:
            return
        self._over = True
        for told in self._unfinished():
            self._emit(told | {"unfinished": True})
        self._forget()

    def _look(self, read: Callable[[bytes], None], data: bytes) -> None:
        if self._over:
            return
        try:
            read(data)
        except ProtocolViolation as violation:
            self.close()
            self._emit(event("undecoded", None, reason=violation.public))

    @abstractmethod
    def _client(self, data: bytes) -> None:
        """:raises ProtocolViolation: this and what follows cannot be understood"""

    @abstractmethod
    def _target(self, data: bytes) -> None:
        """:raises ProtocolViolation: this and what follows cannot be understood"""

    @abstractmethod
    def _unfinished(self) -> Iterable[Event]:
        """What was begun and has not ended."""

    @abstractmethod
    def _forget(self) -> None:
        """Let go of what is kept: the session may last."""


class Early:
    """Room for what overtook others, shared by all files of one watch."""

    def __init__(self) -> None:
        self.room = MAX_EARLY


class Contents:
    """What moved one way through an open file.

    The hash is that of the bytes that moved, and known only if they are one run from offset
    0: each byte once, nothing left out. Pieces may overtake one another as far as there is
    room for them.

    :ivar bytes: how many went past
    """

    __slots__ = ("_early", "_end", "_hash", "_waiting", "bytes")

    def __init__(self, early: Early) -> None:
        self.bytes = 0
        self._early = early
        self._hash: Any = hashlib.sha256()  # None: no hash will tell the truth
        self._end = 0  # of the run from offset 0
        self._waiting: dict[int, bytes] = {}  # by offset, beyond that end

    def take(self, offset: int, part: memoryview) -> None:
        self.bytes += len(part)
        if self._hash is None or not part:
            return
        if offset == self._end:
            self._append(part)
            while self._waiting and self._end in self._waiting:
                self._append(self._release(self._end))
        elif offset < self._end or offset in self._waiting:
            self.spoil()
        else:
            self._keep(offset, part)

    def spoil(self) -> None:
        """What moved is not what the file holds."""
        for offset in tuple(self._waiting):
            self._release(offset)
        self._hash = None

    def digest(self) -> str | None:
        """The hash (hex) of all that moved, if it was one run; nothing is taken after this."""
        whole = self._hash is not None and self.bytes > 0 and self._end == self.bytes
        found: str | None = self._hash.hexdigest() if whole else None
        self.spoil()
        return found

    def _append(self, part: memoryview | bytes) -> None:
        self._hash.update(part)
        self._end += len(part)

    def _keep(self, offset: int, part: memoryview) -> None:
        cost = len(part) + PIECE
        if cost > self._early.room:
            self.spoil()
            return
        self._early.room -= cost
        self._waiting[offset] = bytes(part)

    def _release(self, offset: int) -> bytes:
        piece = self._waiting.pop(offset)
        self._early.room += len(piece) + PIECE
        return piece
