"""Shows the audit log, and has it know who reads transcripts, or the log itself."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gateway.cli.root import Context, command
from gateway.cli.sessions import Ago
from gateway.cli.show import Row, facts, listing, moment
from gateway.control import FAILED, UNREACHABLE, CommandFailed
from gateway.errors import GatewayError, printable

WHO = ("user", "by", "actor")  # members of entries that say whose doing it was
FIRST = (*WHO, "session", "resource", "account", "target", "source")  # what people look for

Entry = dict[str, Any]


@command()
@click.argument("entry", metavar="[ID]", required=False)
@click.option("--since", type=Ago(), metavar="2h", help="Written at most that long ago.")
@click.option("--user", metavar="USER", help="Of one who logged in, or changed or read something.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl"]), default="table")
def audit(
    context: Context,
    entry: str | None,
    since: float | None,
    user: str | None,
    limit: int,
    form: str,
) -> None:
    """Show what happened to the gateway, the newest last. ID is what a refusal quotes."""
    from gateway.audit import stamp

    asked = {"entry": entry, "since": None if since is None else stamp(since), "of": user}
    note(context, "audit.read", {name: value for name, value in asked.items() if value is not None})
    damaged: list[Path] = []
    found = _entries(context.places().audit, since or 0.0, damaged.append)
    shown = _newest((each for each in found if _wanted(each, entry, user)), limit)
    if entry is not None and not shown:
        raise GatewayError(f"the audit log has no entry {entry}")
    _show(shown, form)
    raise SystemExit(FAILED if damaged else 0)


def _entries(root: Path, since: float, damaged: Callable[[Path], None]) -> Iterator[Entry]:
    """What was written after *since*; files that cannot be read are told of and left out."""
    from gateway.audit import entries, stamp
    from gateway.record.format import SUFFIX, Damaged

    first = stamp(since)
    for path in sorted(path for path in root.iterdir() if path.suffix == SUFFIX):
        try:
            if path.stat().st_mtime >= since:
                yield from (each for each in entries(path) if _at(each) >= first)
        except (Damaged, OSError) as why:
            click.echo(printable(f"gateway: {path.stem}: {why}"), err=True)
            damaged(path)


def _wanted(entry: Entry, entry_id: str | None, user: str | None) -> bool:
    if entry_id is not None and entry.get("id") != entry_id.lower():
        return False
    return user is None or any(user in str(entry.get(name, "")).split() for name in WHO)


def _newest(entries: Iterator[Entry], most: int) -> list[Entry]:
    """In order of time, which files of several processes are not; no more is kept meanwhile."""
    kept = heapq.nlargest(most, ((_at(each), n, each) for n, each in enumerate(entries)))
    return [each for _, _, each in reversed(kept)]


def _at(entry: Entry) -> str:
    return str(entry.get("at", ""))


def _show(entries: list[Entry], form: str) -> None:
    if form == "jsonl":
        for each in entries:
            click.echo(json.dumps(each))
        return
    listing(entries, _shown, form, "no entries")


def _shown(entry: Row) -> Row:
    quoted = ("id",) if "refusal" in entry else ()  # to the person who was refused
    rest = [name for name in entry if name not in ("kind", "at", "event", "id", *FIRST)]
    what = {name: entry.get(name) for name in (*FIRST, *rest, *quoted)}
    return {"at": moment(entry.get("at")), "event": entry.get("event"), "what": facts(what)}


def note(context: Context, event: str, *entries: Mapping[str, Any]) -> None:
    """Have it noted that somebody reads: by the daemon, or without one in a file of our own.

    :raises GatewayError: it cannot be noted; then it is not to be read
    """
    try:
        for entry in entries:
            context.call("note", event=event, **entry)
    except CommandFailed as failed:
        if failed.code != UNREACHABLE:
            raise
        _note_without(context, event, entries)


def _note_without(context: Context, event: str, entries: tuple[Mapping[str, Any], ...]) -> None:
    """Who may not write there, or has copies and no keys, leaves no note."""
    from gateway.audit import leave
    from gateway.control import caller
    from gateway.record.keys import load
    from gateway.vault import FileVault

    places = context.places()
    if not (os.access(places.audit, os.W_OK | os.X_OK) and os.access(places.keys, os.X_OK)):
        return
    key, mac = load(places.keys), FileVault.load(places.keys).derive(b"transcripts")
    by = caller(os.getpid(), os.geteuid())
    leave(places.audit, key, mac, event, *({**entry, "by": by} for entry in entries))
