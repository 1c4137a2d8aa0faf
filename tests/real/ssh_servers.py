"""The real things for SSH: an sshd of its own, and a gateway in front of it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from attrs import frozen

from gateway.places import Places
from gateway.record import reader
from gateway.record.facts import Event
from gateway.told import events
from tests.real.servers import PATIENCE, GatewayProcess, free_port, until

SSHD = "/usr/sbin/sshd"
NEEDED = {
    "ssh": "openssh-client",
    SSHD: "openssh-server",
    "rsync": "rsync",
    "git": "git",
    "useradd": "passwd",
    "vim": "vim",
    "top": "procps",
    "xauth": "xauth",  # without which an sshd forwards no X11
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


def works(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


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
    add = ("useradd", "-M", "-U", "-d", user.home, "-s", "/bin/bash", user.name)
    until(lambda: works(*add), "useradd: another one may run")
    try:
        run("chpasswd", input=f"{user.name}:{user.password}\n")
        user.home.mkdir()
        give(user.home, user)
        yield user
    finally:
        end_processes(user)
        until(lambda: works("userdel", "-f", user.name), "userdel")


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
