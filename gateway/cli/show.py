"""How listings are printed: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway.errors import printable


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
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)  # an id is there to copy
    for row in rows:
        table.add_row(*(Text(cell(row.get(column))) for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = 1000  # columns: nobody's screen wraps a pipe
    console.print(table)


def cell(value: Any) -> str:
    """One value as printable text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))
