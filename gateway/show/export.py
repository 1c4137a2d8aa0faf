"""Transcripts in other forms: one JSON object a line, and lines for a terminal.

What is shown was typed by somebody and is hostile to terminals until escaped.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from gateway.record.facts import octets

Event = Mapping[str, Any]


def to_jsonl(events: Iterable[Event], out: TextIO) -> None:
    """One object a line, in ASCII: no control character gets through."""
    for event in events:
        out.write(json.dumps(event, allow_nan=False) + "\n")


def to_html(events: Iterable[Event], out: TextIO) -> None:
    """A page that needs nothing else: the listing, escaped."""
    out.write('<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Session</title>\n<pre>\n')
    for line in listing(events):
        out.write(html.escape(line) + "\n")
    out.write("</pre>\n")


def listing(events: Iterable[Event]) -> Iterator[str]:
    """Lines ``SECONDS  what happened``.

    Further lines of what somebody wrote stand behind a bar, so that none of them can pass
    for what we say: another event, or an outcome (behind an arrow).
    """
    for event in events:
        show = _SHOWN.get(str(event.get("kind")), _plain)
        first, *rest = show(event).split("\n")
        yield f"{event.get('at', 0):>10.3f}  {printable(first)}"
        yield from (f"{'|':>10}  {printable(line)}" for line in rest)
        yield from (f"{mark:>10}  {printable(line)}" for mark, line in _notes(event))


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
    """A mark and a line each: what belongs to a statement or command and is not its text."""
    if event.get("kind") == "exec":
        yield "->", _result(event)
    if event.get("kind") != "statement":
        return
    if event.get("parameters"):
        yield "with", json.dumps(event["parameters"], ensure_ascii=False)
    if event.get("truncated"):
        yield "cut", f"{event['truncated']['length']} bytes in all"
    yield "->", _outcome(event)


def _outcome(event: Event) -> str:
    if event.get("skipped"):
        return "skipped"
    if event.get("sqlstate"):
        said = f"ERROR {event['sqlstate']}: {event.get('message')}".replace("\n", " ")
    else:
        said = " ".join(event.get("tags") or [event.get("tag") or "no answer"])
    if event.get("duration_ms") is not None:
        said += f"  {event['duration_ms']:.3f} ms"
    state = event.get("transaction")
    return said if state in (None, "idle") else f"{said}  [{state}]"


def _copy(event: Event) -> str:
    rows = event.get("rows")
    counted = "" if rows is None else f", {rows} rows"
    return f"copy {event.get('direction')}: {event.get('bytes')} bytes{counted}"


def _end(event: Event) -> str:
    detail = f": {event['detail']}" if event.get("detail") else ""
    counts = f"{event.get('statements')} statements"
    return f"end: {event.get('reason')}{detail} ({counts})"


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


def _exec(event: Event) -> str:
    return _said(event, _text(event.get("command")))


def _result(event: Event) -> str:
    """How a command ended."""
    if event.get("refused"):
        return "refused"
    said = "no answer"
    if event.get("exit_signal") is not None:
        said = f"signal {_word(event['exit_signal'])}"
    elif event.get("exit_status") is not None:
        said = f"status {event['exit_status']}"
    duration = event.get("duration_ms")
    return said if duration is None else f"{said}  {duration:.3f} ms"


def _exit(event: Event) -> str:
    return _said(event, _result(event))


def _closed(event: Event) -> str:
    counts = (f"{event.get(f'bytes_{way}')} bytes {way}" for way in ("in", "out", "err"))
    return _said(event, ", ".join(counts))


def _file(event: Event) -> str:
    said = f"{_word(event.get('operation'))} {_word(event.get('path'))}"
    if event.get("to") is not None:
        said += f" to {_word(event['to'])}"
    if event.get("bytes") is not None:
        said += f", {event['bytes']} bytes"
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
        said += f", {event['bytes_in']} bytes in, {event.get('bytes_out')} bytes out"
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
    "end": _end,
    "channel": _channel,
    "output": _output,
    "input": _output,
    "exec": _exec,
    "exit": _exit,
    "closed": _closed,
    "file": _file,
    "forward": _forward,
    "resize": _resize,
    "signal": _signal,
    "denied": _request,
    "refused": _request,
}
