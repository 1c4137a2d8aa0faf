"""What of an SSH session goes into its transcript, while it goes by. Sans-IO.

Terminal output is kept whole; what a command prints without a terminal up to a cap, since
whole disks go that way; sftp and scp as operations on files; forwards as counts. Texts
from one packet are kept whole: the legs take none of more than 256 KiB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from gateway.errors import ProtocolViolation
from gateway.record.facts import Text, text
from gateway.record.format import INPUT, NOTE, OUTPUT
from gateway.ssh.messages import Reader
from gateway.ssh.scp import ScpWatch, scp_request
from gateway.ssh.sftp import SftpWatch
from gateway.ssh.typed import Typed

Add = Callable[[int, bytes], None]
Facts = Mapping[str, Any]
Files = SftpWatch | ScpWatch

PRINTED = 1 << 20  # bytes kept of a command's output without a terminal: listings, not archives
MAX_ENVIRONMENT = 65_536  # bytes of a channel's variables; clients send about a hundred
MAX_TERM = 255  # bytes kept of a terminal's name; terminfo's have 30
MAX_TO = 1024  # characters kept of a destination: DNS names have 253, Unix sockets 107
STDOUT, STDERR = 0, 1

_STARTS = frozenset({b"shell", b"exec", b"subsystem"})
_NOISE = frozenset({b"winadj@putty.projects.tartarus.org"})  # PuTTY wants a no, all the time

_output = struct.Struct(">IB").pack
_input = struct.Struct(">I").pack


class Notes:
    """Numbers the channels of one session, from 1, and notes what is about none of them.

    :param typed: record what is typed at terminals, too
    """

    def __init__(self, add: Add, *, typed: bool = False) -> None:
        self._add = add
        self._typed = typed
        self._count = 0

    def channel(self, kind: bytes, to: str) -> ChannelNotes:
        """A channel is being opened; *to*: where it leads, "" for a session."""
        self._count += 1
        if kind == b"session":
            return SessionNotes(self._add, self._count, self._typed)
        return ForwardNotes(self._add, self._count, kind, _destination(to))

    def refused_open(self, kind: bytes, to: str) -> None:
        note(self._add, "forward", type=text(kind), to=_destination(to), refused=True)

    def listens(self, where: str, allowed: bool) -> None:
        """The client wants a listener on the target."""
        note(self._add, "forward", listen=_destination(where), refused=not allowed)


@define(eq=False)
class ChannelNotes:
    """One channel. What a kind of channel does not care about, it passes over."""

    _add: Add = field(repr=False)
    number: int

    def data(self, side: int, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def asks(self, request: bytes, detail: bytes) -> None:
        """The client asks for something that it may have."""

    def denied(self, request: bytes) -> None:
        """The client asked for something that it may not have."""
        if request not in _NOISE:
            self.note("denied", request=text(request))

    def refused(self, request: bytes) -> None:
        """The target said no."""
        self.note("refused", request=text(request))

    def told(self, request: bytes, detail: Reader) -> None:
        """The target says something about the channel."""

    def close(self) -> None: ...

    def note(self, kind: str, **facts: Any) -> None:
        note(self._add, kind, channel=self.number, **facts)


@define(eq=False)
class ForwardNotes(ChannelNotes):
    """A connection through the session: where it leads, and how much went each way."""

    _kind: bytes = b""
    _to: Text = ""
    _refused: bool = False
    _carried: list[int] = field(factory=lambda: [0, 0])

    def data(self, side: int, data: bytes) -> None:
        self._carried[side] += len(data)

    def refused(self, request: bytes) -> None:
        self._refused = True

    def close(self) -> None:
        counts = {"bytes_in": self._carried[0], "bytes_out": self._carried[1]}
        facts = {"refused": True} if self._refused else counts
        self.note("forward", type=text(self._kind), to=self._to, **facts)


class SessionNotes(ChannelNotes):
    """A shell, a command or a subsystem."""

    def __init__(self, add: Add, number: int, typed: bool) -> None:
        super().__init__(add, number)
        self._environment: dict[str, Text] = {}
        self._variables = 0  # bytes
        self._pty: dict[str, Any] | None = None
        self._started = 0  # shells, commands and subsystems that were not refused
        self._files: Files | None = None
        self._typed = Typed() if typed else None
        self._sent = 0
        self._printed = [0, 0]  # stdout and stderr, bytes
        self._room = [PRINTED, PRINTED]  # for what they print without a terminal

    # -- what the client asks for

    def asks(self, request: bytes, detail: bytes) -> None:
        handler = _ASKED.get(request)
        if handler is not None:
            handler(self, Reader(detail, 0))
        elif request in (b"auth-agent-req@openssh.com", b"x11-req"):
            self.note("agent" if request.startswith(b"auth") else "x11")

    def _terminal(self, detail: Reader) -> None:
        term, columns, rows = detail.string(), detail.uint32(), detail.uint32()
        self._pty = {"term": text(term[:MAX_TERM]), "columns": columns, "rows": rows}

    def _variable(self, detail: Reader) -> None:
        """Shells can be made to run what a variable holds, so that each is recorded."""
        name, value = detail.string(), detail.string()
        self._variables += len(name) + len(value)
        if self._variables > MAX_ENVIRONMENT:
            raise ProtocolViolation("the environment is too large")
        self._environment[name.decode("utf-8", "backslashreplace")] = text(value)

    def _resized(self, detail: Reader) -> None:
        columns, rows = detail.uint32(), detail.uint32()
        self.note("resize", columns=columns, rows=rows)

    def _signalled(self, detail: Reader) -> None:
        self.note("signal", signal=text(detail.string()))

    def _shell(self, detail: Reader) -> None:
        self._begins("shell", None)

    def _subsystem(self, detail: Reader) -> None:
        name = detail.string()
        files = SftpWatch(self._operation) if name == b"sftp" else None
        self._begins("subsystem", files, subsystem=text(name))

    def _exec(self, detail: Reader) -> None:
        command = detail.string()
        copy = scp_request(command)
        files = ScpWatch(self._operation, *copy) if copy is not None else None
        self._begins("exec", files, command=text(command))

    def _begins(self, what: str, files: Files | None, **facts: Any) -> None:
        """Which of several at once the target takes is not known: none is watched then."""
        self.note("channel", type=what, pty=self._pty, environment=self._environment, **facts)
        self._started += 1
        self._watch(files if self._started == 1 and self._pty is None else None)

    def refused(self, request: bytes) -> None:
        super().refused(request)
        if request in _STARTS:
            self._started -= 1
            self._watch(None)

    def _watch(self, files: Files | None) -> None:
        watched, self._files = self._files, files
        if watched is not None:
            watched.close()

    def _operation(self, event: Facts) -> None:
        self.note("file", **event)
        if event["operation"] == "undecoded":
            self._files = None  # it is something else, and recorded as that

    # -- what goes by

    def data(self, side: int, data: bytes) -> None:
        if self._files is not None:
            (self._files.from_target if side else self._files.from_client)(data)
        if side:
            self._output(STDOUT, data)
        else:
            self._input(data)

    def stderr(self, data: bytes) -> None:
        self._output(STDERR, data)

    def _output(self, stream: int, data: bytes) -> None:
        self._printed[stream] += len(data)
        if self._pty is None:
            data = self._cut(stream, data)
        elif self._typed is not None:
            self._keys(self._typed.shown(data))
        if data:
            self._add(OUTPUT, _output(self.number, stream) + data)

    def _cut(self, stream: int, data: bytes) -> bytes:
        if stream == STDOUT and self._files is not None:
            return b""  # the contents of files
        data = data[: self._room[stream]]
        self._room[stream] -= len(data)
        return data

    def _input(self, data: bytes) -> None:
        self._sent += len(data)
        if self._typed is not None and self._pty is not None:
            self._keys(self._typed.typed(data))

    def _keys(self, shown: bytes) -> None:
        """What was typed and may be recorded: the terminal has shown it."""
        if shown:
            self._add(INPUT, _input(self.number) + shown)

    # -- how it ends

    def told(self, request: bytes, detail: Reader) -> None:
        if request == b"exit-status":
            self.note("exit", exit_status=detail.uint32())
        elif request == b"exit-signal":
            self.note("exit", exit_signal=text(detail.string()), core_dumped=detail.boolean())

    def close(self) -> None:
        self._watch(None)
        out, err = self._printed
        self.note("closed", bytes_in=self._sent, bytes_out=out, bytes_err=err)


_ASKED: Mapping[bytes, Callable[[SessionNotes, Reader], None]] = {
    b"pty-req": SessionNotes._terminal,
    b"env": SessionNotes._variable,
    b"window-change": SessionNotes._resized,
    b"signal": SessionNotes._signalled,
    b"shell": SessionNotes._shell,
    b"subsystem": SessionNotes._subsystem,
    b"exec": SessionNotes._exec,
}


def note(add: Add, kind: str, **facts: Any) -> None:
    add(NOTE, json.dumps({"kind": kind, **facts}).encode())


def _destination(to: str) -> Text:
    """:param to: bytes that are not UTF-8 are surrogates there"""
    return text(to[:MAX_TO].encode("utf-8", "surrogateescape"))
