"""Watches the legacy scp protocol go by, and tells which files moved. Sans-IO.

No document defines it; this follows what OpenSSH's scp does. The *source* sends records,
one a line (``C0644 5 name``: a file, of which five bytes and a zero byte follow; ``D0755 0
name`` and ``E``: into a directory and out of it; ``T``: times of what comes next). The
*sink* answers with a zero byte: at first, to each record, and to the end of each file. A
byte 1 (error) or 2 (fatal) and a line of text may stand in for any zero byte or record.

A source need not wait for answers, so a record counts as accepted until it is refused. A
file is told when the sink has answered to its end, as ``write`` (upload) or ``read``; a
directory as ``mkdir``, or as ``list`` when it is read. ``error`` is the other side's text.
Nothing in the protocol tells whether an upload's path is a directory that was there before:
where that matters, ``or_path`` is the path if it was not.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections import deque
from collections.abc import Iterator

from attrs import frozen

from gateway.errors import ProtocolViolation
from gateway.record.facts import Text, text
from gateway.ssh.files import Emit, Event, Watch, event, mode

MAX_LINE = 16 << 10  # bytes; the buffer of OpenSSH's scp for one record
MAX_PATH = 4096  # bytes; Linux's PATH_MAX: no target goes deeper
MAX_SIZE = (1 << 63) - 1  # bytes of a file; off_t
MAX_PENDING = 256  # answers to come; a source that waits for them never has two

_RECORD = re.compile(rb"([CD])([0-7]{4})\s([0-9]{1,19}) (.*)", re.DOTALL)


class _State(enum.Enum):
    """What the source sends next."""

    RECORD = enum.auto()
    DATA = enum.auto()
    VERDICT = enum.auto()  # whether it could read all of the file


class _To(enum.Enum):
    """What the sink's next answer is to."""

    NOTHING = enum.auto()  # it speaks first
    FILE = enum.auto()
    DATA = enum.auto()
    DIRECTORY = enum.auto()
    OTHER = enum.auto()


@frozen
class _Awaited:
    to: _To
    about: Event | None = None


