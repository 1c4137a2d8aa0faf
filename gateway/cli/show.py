"""How listings are printed: a table for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from gateway.errors import printable

NARROW = 40  # cells: text folded into less than half a usual terminal is hard to read
LEAST = 24  # cells: what is narrower is nobody's terminal
BELOW = "    "  # in front of what had no room in its line
GAP = 2  # cells between columns

Row = Mapping[str, Any]
Shown = Callable[[Row], Row]
"""The cells of a row that matter to people, by the titles of their columns; long text last."""


def listing(rows: Sequence[Row], shown: Shown, form: str, nothing: str) -> None:
    """*rows* as they are in JSON, or as they are *shown* in a table; *nothing*: if there are none.

    A terminal's width is kept to. What is piped is as wide as it is.
    """
    if form == "json":
        click.echo(json.dumps(list(rows), indent=2))
        return
    if not rows:
        click.echo(nothing, err=True)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    width = max(console.width, LEAST) if console.is_terminal else None
    cells = [shown(row) for row in rows]
    table = [[*cells[0]], *([cell(value) for value in each.values()] for each in cells)]
    head, *lines = _lines(table, width)
    console.print(Text("\n".join(head), style="bold"), soft_wrap=True)
    for line in lines:
        click.echo("\n".join(line))


def _lines(table: Sequence[Sequence[str]], width: int | None) -> Iterator[list[str]]:
    """Each row's lines. The columns but the last are as wide as what is in them."""
    from rich.cells import cell_len, set_cell_size

    widths = [max(map(cell_len, column)) + GAP for column in zip(*table, strict=True)][:-1]
    for *cells, last in table:
        first = "".join(map(set_cell_size, cells, widths))
        yield [(first + last).rstrip()] if width is None else _fitted(first, last, width)


def _fitted(first: str, last: str, width: int) -> list[str]:
    """What *last* has no room for is folded in its column, or goes below where that is narrow."""
    from rich.cells import cell_len

    taken = cell_len(first)
    if taken + cell_len(last) <= width:
        return [(first + last).rstrip()]
    if width - taken >= NARROW:
        begun, *rest = _folded(last, width - taken)
        return [first + begun, *(" " * taken + line for line in rest)]
    begun, *rest = _folded(first, width)
    below = " ".join([*rest, last]).rstrip()
    return [begun, *(BELOW + line for line in _folded(below, width - len(BELOW)) if line)]


def _folded(text: str, width: int) -> list[str]:
    """Lines of words, of which only those longer than *width* are cut."""
    from rich.console import Console
    from rich.text import Text

    return [str(line).rstrip() for line in Text(text).wrap(Console(), width)]


def moment(at: object, later: float = 0.0) -> str:
    """The time *later* seconds after an ISO 8601 one, by the clock here; of today without the date.

    What is no such time is shown as it is.
    """
    try:
        when = datetime.fromisoformat(str(at)).astimezone() + timedelta(seconds=later)
    except (ValueError, OverflowError, OSError):
        return cell(at)
    today = datetime.now().astimezone().date()
    return f"{when:%H:%M:%S}" if when.date() == today else f"{when:%Y-%m-%d %H:%M}"


def facts(known: Row) -> str:
    """``name=value`` of all that there is; no value can pass for another fact."""
    return " ".join(f"{cell(name)}={_value(is_)}" for name, is_ in known.items() if is_)


def _value(value: Any) -> str:
    if isinstance(value, str) and not re.fullmatch(r"[^\s\"=]+", value):
        value = json.dumps(value, ensure_ascii=False)
    return cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def cell(value: Any) -> str:
    """One value as one printable line."""
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return printable(", ".join(value))
    return printable(json.dumps(value, ensure_ascii=False))
