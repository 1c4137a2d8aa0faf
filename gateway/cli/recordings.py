"""Commands that read recordings: replay, watch, export, search, verify.

They read the files themselves, daemon or not; a running daemon is told, so that the audit
log knows who looked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

from gateway.cli.root import Context, command, format_option
from gateway.cli.show import listing
from gateway.control import FAILED, UNREACHABLE, CommandFailed
from gateway.errors import GatewayError, printable

VERDICTS = ("id", "status", "detail", "records")


@command()
@click.argument("session", metavar="ID")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table")
def replay(context: Context, session: str, form: str) -> None:
    """Show what happened in a session, running ones up to now."""
    from gateway.record import export

    path = _found(context, session, "replay")
    if form == "jsonl":
        export.to_jsonl(_events(path), sys.stdout)
        return
    for line in export.listing(_events(path)):
        click.echo(line)


@command()
@click.argument("session", metavar="ID")
def watch(context: Context, session: str) -> None:
    """Follow a running session until it ends (or Ctrl-C)."""
    path = _found(context, session, "watch")
    with suppress(KeyboardInterrupt):
        asyncio.run(_follow(path))


async def _follow(path: Path) -> None:
    from gateway.pg.transcript import Events
    from gateway.record import export, reader

    events = Events()
    async for record in reader.follow(path):
        for line in export.listing(events.feed(record)):
            click.echo(line)


@command()
@click.argument("session", metavar="ID")
@click.option("--to", "form", type=click.Choice(["jsonl"]), required=True)
@click.option("-o", "--output", type=click.File("w", lazy=True), default="-")
def export(context: Context, session: str, form: str, output: TextIO) -> None:
    """Write a session's transcript in another form."""
    from gateway.record.export import to_jsonl

    to_jsonl(_events(_found(context, session, "export")), output)


@command()
@click.argument("text")
@format_option
def search(context: Context, text: str, form: str) -> None:
    """Find statements that contain TEXT (any case), the newest sessions first."""
    from gateway.record.format import Damaged

    rows, unreadable = [], False
    for path in _transcripts(context):
        try:
            hits = [event for event in _events(path) if _contains(event, text)]
        except (Damaged, OSError) as why:
            click.echo(printable(f"gateway: {path.stem}: {why}"), err=True)
            unreadable = True
            continue
        if hits:
            _tell(context, path.stem, "search")
        rows += [{"id": path.stem, "at": hit["at"], "sql": hit["sql"]} for hit in hits]
    listing(rows, ("id", "at", "sql"), form)
    raise SystemExit(FAILED if unreadable else 0)


def _contains(event: Mapping[str, Any], text: str) -> bool:
    sql = event.get("sql")
    return isinstance(sql, str) and text.casefold() in sql.casefold()


@command()
@click.argument("session", metavar="ID", required=False)
@click.option("--all", "every", is_flag=True, help="All transcripts, and the audit log.")
@format_option
def verify(context: Context, session: str | None, every: bool, form: str) -> None:
    """Check that nobody altered a transcript: ok, open, truncated or altered (exit 1)."""
    if every == (session is not None):
        raise click.UsageError("name one session, or say --all")
    from gateway.record import reader

    places = context.places()
    if every:
        paths = [*_transcripts(context), *sorted(places.audit.glob("*.gwt"))]
    else:
        paths = [reader.find(places.transcripts, session or "")]
    verdicts = list(_verdicts(context, paths))
    listing(verdicts, VERDICTS, form)
    raise SystemExit(FAILED if any(row["status"] == "altered" for row in verdicts) else 0)


def _verdicts(context: Context, paths: list[Path]) -> Iterator[dict[str, Any]]:
    from gateway.record.keys import signing_key
    from gateway.record.verify import verify as judge
    from gateway.store import read_digest
    from gateway.vault import FileVault

    places = context.places()
    if not paths:
        return
    if not places.keys.is_dir():  # they would be made, and fit nothing
        raise GatewayError(f"{places.keys}: what the transcripts were signed with is not there")
    public = signing_key(places.keys).public_key()
    mac = FileVault.open(places.keys).derive(b"transcripts")
    for path in paths:
        verdict = judge(path, public, mac, read_digest(places.store, path.stem))
        yield {
            "id": path.stem,
            "status": verdict.status,
            "detail": verdict.detail,
            "records": verdict.records,
        }


def _found(context: Context, session: str, how: str) -> Path:
    from gateway.record import reader

    path = reader.find(context.places().transcripts, session)
    _tell(context, path.stem, how)
    return path


def _tell(context: Context, session: str, how: str) -> None:
    """What the daemon cannot note is not read; without one there is no audit log."""
    try:
        context.call("read", id=session, how=how)
    except CommandFailed as failed:
        if failed.code != UNREACHABLE:
            raise


def _transcripts(context: Context) -> list[Path]:
    found = context.places().transcripts.glob("*/*/*/*.gwt")
    return sorted(found, key=_written, reverse=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its days were over just now
        return 0.0


def _events(path: Path) -> Iterator[dict[str, Any]]:
    from gateway.pg.transcript import events
    from gateway.record.reader import records

    return events(records(path))
