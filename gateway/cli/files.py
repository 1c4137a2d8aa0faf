"""Commands that need no daemon: check, schema, ca, demo."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli.root import Context, command


@command()
def check(context: Context) -> None:
    """Judge the configuration and the objects files it names."""
    from gateway import objects

    path, configuration = context.load()
    for listed in configuration.objects:
        objects.read(listed)
    click.echo(f"{path}: fine")


@command()
@click.argument("which", type=click.Choice(["configuration", "objects"]), default="configuration")
def schema(context: Context, which: str) -> None:
    """Print the JSON Schema of the configuration, or of objects files."""
    from gateway import config, objects

    module = config if which == "configuration" else objects
    click.echo(json.dumps(module.json_schema(), indent=2))


@command()
def ca(context: Context) -> None:
    """Print the certificate of the gateway's own CA: clients' sslrootcert."""
    click.echo(context.places().ca.read_text(), nl=False)


@command()
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
def demo(context: Context, directory: Path | None) -> None:
    """Run the whole thing with nothing prepared, until Ctrl-C."""
    from gateway.demo import run

    raise SystemExit(run(directory))
