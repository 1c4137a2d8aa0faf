"""The ``gateway`` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from gateway.cli.root import gateway
from gateway.control import BAD_CONFIGURATION, FAILED, CommandFailed
from gateway.errors import BadFile, GatewayError, printable

USAGE = 2  # what every Unix command and click itself mean by it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: errors are one line each on stderr, with an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names know no terminal's encoding
    try:
        code = gateway(arguments, prog_name="gateway", standalone_mode=False)
    except NoArgsIsHelpError as nothing:
        nothing.show()
        code = USAGE
    except click.UsageError as wrong:
        path = wrong.ctx.command_path if wrong.ctx else "gateway"
        _die(USAGE, f"{' '.join(wrong.format_message().split())} ({path} --help tells more)")
    except click.ClickException as failed:
        _die(failed.exit_code, failed.format_message())
    except click.Abort:
        _die(FAILED, "given up")
    except BadFile as bad:
        _die(BAD_CONFIGURATION, *map(str, bad.problems))
    except CommandFailed as failed:
        _die(failed.code, *(map(str, failed.problems) if failed.problems else (str(failed),)))
    except GatewayError as failed:
        _die(FAILED, str(failed))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
        code = FAILED
    except OSError as failed:
        _die(FAILED, f"{failed.filename or 'error'}: {failed.strerror or failed}")
    raise SystemExit(code or 0)


def _die(code: int, *lines: str) -> NoReturn:
    for line in map(printable, lines):
        print(f"gateway: {line}" if code != BAD_CONFIGURATION else line, file=sys.stderr)
    raise SystemExit(code)
