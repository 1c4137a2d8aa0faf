"""What a terminal showed, as asciicast v3 (docs.asciinema.org/manual/asciicast/v3). Sans-IO.

A transcript has many channels and a cast shows one: the one that was asked for, or the
first that has a terminal. Its bytes were cut wherever a packet ended, so each stream goes
through a decoder that joins the halves of a character.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TextIO

from attrs import frozen

from gateway.errors import GatewayError
from gateway.record.facts import octets

Event = Mapping[str, Any]

COLUMNS, ROWS = 80, 24  # where nobody said (or said 0: RFC 4254, 6.2, "ignore")
MAX_SIDE = 1000  # cells: more than any screen has, and players allocate columns times rows
MAX_STATUS = (1 << 31) - 1  # asciinema reads exit statuses as int32; SSH sends uint32

_Utf8 = getincrementaldecoder("utf-8")


class NoTerminal(GatewayError):
    """Nothing in this session can be shown as a terminal, or not what was asked for."""


@frozen
class Screen:
    """The channel that is shown, as it was when it opened.

    ``at`` is seconds since the session began, ``timestamp`` since the epoch. Without a
    ``pty`` the channel carried a program's plain output, and ``term`` is None.
    """

    channel: int
    at: float
    timestamp: int | None
    title: str
    pty: bool
    term: str | None
    columns: int
    rows: int


@frozen
class Frame:
    """One thing to show; ``at`` is never before that of the frame in front of it.

    ``code`` is asciicast's: "o" output, "i" input, "r" new size as COLUMNSxROWS, "x" exit
    status. ``data`` is anything that somebody typed or printed: hostile to terminals.
    """

    at: float
    code: str
    data: str


def to_cast(events: Iterable[Event], out: TextIO, channel: int | None = None) -> None:
    """Write a cast, in ASCII: no control character gets through.

    :raises NoTerminal: there is no channel to show; nothing was written then
    """
    screen, following = shown(events, channel)
    out.write(json.dumps(_header(screen)) + "\n")
    last = _microseconds(screen.at)
    for frame in following:
        now = _microseconds(frame.at)
        seconds, fraction = divmod(now - last, 1_000_000)
        data = json.dumps(frame.data)
        out.write(f'[{seconds}.{fraction:06}, "{frame.code}", {data}]\n')
        last = now


def shown(events: Iterable[Event], channel: int | None = None) -> tuple[Screen, Iterator[Frame]]:
    """The channel to show, and what follows in it, read from *events* as it is asked for.

    :raises NoTerminal: there is no such channel; without *channel*: none with a terminal
    """
    following = iter(events)
    start: Event = {}
    for event in following:
        if event["kind"] == "start":
            start = event
        elif event["kind"] == "channel" and _wanted(event, channel):
            screen = _screen(event, start)
            return screen, _Channel(screen).frames(following)
    if channel is None:
        raise NoTerminal("no channel of this session has a terminal")
    raise NoTerminal(f"this session has no channel {channel}")


def _wanted(event: Event, channel: int | None) -> bool:
    if channel is None:
        return event.get("pty") is not None
    return bool(event["channel"] == channel)


def _screen(event: Event, start: Event) -> Screen:
    pty = event.get("pty")
    known = pty or {}
    term = known.get("term")
    return Screen(
        channel=event["channel"],
        at=event["at"],
        timestamp=_timestamp(start.get("started"), event["at"]),
        title=f"{start.get('user')} on {start.get('resource')} as {start.get('account')}",
        pty=pty is not None,
        term=term if isinstance(term, str) else None,
        columns=_side(known.get("columns"), COLUMNS),
        rows=_side(known.get("rows"), ROWS),
    )


def _timestamp(started: Any, at: float) -> int | None:
    try:
        return int(datetime.fromisoformat(started).timestamp() + at)
    except (TypeError, ValueError):
        return None  # it is optional; the rest is as good without


def _side(cells: int | None, otherwise: int) -> int:
    return min(cells or otherwise, MAX_SIDE)


def _header(screen: Screen) -> dict[str, Any]:
    term: dict[str, Any] = {"cols": screen.columns, "rows": screen.rows}
    if screen.term:
        term["type"] = screen.term
    header: dict[str, Any] = {"version": 3, "term": term}
    if screen.timestamp is not None:
        header["timestamp"] = screen.timestamp
    return header | {"title": screen.title}


def _microseconds(at: float) -> int:
    return round(at * 1_000_000)


class _Channel:
    """The frames of one channel: what events split is joined, other channels' are left out."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._size = screen.columns, screen.rows
        self._at = screen.at
        self._streams = {
            (code, stream): _Utf8("replace")
            for code, stream in (("o", "stdout"), ("o", "stderr"), ("i", None))
        }
        self._status: int | None = None

    def frames(self, events: Iterable[Event]) -> Iterator[Frame]:
        for event in events:
            if event.get("channel") == self._screen.channel:
                yield from self._frames(event)
        for code, stream in self._streams:  # a character of which the rest never came
            yield from self._text(code, stream, b"", final=True)
        if self._status is not None:  # told before the last output; players stop here
            yield Frame(self._at, "x", str(self._status))

    def _frames(self, event: Event) -> Iterator[Frame]:
        self._at = max(self._at, event["at"])
        kind = event["kind"]
        if kind == "output":
            yield from self._text("o", event["stream"], octets(event["data"]))
        elif kind == "input":
            yield from self._text("i", None, octets(event["data"]))
        elif kind == "resize":
            yield from self._resized(event)
        elif kind == "exec":
            status = event.get("exit_status")
            if status is not None and 0 <= status <= MAX_STATUS:
                self._status = status

    def _text(
        self, code: str, stream: str | None, data: bytes, final: bool = False
    ) -> Iterator[Frame]:
        text = self._streams[code, stream].decode(data, final)
        if code == "o" and not self._screen.pty:
            text = text.replace("\n", "\r\n")  # no terminal driver did it (ONLCR)
        if text:
            yield Frame(self._at, code, text)

    def _resized(self, event: Event) -> Iterator[Frame]:
        columns, rows = self._size
        size = _side(event["columns"], columns), _side(event["rows"], rows)
        if size != self._size:
            self._size = size
            yield Frame(self._at, "r", f"{size[0]}x{size[1]}")
