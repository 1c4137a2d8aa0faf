"""Commands on users, resources, roles and bindings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.root import Context, command, config_option, format_option, gateway
from gateway.cli.show import Row, cell, facts, listing

MAX_PASSWORD = 65_536  # bytes of a line: what a password's file may hold
KINDS = ("resources", "users", "roles", "bindings")
CONDITIONS = ("sources", "deny_sources", "hours", "expires")


class Kind(click.ParamType[str]):
    """A kind of object, in the singular or the plural."""

    name = "kind"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        kinds = {name: kind for kind in KINDS for name in (kind, kind[:-1])}
        if value not in kinds:
            self.fail(f"{value!r} is none of {', '.join(KINDS)}", param, ctx)
        return kinds[value]


@command()
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True)
@click.option("--prune", is_flag=True, help="Remove everything that FILE does not name.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@format_option
def apply(context: Context, path: Path, prune: bool, dry_run: bool, form: str) -> None:
    """Make the objects what FILE says: all of it or nothing."""
    from gateway.marked import read_text

    text = read_text(path)
    answer = context.call(
        "apply", text=text, file=str(path.absolute()), prune=prune, dry_run=dry_run
    )
    changes = answer["changes"]
    if form == "json":
        click.echo(json.dumps(changes, indent=2))
        return
    for change in changes:
        paths = f" ({', '.join(change['paths'])})" if change.get("paths") else ""
        click.echo(cell(f"{change['sign']} {change['kind'][:-1]} {change['name']}{paths}"))
    if not changes:
        click.echo("no changes")


@command()
@click.argument("kind", type=Kind())
@click.argument("name", required=False)
@format_option
def get(context: Context, kind: str, name: str | None, form: str) -> None:
    """Show objects of one KIND, or one of them. Secrets are not shown."""
    found = context.call("get", kind=kind, name=name)["objects"]
    if name is not None:
        click.echo(json.dumps(found[0], indent=2))
        return
    listing(found, SHOWN[kind], form, f"no {kind}")


def _resource(row: Row) -> Row:
    return {
        **_picked(row, "name", "protocol", "database"),
        "labels": facts(row.get("labels") or {}),
        "accounts": [account["name"] for account in row.get("accounts") or ()],
        "targets": [target["address"] for target in row.get("targets") or ()],
    }


def _user(row: Row) -> Row:
    return _picked(row, "name", "admin", "disabled", "password", "groups")


def _role(row: Row) -> Row:
    return _picked(row, "name", "allow")


def _binding(row: Row) -> Row:
    held = facts({name: row.get(name) for name in CONDITIONS})
    return {**_picked(row, "name", "role", "subjects"), "conditions": held}


def _picked(row: Row, *names: str) -> Row:
    return {name: row.get(name) for name in names}


SHOWN = {"resources": _resource, "users": _user, "roles": _role, "bindings": _binding}


@command()
@click.argument("kind", type=Kind())
@click.argument("name")
def delete(context: Context, kind: str, name: str) -> None:
    """Remove one object; what it allowed ends at once."""
    owner = context.call("delete", kind=kind, name=name)["owner"]
    _warn(owner, f"{kind[:-1]} {name} comes back when it is read next, unless you remove it there")


@gateway.group()
@config_option
def users() -> None:
    """Disable or enable a user."""


@command(group=users)
@click.argument("name")
def disable(context: Context, name: str) -> None:
    """Refuse NAME from now on; their sessions end at once."""
    context.call("disable", name=name)


@command(group=users)
@click.argument("name")
def enable(context: Context, name: str) -> None:
    """Let NAME in again."""
    context.call("enable", name=name)


@command()
@click.argument("name")
@click.option("--stdin", "piped", is_flag=True, help="Read the password from standard input.")
def passwd(context: Context, name: str, piped: bool) -> None:
    """Set NAME's password. It is never an argument, which others could read."""
    if piped:
        line = sys.stdin.buffer.readline(MAX_PASSWORD + 1)
        password = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    else:
        password = click.prompt("New password", hide_input=True, confirmation_prompt=True)
    if not 0 < len(password) <= MAX_PASSWORD:
        raise click.UsageError("an empty password is refused, and one of more than 64 KiB")
    owner = context.call("passwd", name=name, password=password)["owner"]
    _warn(owner, f"a password of {name} there holds again when it is read next")


def _warn(owner: str | None, what: str) -> None:
    """What is done by hand to an object of a file lasts until that is read again."""
    if owner is not None:
        click.echo(cell(f"{owner}: {what}"), err=True)
