"""Commands that show recordings: replay, watch, export, search.

They read the files themselves, daemon or not; the audit log knows who looked.
"""

from __future__ import annotations

import asyncio
import sys
from base64 import b64decode
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click
from attrs import frozen

from gateway.cli.audit import note
from gateway.cli.root import Context, command, format_option
from gateway.cli.show import Row, listing, moment
from gateway.cli.verdicts import doubted, doubts, tell
from gateway.control import FAILED
from gateway.errors import printable


@command()
@click.argument("session", metavar="ID")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table")
@click.option("--speed", type=click.FloatRange(1 / 64, 64), default=1.0, help="Of a terminal.")
@click.option("--idle-limit", type=click.FloatRange(min=0), help="Longest pause, in seconds.")
@click.option("--channel", type=int, help="Which terminal, where there are several.")
def replay(
    context: Context,
    session: str,
    form: str,
    speed: float,
    idle_limit: float | None,
    channel: int | None,
) -> None:
    """Show what happened in a session, running ones up to now.

    Terminals are played: space pauses, + and - change the speed, q quits.
    """
    from gateway.show import export

    path = _found(context, session, "replay")
    with doubted(context, path):
        if form == "jsonl":
            export.to_jsonl(_events(path), sys.stdout)
        else:
            _show(path, speed=speed, idle_limit=idle_limit, channel=channel)


def _show(path: Path, *, channel: int | None, **pace: Any) -> None:
    from gateway.cli import player
    from gateway.show import export

    if _has_terminal(path, channel):
        player.replay(_events(path), sys.stdin, sys.stdout, channel=channel, **pace)
        return
    for line in export.listing(_events(path)):
        click.echo(line)


def _has_terminal(path: Path, channel: int | None) -> bool:
    from gateway.record.format import Damaged
    from gateway.show.cast import NoTerminal, shown

    try:
        shown(_events(path), channel)
    except (NoTerminal, Damaged):
        return False
    return True


@command()
@click.argument("session", metavar="ID")
def watch(context: Context, session: str) -> None:
    """Follow a running session until it ends (or Ctrl-C)."""
    path = _found(context, session, "watch")
    with suppress(KeyboardInterrupt):
        asyncio.run(_follow(path))


async def _follow(path: Path) -> None:
    from gateway.record import reader
    from gateway.told import Events

    events, screen = Events(), _Screen()
    try:
        async for record in reader.follow(path):
            for event in events.feed(record):
                screen.show(event)
    finally:
        screen.close()


class _Screen:
    """Events as lines; what terminals show as they show it, but for what would command ours."""

    def __init__(self) -> None:
        from gateway.show.export import Listing

        self._listing = Listing()
        self._terminals: dict[Any, _Terminal] = {}

    def show(self, event: dict[str, Any]) -> None:
        channel = event.get("channel")
        if event["kind"] == "channel" and event.get("pty"):
            self._terminals[channel] = _Terminal()
        if event["kind"] == "output" and channel in self._terminals:
            click.echo(self._terminals[channel].shown(event["data"]), nl=False)
            return
        for line in self._listing.lines(event):
            click.echo(line)

    def close(self) -> None:
        from gateway.cli.vt import RESET

        if self._terminals and sys.stdout.isatty():
            click.echo(RESET, nl=False)


class _Terminal:
    """The output of one terminal, made harmless; characters may come in pieces."""

    def __init__(self) -> None:
        from gateway.cli.vt import Filter

        self._filter = Filter()
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def shown(self, data: str | dict[str, str]) -> str:
        octets = data.encode() if isinstance(data, str) else b64decode(data["base64"])
        return self._filter.feed(self._decoder.decode(octets))


@command()
@click.argument("session", metavar="ID")
@click.option("--to", "form", type=click.Choice(["jsonl", "cast", "html"]), required=True)
@click.option("--channel", type=int, help="Which terminal (cast).")
@click.option("-o", "--output", type=click.File("w", lazy=True), default="-")
def export(context: Context, session: str, form: str, channel: int | None, output: TextIO) -> None:
    """Write a transcript in another form: cast is asciinema's."""
    from gateway.show.cast import to_cast
    from gateway.show.export import to_html, to_jsonl

    path = _found(context, session, "export")
    with doubted(context, path) as doubt:
        if form == "cast":
            to_cast(_events(path), output, channel)
        elif form == "html":
            to_html(_events(path), output, doubt)
        else:
            to_jsonl(_events(path), output)


@command()
@click.argument("text")
@format_option
def search(context: Context, text: str, form: str) -> None:
    """Find statements, commands and files that contain TEXT.

    In any case; the newest sessions come first.
    """
    from gateway.record import reader
    from gateway.record.format import Damaged

    found: dict[Path, _Found] = {}
    unreadable = False
    for path in reader.newest(context.places().transcripts):
        try:
            hits = _Found.of(path, text)
        except (Damaged, OSError) as why:
            click.echo(printable(f"gateway: {path.stem}: {why}"), err=True)
            unreadable = True
            continue
        if hits.rows:
            found[path] = hits
    note(context, "transcript.read", *({"session": path.stem, "how": "search"} for path in found))
    starts = {path.stem: hits.start for path, hits in found.items()}
    rows = [row for hits in found.values() for row in hits.rows]
    listing(rows, lambda row: _shown(row, starts[row["id"]]), form, "nothing found")
    altered = tell(doubts(context, [*found]))
    raise SystemExit(FAILED if unreadable else altered)


@frozen
class _Found:
    """What was found in one session, and how that began."""

    start: Mapping[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, path: Path, text: str) -> _Found:
        start: Mapping[str, Any] = {}
        rows = []
        for event in _events(path):
            if event["kind"] == "start":
                start = event
            elif _contains(event, text):
                rows.append(
                    {"id": path.stem, "at": event["at"], _SAID[event["kind"]]: _said(event)}
                )
        return cls(start, rows)


def _shown(row: Row, start: Row) -> Row:
    return {
        "id": row["id"],
        "when": moment(start.get("started"), row["at"]),
        "at": f"{row['at']:.3f}",
        "user": start.get("user"),
        "resource": start.get("resource"),
        "text": next(row[name] for name in _SAID.values() if name in row),
    }


_SAID = {"statement": "sql", "exec": "command", "file": "path"}
"""Where an event has what a person asked for, by its kind."""


def _said(event: Mapping[str, Any]) -> object:
    return event.get(_SAID.get(event["kind"], ""))


def _contains(event: Mapping[str, Any], text: str) -> bool:
    said = _said(event)
    return isinstance(said, str) and text.casefold() in said.casefold()


def _found(context: Context, session: str, how: str) -> Path:
    from gateway.record import reader

    path = reader.find(context.places().transcripts, session)
    note(context, "transcript.read", {"session": path.stem, "how": how})
    return path


def _events(path: Path) -> Iterator[dict[str, Any]]:
    from gateway.record.reader import records
    from gateway.told import events

    return events(records(path))
