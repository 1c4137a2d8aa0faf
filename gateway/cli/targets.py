"""Commands on targets: targets, targets drain, targets undrain, doctor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from gateway.cli.root import Context, command, config_option, format_option, gateway, pass_context
from gateway.cli.show import Row, listing, moment
from gateway.control import FAILED
from gateway.errors import printable

MARKS = {True: "ok", False: "FAILED", None: "-"}


@gateway.group(invoke_without_command=True)
@config_option
@format_option
@pass_context
@click.pass_context
def targets(click_context: click.Context, context: Context, form: str) -> None:
    """List targets and how they are; drain one, or take it back."""
    if click_context.invoked_subcommand is None:
        listing(context.call("targets")["targets"], _shown, form, "no targets")


def _shown(row: Row) -> Row:
    lag = row["lag_seconds"]
    return {
        **{name: row[name] for name in ("resource", "address", "kind", "state")},
        "since": moment(row["since"]),
        "lag": None if lag is None else f"{lag:.1f} s",
        "sessions": row["sessions"],
        "why": row["why"],
    }


@command(group=targets)
@click.argument("name")
def drain(context: Context, name: str) -> None:
    """Send no new sessions to NAME, and move others away.

    Those are moved that can be. NAME is a target's address, or RESOURCE/ADDRESS where only one
    resource is meant. What is drained stays so until "gateway targets undrain", also over a
    restart.
    """
    from gateway.show.export import counted

    for row in context.call("drain", name=name, draining=True)["targets"]:
        there = counted(row["sessions"], "session")
        click.echo(printable(f"draining {_spot(row)}: {there} there"))


@command(group=targets)
@click.argument("name")
def undrain(context: Context, name: str) -> None:
    """Send sessions to NAME again."""
    for row in context.call("drain", name=name, draining=False)["targets"]:
        click.echo(printable(f"serving {_spot(row)}"))


@command()
@click.argument("resource")
@format_option
def doctor(context: Context, resource: str, form: str) -> None:
    """Go every step of the way to each target of RESOURCE. Exits with 1 if one fails."""
    told = context.call("doctor", resource=resource)
    if form == "json":
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo("\n".join(map(printable, _lines(told))))
    raise SystemExit(0 if told["well"] else FAILED)


def _spot(row: dict[str, Any]) -> str:
    return f"{row['resource']}/{row['address']}"


def _lines(told: dict[str, Any]) -> Iterator[str]:
    for target in told["targets"]:
        kind = f", {target['kind']}" if target["kind"] else ""
        yield f"{told['resource']}/{target['address']}: {target['state']}{kind}: {target['why']}"
        for step in target["steps"]:
            yield f"  {MARKS[step['ok']]:<6}  {step['step']:<8}  {step['said']}"
            if step["advice"]:
                yield f"          {'':<8}  {step['advice']}"
    yield "all is well" if told["well"] else "something is wrong"
