"""PostgreSQL's own client programs, started as people start them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import suppress
from typing import Any, Self

from tests.real.servers import PATIENCE, GatewayProcess

QUIET = ("-X", "-A", "-t", "-q")
"""psql without ~/.psqlrc, alignment, headings."""

BOB = {"user": "bob/app_rw", "password": "bob's password"}
"""Who may write."""


def environment(password: str) -> dict[str, str]:
    """Nothing of the one who runs the tests reaches a client."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PGPASSWORD": password}


def psql(gateway: GatewayProcess, *commands: str, **over: Any) -> subprocess.CompletedProcess[str]:
    """Run *commands* one by one, as alice unless *over* says otherwise."""
    password = over.pop("password", "alice's password")
    wanted = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        ["psql", *QUIET, "-v", "ON_ERROR_STOP=1", *wanted, gateway.dsn(password=None, **over)],
        env=environment(password),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def pgbench(gateway: GatewayProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pgbench as bob."""
    return subprocess.run(
        ["pgbench", *arguments, gateway.dsn(password=None, user=BOB["user"])],
        env=environment(BOB["password"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


class Terminal:
    """psql in a terminal of its own."""

    def __init__(self, gateway: GatewayProcess, **over: Any) -> None:
        password = over.pop("password", "alice's password")
        self.shown = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execvpe(
                "psql",
                ["psql", "-X", "-P", "pager=off", gateway.dsn(password=None, **over)],
                {**environment(password), "TERM": "dumb"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)  # hangs up: psql ends
        os.waitpid(self._pid, 0)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until *text* is on the screen, in what has come since the last one."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            ready, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert ready, f"psql showed no {text!r}, but:\n{self.shown}"
            data = b""
            with suppress(OSError):  # Linux has EIO where others have the end of the file
                data = os.read(self._fd, 65536)
            assert data, f"psql ended without {text!r}:\n{self.shown}"
            self.shown += data.decode()
        self.shown = self.shown.partition(text)[2]
