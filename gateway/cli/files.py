"""Commands that need no daemon: check, schema, ca, demo."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli.root import Context, command
from gateway.errors import BadFile, Problem


@command()
def check(context: Context) -> None:
    """Judge the configuration and the objects files it names."""
    from gateway import config, objects

    path = context.file()
    problems: list[Problem] = []
    try:
        listed = config.load(path).objects
    except BadFile as bad:
        problems += bad.problems
        listed = config.objects_files(path)
    for file in listed:
        try:
            objects.read(file)
        except BadFile as bad:
            problems += bad.problems
    if problems:
        raise BadFile(tuple(problems))
    click.echo(f"{path}: fine")


@command()
@click.argument("which", type=click.Choice(["configuration", "objects"]), default="configuration")
def schema(context: Context, which: str) -> None:
    """Print the JSON Schema of the configuration, or of objects files."""
    from gateway import config, objects

    module = config if which == "configuration" else objects
    click.echo(json.dumps(module.json_schema(), indent=2))


@command()
@click.argument("which", type=click.Choice(["all", "tls", "hosts", "users"]), default="all")
def ca(context: Context, which: str) -> None:
    """Print what others have to trust: one WHICH of it, or all.

    tls: the certificate for psql's sslrootcert; hosts: the line for known_hosts; users: the
    line for TrustedUserCAKeys on SSH targets.
    """
    from gateway.ssh.authority import public_lines

    places = context.places()
    hosts, users = public_lines(places.keys)
    lines = {"hosts": hosts, "users": users, "tls": places.ca.read_text().rstrip()}
    if which != "all":
        click.echo(lines[which])
        return
    for name, where in _TRUSTED.items():
        click.echo(f"# {where}\n{lines[name]}")


_TRUSTED = {
    "hosts": "people: ~/.ssh/known_hosts",
    "users": "SSH targets: the file that TrustedUserCAKeys in sshd_config names",
    "tls": "PostgreSQL clients: the file that sslrootcert names",
}


@command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where its data stay, for the next start [default: a temporary one, gone at the end].",
)
def demo(context: Context, directory: Path | None) -> None:
    """Run the whole thing with nothing prepared, until Ctrl-C."""
    from gateway.demo import run

    raise SystemExit(run(directory))
