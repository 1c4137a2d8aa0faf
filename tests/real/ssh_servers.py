"""The real things for SSH: an sshd of its own, a gateway in front of it, and people's clients."""

from __future__ import annotations

import os
import pty
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import psutil
from attrs import evolve, frozen

from gateway.places import Places
from gateway.record import reader
from gateway.record.facts import Event
from gateway.ssh.transcript import events
from tests.real.servers import PATIENCE, GatewayProcess, free_port, until

SSHD = "/usr/sbin/sshd"
NEEDED = {
    "ssh": "openssh-client",
    SSHD: "openssh-server",
    "rsync": "rsync",
    "git": "git",
    "useradd": "passwd",
}


def missing() -> list[str]:
    """Packages that have to be installed first."""
    return [package for program, package in NEEDED.items() if shutil.which(program) is None]


def run(*command: str | Path, **over: Any) -> str:
    """What *command* prints; fails if it does."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, **over
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def keygen(path: Path, kind: str = "ed25519") -> str:
    """Makes a key pair at *path*; its public line."""
    if not path.exists():
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", path)
    return path.with_name(f"{path.name}.pub").read_text().strip()


# -- accounts on the target ----------------------------------------------------------------


@frozen
class UnixUser:
    """A user of this machine."""

    name: str
    home: Path
    password: str | None = None  # None: not known to the tests


@contextmanager
def unix_user(directory: Path) -> Iterator[UnixUser]:
    """A user for as long as it lasts; whoever runs the tests, where that is not root."""
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid())
        yield UnixUser(me.pw_name, Path(me.pw_dir))
        return
    user = UnixUser(f"gw{secrets.token_hex(4)}", directory / "home", secrets.token_hex(8))
    run("useradd", "-M", "-U", "-d", user.home, "-s", "/bin/bash", user.name)
    try:
        run("chpasswd", input=f"{user.name}:{user.password}\n")
        user.home.mkdir()
        give(user.home, user)
        yield user
    finally:
        end_processes(user)
        run("userdel", "-f", user.name)


def end_processes(user: UnixUser) -> None:
    """What was left running without a terminal goes on after its session."""
    for process in psutil.process_iter(["username"]):
        if process.info["username"] == user.name:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def give(path: Path, user: UnixUser) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, user.name, user.name)


# -- targets -------------------------------------------------------------------------------


class SshServer:
    """An sshd in the foreground, on a free port of 127.0.0.1, with all it has in *directory*.

    It lets users in by certificates of those whom it was told to :meth:`trust`, by password,
    and by the keys in ``authorized``. *names* stand in its host certificate; *settings* are
    laid over the usual ones.
    """

    def __init__(
        self, directory: Path, names: str = "127.0.0.1,localhost", **settings: str
    ) -> None:
        self.directory = directory
        self.names = names
        self.port = free_port()
        self.authorized = directory / "authorized"
        self._settings = settings
        self._users_ca = directory / "users_ca"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> SshServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.host_key = keygen(self.directory / "host")
        self.host_ca = keygen(self.directory / "host_ca")
        run("ssh-keygen", "-q", "-s", self.directory / "host_ca", "-I", "target", "-h",
            "-n", self.names, self.directory / "host.pub")  # fmt: skip
        self._users_ca.touch()
        self.authorized.touch()
        (self.directory / "sshd_config").write_text(self._configuration())
        return self.start()

    def start(self) -> SshServer:
        Path("/run/sshd").mkdir(exist_ok=True)  # what Debian's sshd wants to be there
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self.directory / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: f"listening on 127.0.0.1 port {self.port}" in self.log, "sshd")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            (self.directory / "log").write_text("")

    def trust(self, line: str) -> None:
        """Let in whoever has a certificate of this CA for the account."""
        with self._users_ca.open("a") as file:
            file.write(f"{line.strip()}\n")

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace").lower()

    def _configuration(self) -> str:
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.directory / "host"),
            "HostCertificate": str(self.directory / "host-cert.pub"),
            "TrustedUserCAKeys": str(self._users_ca),
            "AuthorizedKeysFile": str(self.authorized),
            "StrictModes": "no",
            "PidFile": "none",
            "LogLevel": "VERBOSE",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "yes",
            "KbdInteractiveAuthentication": "no",
            "AcceptEnv": "*",  # what does not arrive, the gateway has kept back
            "AllowAgentForwarding": "yes",
            "AllowTcpForwarding": "yes",
            "AllowStreamLocalForwarding": "yes",
            "X11Forwarding": "yes",
            "MaxSessions": "300",
            "MaxStartups": "500",
            "UseDNS": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "Subsystem": "sftp internal-sftp",
            **self._settings,
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())


# -- the gateway ---------------------------------------------------------------------------


class SshGateway(GatewayProcess):
    """A gateway that listens for SSH, too."""

    def __init__(self, directory: Path, objects: str, configuration: str = "", **over: Any) -> None:
        self.ssh_port = free_port()
        super().__init__(directory, objects, configuration, **over)

    def _configuration(self) -> str:
        listener = f"  - address: 127.0.0.1:{self.ssh_port}\n    protocols: [ssh]\n"
        return super()._configuration().replace("domain:", f"{listener}domain:")

    def started(self, *targets: SshServer) -> SshGateway:
        """Start it, and have *targets* trust it."""
        self.start()
        for target in targets:
            target.trust(self.cli("ca", "users").stdout)
        return self

    def put(self, objects: str) -> None:
        """As ``gateway apply --prune``, without a process for it."""
        self.call("apply", text=objects, file="changed.yaml", prune=True)

    @cached_property
    def host_ca(self) -> str:
        """The line that people put into known_hosts."""
        return self.cli("ca", "hosts").stdout

    @property
    def user_ca(self) -> Path:
        """The key with which it certifies users."""
        return self.state / "keys" / "ssh_user_ca"

    def events(self, session: str | None = None) -> list[Event]:
        """What the transcript tells; of the newest session if none is named."""
        session = session or self.newest()["id"]
        return list(events(reader.records(reader.find(Places(self.state).transcripts, session))))

    def newest(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.call("sessions")["sessions"]
        return rows[0]

    def audited(self, kind: str, **facts: Any) -> list[dict[str, Any]]:
        """Entries of the audit log that say *facts*."""
        wanted = {"event": kind, **facts}.items()
        found: list[Event] = []
        for path in sorted(Places(self.state).audit.glob("*.gwt")):
            found += [event for event in events(reader.records(path)) if wanted <= event.items()]
        return found

    def audit(self, kind: str, **facts: Any) -> dict[str, Any]:
        """The last such entry, which may be under way."""
        found: list[Event] = until(lambda: self.audited(kind, **facts), f"{kind} {facts}")
        return found[-1]


StartSsh = Callable[..., SshGateway]
"""Starts one with a configuration, and objects if they are not the usual ones."""


# -- people --------------------------------------------------------------------------------


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
        return self.through(user).run("ssh", login, *command, **over)

    def through(self, user: str) -> Person:
        """Goes everywhere through the gateway."""
        return self.having(f"ProxyJump={user}@127.0.0.1:{self.gateway.ssh_port}")

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
