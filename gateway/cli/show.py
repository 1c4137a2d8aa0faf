"""How listings are printed: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click


def listing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: str) -> None:
    """*rows* as JSON, or their *columns* as a table."""
    if form == "json":
        click.echo(json.dumps(list(rows), indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(column))) for column in columns))
    console = Console()
    # Nobody's terminal wraps a pipe.
    console.print(table, width=None if console.is_terminal else 1000)


def cell(value: Any) -> str:
    """One value as printable text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))


def printable(text: str) -> str:
    """Control characters escaped, so that no terminal obeys what somebody else typed."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
