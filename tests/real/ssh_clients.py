"""People and their OpenSSH clients: through the gateway, without it, in a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from attrs import evolve, frozen

from tests.real.servers import PATIENCE
from tests.real.ssh_servers import SshGateway, SshServer, UnixUser, keygen


@frozen
class Person:
    """OpenSSH's clients, set up as somebody who was told the gateway's host CA, and no more."""

    directory: Path
    key: Path
    gateway: SshGateway
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    @property
    def config(self) -> Path:
        return self.directory / f"config_{self.key.name}"

    def set_up(self) -> Person:
        """Write the client's files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(self.gateway.host_ca)
        self.config.write_text(f"""\
UserKnownHostsFile {known_hosts}
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
IdentityFile {self.key}
IdentitiesOnly yes
Host 127.0.0.1
    Port {self.gateway.ssh_port}
""")
        return self

    def having(self, *options: str, **environment: str) -> Person:
        """With more ``-o`` options, and variables."""
        more = tuple(part for option in options for part in ("-o", option))
        return evolve(
            self,
            options=self.options + more,
            environment={**self.environment, **environment},
        )

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        return [program, "-F", str(self.config), *self.options, *map(str, arguments)]

    def env(self) -> dict[str, str]:
        """Nothing of the one who runs the tests reaches a client."""
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            **self.environment,
        }

    def run(
        self, program: str, *arguments: str | Path, **over: Any
    ) -> subprocess.CompletedProcess[bytes]:
        given = {"input": b"", "capture_output": True, "timeout": 2 * PATIENCE, **over}
        return subprocess.run(
            self.command(program, *arguments), env=self.env(), check=False, **given
        )

    def ssh(self, login: str, *command: str, **over: Any) -> subprocess.CompletedProcess[bytes]:
        """``ssh LOGIN@gateway COMMAND``, straight in."""
        return self.run("ssh", f"{login}@127.0.0.1", *command, **over)

    def jump(
        self, user: str, login: str, *command: str, **over: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """``ssh -J USER@gateway LOGIN COMMAND``."""
        return self.run("ssh", "-J", self._carrier(user), login, *command, **over)

    def _carrier(self, user: str) -> str:
        return f"{user}@127.0.0.1:{self.gateway.ssh_port}"

    def through(self, user: str) -> Person:
        """Goes everywhere through the gateway."""
        return self.having(f"ProxyJump={self._carrier(user)}")

    @contextmanager
    def master(self, login: str, path: Path) -> Iterator[Person]:
        """A connection to the gateway that stays, and one whose clients all go through it."""
        through = self.having(f"ControlPath={path}")
        quiet = {
            "capture_output": False,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        assert through.run("ssh", "-fNM", f"{login}@127.0.0.1", **quiet).returncode == 0
        try:
            yield through
        finally:
            through.run("ssh", "-O", "exit", f"{login}@127.0.0.1")

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """An ssh that goes on; with pipes for all that is not given."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            self.command("ssh", *arguments), env=self.env(), **{**pipes, **popen}
        )


@frozen
class Direct:
    """The same client without a gateway, to compare with."""

    directory: Path
    server: SshServer
    user: UnixUser

    def set_up(self) -> Direct:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.server.authorized.open("a") as file:
            file.write(f"{keygen(self.directory / 'id')}\n")
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{self.server.port} {self.server.host_key}\n")
        return self

    def ssh(self, *command: str, **over: Any) -> subprocess.CompletedProcess[bytes]:
        given = {"input": b"", "timeout": 2 * PATIENCE, **over}
        return subprocess.run(
            [
                *("ssh", "-F", "/dev/null", "-i", str(self.directory / "id")),
                *("-o", "IdentitiesOnly=yes"),
                *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
                *("-p", str(self.server.port), f"{self.user.name}@127.0.0.1", *command),
            ],
            capture_output=True,
            check=False,
            **given,
        )


class Terminal:
    """A program in a terminal of its own, of 24 lines and 80 columns."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.screen = ""  # what has come since the last text that was waited for
        self._status: int | None = None
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            termios.tcsetwinsize(0, (24, 80))
            os.execvpe(command[0], command, {**environment, "TERM": "xterm-256color"})
        self.resize(24, 80)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)  # hangs up
        self.wait()

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the program with SIGWINCH."""
        termios.tcsetwinsize(self._fd, (rows, columns))

    def wait_for(self, text: str, poke: int = 0) -> str:
        """Until *text* is on the screen; what came before it.

        *poke*: a signal to send now and then. OpenSSH misses one that comes between its look
        at what came and its sleep.
        """
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen:
            if not select.select([self._fd], [], [], 0.5)[0]:
                assert time.monotonic() < deadline, f"no {text!r}, but:\n{self.screen}"
                os.kill(self._pid, poke)
                continue
            data = b""
            with suppress(OSError):  # Linux has EIO where others have the end of the file
                data = os.read(self._fd, 65536)
            assert data, f"it ended without {text!r}:\n{self.screen}"
            self.screen += data.decode(errors="replace")
        before, _, self.screen = self.screen.partition(text)
        return before

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status; what it still prints is thrown away."""
        while self._status is None:
            with suppress(OSError):
                if select.select([self._fd], [], [], 0.05)[0]:
                    os.read(self._fd, 65536)
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status
