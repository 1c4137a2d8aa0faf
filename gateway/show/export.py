"""Transcripts in other forms: one JSON object a line, and lines for a terminal.

What is shown was typed by somebody and is hostile to terminals until escaped.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, TextIO

from gateway.record.facts import octets

Event = Mapping[str, Any]


def to_jsonl(events: Iterable[Event], out: TextIO) -> None:
    """One object a line, in ASCII: no control character gets through."""
    for event in events:
        out.write(json.dumps(event, allow_nan=False) + "\n")


def to_html(events: Iterable[Event], out: TextIO, warning: str = "") -> None:
    """A page that needs nothing else: the listing, escaped, below whose it is and a *warning*."""
    following = iter(events)
    begun = list(islice(following, 1))
    title = _escaped(_title(begun[0] if begun else {}))
    out.write(f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{title}</title>\n')
    out.write(f"<h1>{title}</h1>\n")
    if warning:
        out.write(f'<p role="alert"><mark>Warning: {_escaped(warning)}</mark></p>\n')
    out.write("<pre>\n")
    for line in listing(chain(begun, following)):
        out.write(html.escape(line) + "\n")
    out.write("</pre>\n")


def _title(start: Event) -> str:
    """Of a session that begins so."""
    if start.get("kind") != "start":
        return "Session"
    day = str(start.get("started"))[: len("2026-11-18")]
    return f"{start.get('user')} on {start.get('resource')}, {day}: session {start.get('id')}"


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def listing(events: Iterable[Event]) -> Iterator[str]:
    """All of them as lines."""
    shown = Listing()
    for event in events:
        yield from shown.lines(event)


class Listing:
    """Lines ``SECONDS  what happened``, in order of time, of events that come by and by.

    Further lines of what somebody wrote stand behind a bar, so that none of them can pass
    for what we say: another event, or an outcome (behind an arrow).
    """

    def __init__(self) -> None:
        self._last = 0.0

    def lines(self, event: Event) -> Iterator[str]:
        self._last = max(self._last, _known_at(event))
        show = _SHOWN.get(str(event.get("kind")), _plain)
        first, *rest = show(event).split("\n")
        yield f"{self._last:>10.3f}  {printable(first)}"
        yield from (f"{'|':>10}  {printable(line)}" for line in rest)
        yield from (f"{mark:>10}  {printable(line)}" for mark, line in _notes(event))


def _known_at(event: Event) -> float:
    """When it happened, in seconds; of a command when it ended: its channel tells of its start."""
    at = float(event.get("at", 0))
    return at + _took(event) / 1000 if event.get("kind") == "exec" else at


def _took(event: Event) -> float:
    """Milliseconds; 0 if that is not known."""
    told = event.get("duration_ms")
    return told if isinstance(told, int | float) else 0.0


def counted(count: object, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def printable(text: str) -> str:
    """*text* with what moves cursors, hides or reorders shown by its code."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\t":
        return " "
    category = unicodedata.category(character)
    if category[0] != "C" and category not in ("Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode()


def _start(event: Event) -> str:
    where = f"{event.get('resource')} as {event.get('account')} ({event.get('target')})"
    return f"{event.get('started')}  {event.get('user')} from {event.get('source')} on {where}"


def _statement(event: Event) -> str:
    sql = event.get("sql")
    return sql if isinstance(sql, str) else f"({event.get('name')}: not named in this session)"


def _notes(event: Event) -> Iterator[tuple[str, str]]:
    """A mark and a line each: what belongs to a statement and is not its text."""
    if event.get("kind") != "statement":
        return
    if event.get("parameters"):
        yield "with", json.dumps(event["parameters"], ensure_ascii=False)
    if isinstance(event.get("truncated"), Mapping):
        yield "cut", f"{counted(event['truncated'].get('length'), 'byte')} in all"
    yield "->", _outcome(event)


def _outcome(event: Event) -> str:
    if event.get("skipped"):
        return "skipped"
    if event.get("sqlstate"):
        said = f"ERROR {event['sqlstate']}: {event.get('message')}".replace("\n", " ")
    else:
        tags = event.get("tags") or [event.get("tag") or "no answer"]
        said = " ".join(map(str, tags)) if isinstance(tags, list) else str(tags)
    if event.get("duration_ms") is not None:
        said += f"  {_took(event):.3f} ms"
    state = event.get("transaction")
    return said if state in (None, "idle") else f"{said}  [{state}]"


def _copy(event: Event) -> str:
    rows = event.get("rows")
    said = "" if rows is None else f", {counted(rows, 'row')}"
    return f"copy {event.get('direction')}: {counted(event.get('bytes'), 'byte')}{said}"


def _reroute(event: Event) -> str:
    where = f"{_word(event.get('from'))} -> {_word(event.get('to'))}"
    return f"reroute  {where}: {_word(event.get('why'))}"


def _end(event: Event) -> str:
    detail = f": {event['detail']}" if event.get("detail") else ""
    count = counted(event.get("statements"), "statement")
    return f"end: {event.get('reason')}{detail} ({count})"


def _plain(event: Event) -> str:
    facts = {name: value for name, value in event.items() if name not in ("at", "kind")}
    said = json.dumps(facts, ensure_ascii=False) if facts else ""
    return f"{event.get('kind')} {said}".rstrip()


# -- what only SSH sessions have: KIND CHANNEL: what somebody said ---------------------------


def _said(event: Event, what: str) -> str:
    channel = "" if event.get("channel") is None else f" {event['channel']}"
    return f"{event.get('kind')}{channel}: {what}".removesuffix(": ")


def _text(value: Any) -> str:
    """Text, as it was written; bytes that are none by their codes."""
    if isinstance(value, str):
        return value
    try:
        return octets(value).decode("utf-8", "backslashreplace")
    except (KeyError, TypeError, ValueError):
        return json.dumps(value, ensure_ascii=False)


def _word(value: Any) -> str:
    """:func:`_text` that stays on its line."""
    return printable(_text(value))


def _channel(event: Event) -> str:
    pty, environment = event.get("pty"), event.get("environment")
    said = _text(event.get("type"))
    if isinstance(pty, Mapping):
        said += f" on {_word(pty.get('term'))} {pty.get('columns')}x{pty.get('rows')}"
    if isinstance(environment, Mapping):
        said += "".join(f", {_word(name)}={_word(value)}" for name, value in environment.items())
    what = event.get("command", event.get("subsystem"))
    return _said(event, said if what is None else f"{said}, {_text(what)}")


def _output(event: Event) -> str:
    stream = " stderr" if event.get("stream") == "stderr" else ""
    lines = _text(event.get("data")).replace("\r\n", "\n").removesuffix("\n")
    return f"{event.get('kind')} {event.get('channel')}{stream}: {lines}"


def _result(event: Event) -> str:
    """How a command or a shell ended."""
    if event.get("refused"):
        return "refused"
    said = "no answer"
    if event.get("exit_signal") is not None:
        said = f"signal {_word(event['exit_signal'])}"
    elif event.get("exit_status") is not None:
        said = f"status {event['exit_status']}"
    return said if event.get("duration_ms") is None else f"{said}  {_took(event):.3f} ms"


def _exit(event: Event) -> str:
    return _said(event, _result(event))


def _closed(event: Event) -> str:
    counts = (f"{counted(event.get(f'bytes_{way}'), 'byte')} {way}" for way in ("in", "out", "err"))
    return _said(event, ", ".join(counts))


def _file(event: Event) -> str:
    said = f"{_word(event.get('operation'))} {_word(event.get('path'))}"
    if event.get("to") is not None:
        said += f" to {_word(event['to'])}"
    if event.get("bytes") is not None:
        said += f", {counted(event['bytes'], 'byte')}"
    told = ("at", "kind", "channel", "operation", "path", "to", "bytes")
    rest = {name: value for name, value in event.items() if name not in told}
    said += "".join(
        f", {_word(name)} {_word(is_)}" for name, is_ in rest.items() if is_ is not None
    )
    return _said(event, said)


def _forward(event: Event) -> str:
    said = f"{_word(event.get('type'))} to {_word(event.get('to'))}"
    if "listen" in event:
        said = f"listens at {_word(event['listen'])}"
    if event.get("refused"):
        said += ", refused"
    elif "bytes_in" in event:
        said += f", {counted(event['bytes_in'], 'byte')} in"
        said += f", {counted(event.get('bytes_out'), 'byte')} out"
    return _said(event, said)


def _resize(event: Event) -> str:
    return _said(event, f"{event.get('columns')}x{event.get('rows')}")


def _request(event: Event) -> str:
    return _said(event, _word(event.get("request")))


def _signal(event: Event) -> str:
    return _said(event, _word(event.get("signal")))


_SHOWN: dict[str, Callable[[Event], str]] = {
    "start": _start,
    "statement": _statement,
    "copy": _copy,
    "reroute": _reroute,
    "end": _end,
    "channel": _channel,
    "output": _output,
    "input": _output,
    "exec": _exit,
    "exit": _exit,
    "closed": _closed,
    "file": _file,
    "forward": _forward,
    "resize": _resize,
    "signal": _signal,
    "denied": _request,
    "refused": _request,
}