class ScpWatch(Watch):
    """One channel with the command ``scp -t`` (upload) or ``scp -f``.

    :param path: as :func:`scp_request` found it
    """

    def __init__(self, emit: Emit, upload: bool, path: str | bytes) -> None:
        super().__init__(emit)
        raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
        self._paths = _Paths(raw, upload)
        self._upload = upload
        self._moving = "write" if upload else "read"
        self._state = _State.RECORD
        self._file: _File | None = None  # whose bytes are under way
        self._awaited = deque([_Awaited(_To.NOTHING)])
        self._record = _Line()
        self._answer = _Line()

    def _client(self, data: bytes) -> None:
        (self._source if self._upload else self._sink)(data)

    def _target(self, data: bytes) -> None:
        (self._sink if self._upload else self._source)(data)

    def _unfinished(self) -> Iterator[Event]:
        for awaited in self._awaited:
            if awaited.to in (_To.DATA, _To.DIRECTORY) and awaited.about is not None:
                yield awaited.about
        if self._file is not None:
            yield self._file.told()

    def _forget(self) -> None:
        self._awaited.clear()
        self._file = None

    # -- the source

    def _source(self, data: bytes) -> None:
        pos = 0
        while pos < len(data):
            if self._state is _State.DATA:
                pos = self._data(data, pos)
            elif self._state is _State.VERDICT and self._record.empty and not data[pos]:
                self._ended({})
                pos += 1
            else:
                pos = self._record.take(data, pos)
                self._line(self._record.whole())

    def _line(self, line: bytes | None) -> None:
        if line is None:
            return
        if self._state is _State.VERDICT:
            self._ended({"error": _text(line)})
        elif line[:1] in (b"\1", b"\2"):
            self._failed(_text(line))
        elif line[:1] == b"E":
            self._paths.leave()
            self._await(_Awaited(_To.OTHER))
        elif line[:1] == b"T":
            self._await(_Awaited(_To.OTHER))
        else:
            self._begin(line)

    def _begin(self, line: bytes) -> None:
        match = _RECORD.fullmatch(line.partition(b"\0")[0])  # a string in C ends there
        if match is None or int(match[3]) > MAX_SIZE:
            raise ProtocolViolation("a record that scp does not have")
        kind, bits, size, name = match.groups()
        paths = self._paths.of(name)
        if kind == b"D":
            operation = "mkdir" if self._upload else "list"
            about = event(operation, **paths, mode=mode(int(bits, 8)))
            self._paths.enter(name)
            self._await(_Awaited(_To.DIRECTORY, about))
            return
        about = event(self._moving, **paths, mode=mode(int(bits, 8)))
        self._file = _File(about, int(size))
        self._state = _State.DATA if self._file.left else _State.VERDICT
        self._await(_Awaited(_To.FILE, about))

    def _data(self, data: bytes, pos: int) -> int:
        file = self._file
        assert file is not None, "a record begins each file"
        part = memoryview(data)[pos : pos + file.left]
        file.take(part)
        if not file.left:
            self._state = _State.VERDICT
        return pos + len(part)

    def _ended(self, facts: Event) -> None:
        file, self._file = self._file, None
        assert file is not None, "a record begins each file"
        self._state = _State.RECORD
        self._await(_Awaited(_To.DATA, file.told() | facts))

    def _await(self, awaited: _Awaited) -> None:
        self._awaited.append(awaited)
        if len(self._awaited) > MAX_PENDING:
            raise ProtocolViolation("too many records without an answer")

    def _failed(self, text: str) -> None:
        """It is not about a file that is under way; the text may name one."""
        self._emit(event(self._moving, self._paths.here(), error=text))

    # -- the sink

    def _sink(self, data: bytes) -> None:
        pos = 0
        while pos < len(data):
            if self._answer.empty and not data[pos]:
                self._accepted()
                pos += 1
                continue
            pos = self._answer.take(data, pos)
            line = self._answer.whole()
            if line is not None:
                self._refused(_text(line))

    def _accepted(self) -> None:
        if not self._awaited:
            raise ProtocolViolation("an answer to no record")
        awaited = self._awaited.popleft()
        if awaited.to in (_To.DATA, _To.DIRECTORY) and awaited.about is not None:
            self._emit(awaited.about)

    def _refused(self, text: str) -> None:
        awaited = self._awaited.popleft() if self._awaited else _Awaited(_To.OTHER)
        if awaited.to in (_To.FILE, _To.DIRECTORY):
            self._take_back(awaited.to)
        if awaited.about is None:
            self._failed(text)
        else:
            self._emit({**awaited.about, "sha256": None, "error": text})

    def _take_back(self, to: _To) -> None:
        """What the source sent meanwhile, the sink takes for something else than we did."""
        file = self._file if to is _To.FILE else None
        if self._awaited or (file is not None and (file.bytes or not self._record.empty)):
            raise ProtocolViolation("more came behind a record that was refused")
        if file is None:
            self._paths.leave()
        self._file, self._state = None, _State.RECORD


class _File:
    """One whose bytes are under way."""

    def __init__(self, about: Event, size: int) -> None:
        self.left = size
        self.bytes = 0
        self._about = about
        self._hash = hashlib.sha256()

    def take(self, part: memoryview) -> None:
        self._hash.update(part)
        self.bytes += len(part)
        self.left -= len(part)

    def told(self) -> Event:
        known = self.bytes or not self.left
        digest = self._hash.hexdigest() if known else None
        return self._about | {"bytes": self.bytes, "sha256": digest}


