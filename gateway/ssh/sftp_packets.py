"""SFTP's packets, version 3: cut out of a stream, read, put into events. Sans-IO.

Sources: draft-ietf-secsh-filexfer-02, and section 4 of OpenSSH's PROTOCOL file for its
extensions and for where it departs from the draft. Readers raise ProtocolViolation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.errors import ProtocolViolation
from gateway.record.facts import Text, text
from gateway.ssh.files import Event, event, mode


class Kind(enum.IntEnum):
    """Packets by their type (draft, section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


OK, EOF = 0, 1

MAX_PACKET = 256 << 20  # bytes; OpenSSH takes 256 KiB, others may take more: none is stored
MAX_NAMES = 64 << 10  # bytes of a request that are looked at: two paths of PATH_MAX, and room
MAX_HANDLE = 256  # bytes; draft, section 6.2

_HEADER = 5  # length u32, type u8
_ID = 4

CLIENT_HEADS: dict[int, int] = {
    **{kind: MAX_NAMES for kind in Kind if kind < Kind.STATUS and kind != Kind.VERSION},
    **dict.fromkeys((Kind.INIT, Kind.LSTAT, Kind.FSTAT, Kind.STAT), _ID),
    **dict.fromkeys((Kind.REALPATH, Kind.READLINK), _ID),
    Kind.WRITE: _ID + 4 + MAX_HANDLE + 8 + 4,  # handle, offset, length; the data follow
    Kind.EXTENDED: MAX_NAMES,
}
"""How many bytes behind its type are looked at, by the type of a packet."""

TARGET_HEADS: dict[int, int] = {
    **dict.fromkeys((Kind.VERSION, Kind.ATTRS, Kind.EXTENDED_REPLY), _ID),
    Kind.STATUS: _ID + 4,  # the code; words follow
    Kind.HANDLE: _ID + 4 + MAX_HANDLE,
    Kind.DATA: _ID + 4,  # the length; the data follow
    Kind.NAME: _ID + 4,  # how many; they follow
}


class Fields:
    """Takes fields off a packet. Of a long one only the head is there: a string that goes on
    behind it comes cut short, a number comes as zero.

    :param head: what follows the type, as far as it is looked at
    :param size: all that follows the type, in bytes
    :ivar left: bytes of the packet behind what was taken
    :ivar cut: something did not come whole
    """

    def __init__(self, head: bytes, size: int) -> None:
        self.head = head
        self.left = size
        self.cut = False
        self._pos = 0

    def number(self, size: int) -> int:
        field = self._take(size)
        return int.from_bytes(field) if len(field) == size else 0

    def string(self) -> bytes:
        return self._take(self.number(4))

    def path(self) -> Text:
        return text(self.string())

    def rest(self) -> memoryview:
        return memoryview(self.head)[self._pos :]

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise ProtocolViolation("a packet ends inside a field")
        field = self.head[self._pos : self._pos + size]
        self._pos += size
        self.left -= size
        self.cut = self.cut or len(field) < size
        return field


class Body(Protocol):
    """Where that part of a packet goes which streams past."""

    def take(self, part: memoryview) -> None: ...


class Packets:
    """Cuts one direction into packets, however it is split.

    :param heads: as :data:`CLIENT_HEADS`; a type that is not there is a violation
    :param opened: gets type and head, returns where the rest goes; None: nowhere
    """

    def __init__(
        self, heads: Mapping[int, int], opened: Callable[[int, Fields], Body | None]
    ) -> None:
        self._heads = heads
        self._opened = opened
        self._head = bytearray()  # length, type and head, as far as they have come
        self._need = _HEADER  # how long that is to be
        self._rest = 0  # bytes of the packet behind its head, still to come
        self._body: Body | None = None

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = self._pass(view) if self._rest else self._gather(view)

    def _pass(self, view: memoryview) -> memoryview:
        part = view[: self._rest]
        self._rest -= len(part)
        if self._body is not None:
            self._body.take(part)
        return view[len(part) :]

    def _gather(self, view: memoryview) -> memoryview:
        missing = self._need - len(self._head)
        self._head += view[:missing]
        if len(self._head) == self._need:
            size = int.from_bytes(self._head[:4]) - 1
            if self._need == _HEADER:
                self._judge(self._head[4], size)
            else:
                self._open(self._head[4], size)
        return view[missing:]

    def _judge(self, kind: int, size: int) -> None:
        """A head is never empty: every packet begins with an id or a version."""
        if kind not in self._heads:
            raise ProtocolViolation(f"packet type {kind} is unknown")
        if not _ID <= size < MAX_PACKET:
            raise ProtocolViolation(f"packet type {kind} has an impossible length")
        self._need = _HEADER + min(size, self._heads[kind])

    def _open(self, kind: int, size: int) -> None:
        head = bytes(self._head[_HEADER:])
        self._head.clear()
        self._need = _HEADER
        self._rest = size - len(head)
        self._body = self._opened(kind, Fields(head, size))


# -- refusals ------------------------------------------------------------------------------

_STATUS = (
    "OK",
    "EOF",
    "NO_SUCH_FILE",
    "PERMISSION_DENIED",
    "FAILURE",
    "BAD_MESSAGE",
    "NO_CONNECTION",
    "CONNECTION_LOST",
    "OP_UNSUPPORTED",
)


def error(code: int) -> str | int:
    """The name of a status (draft, section 7), or its number."""
    return f"SSH_FX_{_STATUS[code]}" if code < len(_STATUS) else code


# -- requests as events --------------------------------------------------------------------

_FLAGS = ("read", "write", "append", "create", "truncate", "exclusive")  # by bit
_CREATE = 8


def attributes(fields: Fields) -> Event:
    """Draft, section 5; extended ones are passed over."""
    bits = fields.number(4) if fields.left else 0
    found: Event = {}
    if bits & 1:
        found["size"] = fields.number(8)
    if bits & 2:
        found |= {"uid": fields.number(4), "gid": fields.number(4)}
    if bits & 4:
        found["mode"] = mode(fields.number(4))
    if bits & 8:
        found |= {"atime": fields.number(4), "mtime": fields.number(4)}
    return found


def _open(fields: Fields) -> Event:
    """To be opened for reading, and no more, is not worth a flag."""
    path, bits = fields.path(), fields.number(4)
    flags = [name for bit, name in enumerate(_FLAGS) if bits >> bit & 1]
    made = attributes(fields).get("mode") if bits & _CREATE else None
    return event("open", path, flags=None if flags == ["read"] else flags, mode=made)


def _mkdir(fields: Fields) -> Event:
    path = fields.path()
    return event("mkdir", path, mode=attributes(fields).get("mode"))


def _setstat(fields: Fields) -> Event:
    path = fields.path()
    return event("setstat", path, attributes=attributes(fields))


def _rename(fields: Fields) -> Event:
    path = fields.path()
    return event("rename", path, to=fields.path())


def _symlink(fields: Fields) -> Event:
    return _leading("symlink", fields)


def _link(fields: Fields) -> Event:
    return _leading("link", fields)


def _leading(operation: str, fields: Fields) -> Event:
    """What it leads to comes first: OpenSSH has it the other way round than the draft."""
    to = fields.path()
    return event(operation, fields.path(), to=to)


def _named(operation: str) -> Callable[[Fields], Event]:
    return lambda fields: event(operation, fields.path())


TOLD: dict[int, Callable[[Fields], Event]] = {
    Kind.OPEN: _open,
    Kind.SETSTAT: _setstat,
    Kind.OPENDIR: _named("list"),
    Kind.REMOVE: _named("remove"),
    Kind.MKDIR: _mkdir,
    Kind.RMDIR: _named("rmdir"),
    Kind.RENAME: _rename,
    Kind.SYMLINK: _symlink,
}
"""Requests that name what they are about, by their type."""

EXTENSIONS: dict[bytes, Callable[[Fields], Event]] = {
    b"posix-rename@openssh.com": _rename,
    b"hardlink@openssh.com": _link,
    b"lsetstat@openssh.com": _setstat,
}

QUESTIONS = {
    b"expand-path@openssh.com",
    b"fstatvfs@openssh.com",
    b"fsync@openssh.com",
    b"home-directory",
    b"limits@openssh.com",
    b"statvfs@openssh.com",
    b"users-groups-by-id@openssh.com",
}
"""Extensions that change nothing."""
