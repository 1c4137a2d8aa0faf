"""Watches an SFTP session go by, and tells what became of which file. Sans-IO.

Requests are matched with answers by their id, and told when they are answered. A file is
told when it is closed: as ``read`` or ``write`` (one of each if it was used both ways), as
``open`` if nothing moved; a directory as ``list``, with its number of ``entries`` as the
target counts them. ``bytes`` is what went past. A refusal is an ``error``: the name of the
SSH_FX status, or its number. Of ``symlink`` and ``link`` the ``path`` is what is made and
``to`` what it leads to; of ``rename`` and ``copy`` they are old and new. An extension that
is not known is told as ``extended``. Mere questions are not told.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define

from gateway.errors import ProtocolViolation
from gateway.record.facts import Text, text
from gateway.ssh.files import Contents, Early, Emit, Event, Watch, event
from gateway.ssh.sftp_packets import (
    CLIENT_HEADS,
    EOF,
    EXTENSIONS,
    OK,
    QUESTIONS,
    TARGET_HEADS,
    TOLD,
    Fields,
    Kind,
    Packets,
    attributes,
    error,
)

MAX_VERSION = 3  # OpenSSH's; from version 4 on the fields are others
MAX_HELD = 40 << 20  # bytes for what is open or unanswered. Some clients ask for all of a file at
# once: 150,000 READs fit into two windows of 2 MiB and what a target has taken in

REQUEST = 240  # bytes that an unanswered request takes here
EVENT = 800  # and if it is to be told, beside its names
FILE = 2000  # bytes that an open file takes here, beside its path

# What may come instead of a STATUS. To others, nothing if they are to be told, else anything:
# it is not looked at.
_ANSWERS: dict[int, tuple[int, ...]] = {
    Kind.OPEN: (Kind.HANDLE,),
    Kind.OPENDIR: (Kind.HANDLE,),
    Kind.READ: (Kind.DATA,),
    Kind.READDIR: (Kind.NAME,),
    Kind.WRITE: (),
    Kind.CLOSE: (),
    Kind.EXTENDED: (Kind.EXTENDED_REPLY, Kind.NAME, Kind.ATTRS),
}
_ANYTHING = tuple(TARGET_HEADS)


class SftpWatch(Watch):
    """One channel with the subsystem ``sftp``."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(emit)
        self._requests = Packets(CLIENT_HEADS, self._asked)
        self._answers = Packets(TARGET_HEADS, self._answered)
        self._pending: dict[int, _Request] = {}  # by id
        self._files: dict[bytes, _File] = {}  # by handle, until somebody asks to close it
        self._early = Early()
        self._held = 0

    def _client(self, data: bytes) -> None:
        self._requests.feed(data)

    def _target(self, data: bytes) -> None:
        self._answers.feed(data)

    def _unfinished(self) -> Iterator[Event]:
        for file in self._files.values():
            yield from file.events()
        for request in self._pending.values():
            if request.event is not None:
                yield request.event
            elif request.kind == Kind.CLOSE and request.file is not None:
                yield from request.file.events()

    def _forget(self) -> None:
        self._files.clear()
        self._pending.clear()

    def _hold(self, cost: int) -> None:
        self._held += cost
        if self._held > MAX_HELD:
            raise ProtocolViolation("too much is open or unanswered")

    # -- what the client asks for

    def _asked(self, kind: int, fields: Fields) -> _Body | None:
        if kind == Kind.INIT:
            return None
        number = fields.number(4)
        if number in self._pending:
            raise ProtocolViolation("a request has the id of one that is not answered yet")
        request = self._request(kind, fields)
        if request.event is not None:
            request.cost += EVENT + 4 * len(fields.head)  # a character takes up to 4 bytes
            if fields.cut:
                request.event["cut"] = True
        self._pending[number] = request
        self._hold(request.cost)
        return self._written(request, fields) if kind == Kind.WRITE else None

    def _request(self, kind: int, fields: Fields) -> _Request:
        if kind in TOLD:
            return _Request(kind, TOLD[kind](fields))
        if kind == Kind.EXTENDED:
            return _Request(kind, self._extended(fields))
        if kind == Kind.CLOSE:
            return self._closing(fields.string())
        if kind not in (Kind.READ, Kind.WRITE, Kind.READDIR, Kind.FSETSTAT):
            return _Request(kind)
        file = self._files.get(fields.string())
        if kind == Kind.FSETSTAT:
            return _Request(kind, event("setstat", _path(file), attributes=attributes(fields)))
        return _Request(kind, None, file, fields.number(8) if kind == Kind.READ else 0)

    def _closing(self, handle: bytes) -> _Request:
        """From now on the handle may become another file's."""
        file = self._files.pop(handle, None)
        if file is None:
            return _Request(Kind.CLOSE)
        self._held -= file.cost
        return _Request(Kind.CLOSE, None, file, cost=REQUEST + file.cost)

    def _written(self, request: _Request, fields: Fields) -> _Body | None:
        offset = fields.number(8)
        length = _data_length(fields)
        if request.file is None:
            return None
        body = _Body(request.file.written, offset, length)
        body.take(fields.rest())
        return body

    def _extended(self, fields: Fields) -> Event | None:
        name = fields.string()
        if name in QUESTIONS:
            return None
        if name == b"copy-data":
            return self._copy(fields)
        if name in EXTENSIONS:
            return EXTENSIONS[name](fields)
        return event("extended", None, extension=text(name))

    def _copy(self, fields: Fields) -> Event:
        """From file to file inside the target: nothing of it comes past. Length 0: all."""
        source = self._files.get(fields.string())
        fields.number(8)
        length = fields.number(8)
        sink = self._files.get(fields.string())
        if sink is not None:
            sink.written.spoil()
        return event("copy", _path(source), length or None, to=_path(sink))

    # -- what the target answers

    def _answered(self, kind: int, fields: Fields) -> _Body | None:
        number = fields.number(4)
        if kind == Kind.VERSION:
            _judge_version(number)
            return None
        request = self._pending.pop(number, None)
        if request is None:
            raise ProtocolViolation("an answer to no request")
        self._held -= request.cost
        if kind == Kind.STATUS:
            self._status(request, fields.number(4))
            return None
        if kind not in _ANSWERS.get(request.kind, () if request.event else _ANYTHING):
            raise ProtocolViolation(f"packet type {kind} is no answer to type {request.kind}")
        return self._granted(request, fields)

    def _granted(self, request: _Request, fields: Fields) -> _Body | None:
        if request.kind in (Kind.OPEN, Kind.OPENDIR):
            self._opened(request, _handle(fields))
        elif request.kind == Kind.READ:
            return _Body(_used(request).read, request.offset, _data_length(fields))
        elif request.kind == Kind.READDIR:
            _used(request).entries += fields.number(4)
        elif request.event is not None:
            self._emit(request.event)
        return None

    def _opened(self, request: _Request, handle: bytes) -> None:
        assert request.event is not None, "opening is told"
        stale = self._files.pop(handle, None)
        file = self._files[handle] = _File(request.event, self._early, FILE + request.cost)
        self._hold(file.cost)
        if stale is not None:
            self._held -= stale.cost
            self._tell(stale, {"unfinished": True})

    def _status(self, request: _Request, code: int) -> None:
        ended = code == EOF and request.kind in (Kind.READ, Kind.READDIR)
        failure = None if code == OK or ended else error(code)
        file = request.file
        if request.event is not None:
            self._emit(request.event | ({"error": failure} if failure else {}))
            return
        if request.kind == Kind.WRITE and failure is None:
            _used(request)
        if file is not None and failure is not None:
            file.failed(failure, request.kind)
        if file is not None and request.kind == Kind.CLOSE:
            self._tell(file, {})

    def _tell(self, file: _File, facts: Event) -> None:
        for told in file.events():
            self._emit(told | facts)


