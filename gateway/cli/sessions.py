"""Commands on sessions and decisions: sessions, kill, explain."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli.root import Context, command, format_option
from gateway.cli.show import Row, listing, moment
from gateway.control import UNREACHABLE, CommandFailed
from gateway.errors import printable

DENIED = 77  # sysexits.h: EX_NOPERM
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Ago(click.ParamType[float]):
    """``2h``, ``30m``, ``7d``: a moment that long ago, in seconds since the epoch."""

    name = "ago"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        parts = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
        if parts is None:
            self.fail(f"{value!r} is not a time like 30m, 2h or 7d", param, ctx)
        return time.time() - int(parts[1]) * _UNITS[parts[2]]


@command()
@click.option("--live", is_flag=True, help="Only those that run now.")
@click.option("--user", metavar="USER")
@click.option("--resource", metavar="RESOURCE")
@click.option("--since", type=Ago(), metavar="2h", help="Begun at most that long ago.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@format_option
def sessions(
    context: Context,
    live: bool,
    user: str | None,
    resource: str | None,
    since: float | None,
    limit: int,
    form: str,
) -> None:
    """List sessions, the newest first."""
    wanted: dict[str, Any] = {"user": user, "resource": resource, "since": since, "limit": limit}
    try:
        rows = context.call("sessions", live=live, **wanted)["sessions"]
    except CommandFailed as failed:
        if failed.code != UNREACHABLE or live:
            raise
        rows = _recorded(context, wanted)
    listing(rows, _shown, form, "no sessions")


def _shown(row: Row) -> Row:
    return {
        "id": row["id"],
        "started": moment(row["started"]),
        **{name: row[name] for name in ("user", "resource", "account", "source")},
        "status": _status(row),
    }


def _status(row: Row) -> str:
    """Of one that runs, where; of one that is over, why."""
    if row["status"] != "live":
        return str(row["reason"] or row["status"])
    pinned = f", pinned: {row['pinned']}" if row.get("pinned") else ""
    return f"live at {row['target']}{pinned}"


def _recorded(context: Context, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Without a daemon: what the session index has."""
    from gateway.commands import row
    from gateway.store import read_sessions

    return [row(info) for info in read_sessions(context.places().store, **wanted)]


@command()
@click.argument("session", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="What the person is told.")
def kill(context: Context, session: str, reason: str) -> None:
    """End a running session; the person reads why.

    Its query is cancelled.
    """
    click.echo(f"ended {context.call('kill', id=session, reason=reason)['id']}")


@command()
@click.argument("user")
@click.argument("resource")
@click.option("--account", metavar="ACCOUNT")
@click.option("--source", metavar="IP", help="From where [default: 127.0.0.1].")
@click.option("--at", metavar="TIME", help="ISO 8601; UTC if it names no zone [default: now].")
@format_option
def explain(
    context: Context,
    user: str,
    resource: str,
    account: str | None,
    source: str | None,
    at: str | None,
    form: str,
) -> None:
    """Why may USER reach RESOURCE, or why not? Exits with 77 if not."""
    answer = context.call(
        "explain",
        user=user,
        resource=resource,
        account=account,
        source=_source(source),
        at=_moment(at),
    )
    lines = answer.pop("lines")
    if form == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo("\n".join(map(printable, lines)))
    raise SystemExit(0 if answer["allowed"] else DENIED)


def _source(text: str | None) -> str | None:
    from ipaddress import ip_address

    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        raise click.UsageError(f"{text!r} is not an IP address") from None


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):  # not one, or before the year 1
        raise click.UsageError(f"{text!r} is not an ISO 8601 time") from None
