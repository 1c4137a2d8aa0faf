"""The ``gateway`` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys

from gateway.cli.root import gateway
from gateway.control import BAD_CONFIGURATION, FAILED, CommandFailed
from gateway.errors import BadFile, GatewayError


def main() -> None:
    """Run the command line: errors are one line each on stderr, with an exit code."""
    try:
        gateway(prog_name="gateway")
    except BadFile as bad:
        _die(BAD_CONFIGURATION, *map(str, bad.problems))
    except CommandFailed as failed:
        _die(failed.code, *(map(str, failed.problems) if failed.problems else (str(failed),)))
    except GatewayError as failed:
        _die(FAILED, str(failed))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
        raise SystemExit(FAILED) from None
    except OSError as failed:
        _die(FAILED, f"{failed.filename or 'error'}: {failed.strerror or failed}")


def _die(code: int, *lines: str) -> None:
    for line in lines:
        print(f"gateway: {line}" if code != BAD_CONFIGURATION else line, file=sys.stderr)
    raise SystemExit(code)
