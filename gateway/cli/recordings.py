"""Commands that read recordings: replay, watch, export, search, verify.

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

from gateway.cli.audit import note
from gateway.cli.root import Context, command, format_option
from gateway.cli.show import listing
from gateway.control import FAILED
from gateway.errors import GatewayError, printable

VERDICTS = ("id", "status", "detail", "records")


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
    from gateway.cli import player
    from gateway.show import export
    from gateway.show.cast import NoTerminal

    path = _found(context, session, "replay")
    if form == "jsonl":
        export.to_jsonl(_events(path), sys.stdout)
        return
    try:
        player.replay(
            _events(path),
            sys.stdin,
            sys.stdout,
            speed=speed,
            idle_limit=idle_limit,
            channel=channel,
        )
    except NoTerminal:
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
        self._terminals: dict[Any, _Terminal] = {}

    def show(self, event: dict[str, Any]) -> None:
        from gateway.show import export

        channel = event.get("channel")
        if event["kind"] == "channel" and event.get("pty"):
            self._terminals[channel] = _Terminal()
        if event["kind"] == "output" and channel in self._terminals:
            click.echo(self._terminals[channel].shown(event["data"]), nl=False)
            return
        for line in export.listing([event]):
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
    """Write a session's transcript in another form: cast is asciinema's."""
    from gateway.show.cast import to_cast
    from gateway.show.export import to_html, to_jsonl

    events = _events(_found(context, session, "export"))
    if form == "cast":
        to_cast(events, output, channel)
    else:
        {"jsonl": to_jsonl, "html": to_html}[form](events, output)


@command()
@click.argument("text")
@format_option
def search(context: Context, text: str, form: str) -> None:
    """Find statements and commands that contain TEXT (any case), the newest sessions first."""
    from gateway.record.format import Damaged

    rows, unreadable = [], False
    for path in _transcripts(context):
        try:
            hits = [event for event in _events(path) if _contains(event, text)]
        except (Damaged, OSError) as why:
            click.echo(printable(f"gateway: {path.stem}: {why}"), err=True)
            unreadable = True
            continue
        rows += [{"id": path.stem, "at": hit["at"], _SAID[hit["kind"]]: _said(hit)} for hit in hits]
    found = dict.fromkeys(row["id"] for row in rows)
    note(context, "transcript.read", *({"session": each, "how": "search"} for each in found))
    listing(rows, ("id", "at", *_SAID.values()), form)
    raise SystemExit(FAILED if unreadable else 0)


_SAID = {"statement": "sql", "exec": "command", "file": "path"}
"""Where an event has what a person asked for, by its kind."""


def _said(event: Mapping[str, Any]) -> object:
    return event.get(_SAID.get(event["kind"], ""))


def _contains(event: Mapping[str, Any], text: str) -> bool:
    said = _said(event)
    return isinstance(said, str) and text.casefold() in said.casefold()


@command()
@click.argument("sessions", metavar="[ID|FILE]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All transcripts, and the audit log.")
@click.option("--key", type=click.Path(path_type=Path), metavar="transcripts.pub",
              help="Judge by this public key alone, on any machine.")  # fmt: skip
@format_option
def verify(
    context: Context, sessions: tuple[str, ...], every: bool, key: Path | None, form: str
) -> None:
    """Check that nobody altered a transcript: ok, open, truncated or altered (exit 1).

    A FILE is a transcript, or a file of the audit log, with a / or .gwt in its name; it must
    be called what it was. With --key only what signatures cover is judged: all of one that is ok.
    """
    if every == bool(sessions):
        raise click.UsageError("name a session or a file, or say --all")
    paths = _everything(context) if every else [_named(context, name) for name in sessions]
    verdicts = list(_verdicts(context, paths, every, key))
    listing(verdicts, VERDICTS, form)
    raise SystemExit(FAILED if any(row["status"] == "altered" for row in verdicts) else 0)


def _everything(context: Context) -> list[Path]:
    return [*_transcripts(context), *sorted(context.places().audit.glob("*.gwt"))]


def _named(context: Context, name: str) -> Path:
    from gateway.record import reader
    from gateway.record.format import SUFFIX

    if "/" in name or name.endswith(SUFFIX):
        return Path(name)
    return reader.find(context.places().transcripts, name)


def _verdicts(
    context: Context, paths: list[Path], every: bool, key: Path | None
) -> Iterator[dict[str, Any]]:
    """*every*: those are all that there are, and what else the session index knows is missing.

    *key*: all that is known here of the gateway that wrote them.
    """
    from gateway.record.verify import verify as judge
    from gateway.store import read_digests

    digests = {} if key else read_digests(context.places().store)
    if every:
        for gone in sorted(digests.keys() - {path.stem for path in paths}):
            detail = "the session index knows it, and it is gone"
            yield {"id": gone, "status": "altered", "detail": detail, "records": 0}
    if not paths:
        return
    public, mac = _keys(context, key)
    for path in paths:
        verdict = judge(path, public, mac, digests.get(path.stem))
        yield {
            "id": path.stem,
            "status": verdict.status,
            "detail": verdict.detail,
            "records": verdict.records,
        }


def _keys(context: Context, key: Path | None) -> tuple[Any, bytes | None]:
    """The public key, and the secret of the tags where it is known."""
    from gateway.record.keys import load, public_key
    from gateway.vault import FileVault

    if key is not None:
        return public_key(key), None
    keys = context.places().keys
    if not keys.is_dir():
        raise GatewayError(f"{keys}: what the transcripts were signed with is not there")
    return load(keys).public_key(), FileVault.load(keys).derive(b"transcripts")


def _found(context: Context, session: str, how: str) -> Path:
    from gateway.record import reader

    path = reader.find(context.places().transcripts, session)
    note(context, "transcript.read", {"session": path.stem, "how": how})
    return path


def _transcripts(context: Context) -> list[Path]:
    found = context.places().transcripts.glob("*/*/*/*.gwt")
    return sorted(found, key=_written, reverse=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its days were over just now
        return 0.0


def _events(path: Path) -> Iterator[dict[str, Any]]:
    from gateway.record.reader import records
    from gateway.told import events

    return events(records(path))
