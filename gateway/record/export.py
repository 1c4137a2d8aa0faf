"""Transcripts in other forms: one JSON object a line, and lines for a terminal.

What is shown was typed by somebody and is hostile to terminals until escaped.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

Event = Mapping[str, Any]


def to_jsonl(events: Iterable[Event], out: TextIO) -> None:
    """One object a line, in ASCII: no control character gets through."""
    for event in events:
        out.write(json.dumps(event, allow_nan=False) + "\n")


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
    """A mark and a line each: what belongs to a statement and is not its text."""
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


_SHOWN: dict[str, Callable[[Event], str]] = {
    "start": _start,
    "statement": _statement,
    "copy": _copy,
    "end": _end,
}
