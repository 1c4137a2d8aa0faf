"""What befalls servers: they are killed, frozen and thawed, with all of their processes."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil

from tests.real.servers import PostgresServer, until
from tests.support import over


def crash(server: PostgresServer) -> None:
    """As when memory runs out; returns when nothing is left of it."""
    dying = _processes(server)
    _all_get(server, signal.SIGKILL)
    until(lambda: all(over(process.pid) for process in dying), "the server to be gone")
    (server.data / "postmaster.pid").unlink()  # it names a zombie, where nobody buries them


def freeze(server: PostgresServer) -> None:
    _all_get(server, signal.SIGSTOP)


def thaw(server: PostgresServer) -> None:
    _all_get(server, signal.SIGCONT)


def _processes(server: PostgresServer) -> list[psutil.Process]:
    """The postmaster first; none if it does not run."""
    try:
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]
    except (OSError, psutil.NoSuchProcess):
        return []


def _all_get(server: PostgresServer, number: signal.Signals) -> None:
    for process in _processes(server):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
