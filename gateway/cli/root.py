"""The command group: ``--config`` before or after any subcommand, commands by group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway import __version__

Function = TypeVar("Function", bound=Callable[..., Any])


class Context:
    """What commands share: the configuration they were pointed to, read when it is needed."""

    def __init__(self) -> None:
        self.path: str | None = None

    def file(self) -> Path:
        """The configuration's: as told, or where it usually is."""
        import os

        from gateway import config

        return config.locate(self.path, os.environ)

    def configuration(self) -> Any:
        """:raises BadFile: it has mistakes"""
        from gateway import config

        return config.load(self.file())

    def places(self) -> Any:
        from gateway.places import Places

        return Places(self.configuration().state_dir)

    def call(self, command: str, **arguments: Any) -> Any:
        """Ask the running daemon."""
        from gateway.control import call

        return call(self.places().control, command, **arguments)


def _remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Context).path = value


config_option = click.option(
    "--config",
    metavar="FILE",
    expose_value=False,
    callback=_remember,
    help="Configuration file [default: $GATEWAY_CONFIG or /etc/gateway/gateway.yaml].",
)

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)

pass_context = click.make_pass_decorator(Context, ensure=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
@config_option
def gateway() -> None:
    """One door in front of databases and servers.

    The daemon itself is started with "twist gateway" or "twistd -n gateway".
    """


def command(name: str | None = None, group: click.Group = gateway) -> Callable[[Function], Any]:
    """A subcommand that takes ``--config`` too and is handed the :class:`Context`."""

    def register(function: Function) -> Any:
        return group.command(name)(config_option(pass_context(function)))

    return register


# The groups register themselves.
from gateway.cli import (  # noqa: E402
    audit,  # noqa: F401
    files,  # noqa: F401
    objects,  # noqa: F401
    recordings,  # noqa: F401
    sessions,  # noqa: F401
    targets,  # noqa: F401
    verdicts,  # noqa: F401
)