class _File:
    """An open file or directory; *about* is the event of its opening."""

    def __init__(self, about: Event, early: Early, cost: int) -> None:
        self.about = about
        self.read = Contents(early)
        self.written = Contents(early)
        self.entries = 0
        self.cost = cost

    def failed(self, failure: str | int, kind: int) -> None:
        """The first failure is told: others tend to follow from it."""
        self.about.setdefault("error", failure)
        if kind == Kind.WRITE:
            self.written.spoil()

    def events(self) -> list[Event]:
        if self.about["operation"] == "list":
            return [self.about | {"entries": self.entries}]
        ways = (("read", self.read), ("write", self.written))
        moved = [
            {"operation": way, "bytes": contents.bytes, "sha256": contents.digest()}
            for way, contents in ways
            if contents.bytes
        ]
        return [self.about | facts for facts in moved or [{"bytes": 0}]]


@define(weakref_slot=False)
class _Request:
    kind: int
    event: Event | None = None  # what to tell when it is answered
    file: _File | None = None
    offset: int = 0  # of a Kind.READ
    cost: int = REQUEST


class _Body:
    """The data of one packet on its way into a file or out of it."""

    __slots__ = ("_contents", "_left", "_offset")

    def __init__(self, contents: Contents, offset: int, length: int) -> None:
        self._contents = contents
        self._offset = offset
        self._left = length

    def take(self, part: memoryview) -> None:
        part = part[: self._left]
        self._contents.take(self._offset, part)
        self._offset += len(part)
        self._left -= len(part)


def _data_length(fields: Fields) -> int:
    length = fields.number(4)
    if length > fields.left:
        raise ProtocolViolation("data have an impossible length")
    return length


def _handle(fields: Fields) -> bytes:
    handle = fields.string()
    if fields.cut:  # no more than MAX_HANDLE is looked at
        raise ProtocolViolation("a handle has an impossible length")
    return handle


def _judge_version(version: int) -> None:
    if version > MAX_VERSION:
        raise ProtocolViolation(f"version {version} is not known")


def _used(request: _Request) -> _File:
    if request.file is None:
        raise ProtocolViolation("a handle that is not open was of use")
    return request.file


def _path(file: _File | None) -> Text | None:
    return None if file is None else file.about["path"]