class _Paths:
    """Where in the target's tree the source is.

    An upload goes to *base* itself, or into it if it is a directory. A download comes from
    *base*, whose last part the source names itself: there may be a pattern in its place.
    """

    def __init__(self, base: bytes, upload: bool) -> None:
        self._base = base
        head, slash, last = (base if upload else base.rstrip(b"/") or base[:1]).rpartition(b"/")
        self._above = base if upload else head + slash
        self._unclear = upload and last not in (b"", b".", b"..", b"~")
        self._inside: list[bytes] = []

    def of(self, name: bytes) -> Event:
        names = [*self._inside, name]
        found = {"path": text(self._joined(names))}
        if self._unclear:
            found["or_path"] = text(self._joined(names[1:]))
        return found

    def here(self) -> Text:
        return text(self._joined(self._inside) if self._inside else self._base)

    def enter(self, name: bytes) -> None:
        self._inside.append(name)

    def leave(self) -> None:
        if not self._inside:
            raise ProtocolViolation("the end of a directory that was not begun")
        self._inside.pop()

    def _joined(self, names: list[bytes]) -> bytes:
        below = b"/".join(filter(None, names))
        between = b"/" if below and self._above.rpartition(b"/")[2] else b""
        path = self._above + between + below
        if len(path) > MAX_PATH:
            raise ProtocolViolation("a path is too long")
        return path


class _Line:
    """A line that may come in parts."""

    def __init__(self) -> None:
        self._line = bytearray()

    @property
    def empty(self) -> bool:
        return not self._line

    def take(self, data: bytes, pos: int) -> int:
        """Bytes of *data* from *pos* on; returns where the next line begins."""
        end = data.find(b"\n", pos) + 1 or len(data)
        if len(self._line) + end - pos > MAX_LINE:
            raise ProtocolViolation("a line is too long")
        self._line += data[pos:end]
        return end

    def whole(self) -> bytes | None:
        """The line without its end, once that is there; a new one begins."""
        if not self._line.endswith(b"\n"):
            return None
        line = bytes(self._line[:-1])
        self._line.clear()
        return line


def _text(line: bytes) -> str:
    """Words for people, without the byte that says how bad it is."""
    return line.lstrip(b"\1\2").decode("utf-8", "backslashreplace")


# -- the command ---------------------------------------------------------------------------

_FLAGS = frozenset(b"1246BCTdfpqrtv")  # those of OpenSSH's that take no value

# Of the shell only what cannot make it run anything: words, quotes, variables, patterns.
_PIECE = rb"""[^\s'"\\;&|<>()`] | \\[^\n] | '[^']*' | "(?:[^"\\`$] | \\[^\n] | \$(?!\())*" """
_WORD = re.compile(rb"(?: %b )++" % _PIECE, re.VERBOSE)
_QUOTED = re.compile(rb"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)""", re.DOTALL)
_ESCAPED = re.compile(rb"""\\(["\\$`])""")


def scp_request(command: bytes) -> tuple[bool, bytes] | None:
    """Whether a command is one end of the scp protocol: does it upload, and its path.

    A path that has to be a directory (``-d``) ends with a slash. It is empty if there are
    several: then what the source calls its files is all there is to tell.
    """
    words = _words(command)
    if not words or words[0].rpartition(b"/")[2] != b"scp":
        return None
    flags, operands = _split(words[1:])
    if not operands or not flags <= _FLAGS or not flags & frozenset(b"ft"):
        return None
    upload = ord("f") not in flags  # of both, OpenSSH's scp heeds this one
    path = operands[0] if len(operands) == 1 else b""
    return upload, path + b"/" if upload and ord("d") in flags else path


def _split(words: list[bytes]) -> tuple[frozenset[int], list[bytes]]:
    """Flags and operands; a flag behind an operand is one."""
    flags = b""
    for index, word in enumerate(words):
        if word == b"--":
            return frozenset(flags), words[index + 1 :]
        if word[:1] != b"-" or word == b"-":
            return frozenset(flags), words[index:]
        flags += word[1:]
    return frozenset(flags), []


def _words(command: bytes) -> list[bytes]:
    """Empty if the shell would do more than run one program."""
    words, pos, end = [], 0, len(command)
    while pos < end:
        if command[pos] in b" \t":
            pos += 1
            continue
        match = _WORD.match(command, pos)
        if match is None:
            return []
        words.append(_QUOTED.sub(_unquoted, match[0]))
        pos = match.end()
    return words


def _unquoted(match: re.Match[bytes]) -> bytes:
    single, double, escaped = match.groups()
    if double is not None:
        return _ESCAPED.sub(rb"\1", double)
    return single if single is not None else escaped
