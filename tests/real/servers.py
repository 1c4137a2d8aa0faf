"""The real things: a PostgreSQL with TLS, and the gateway's own daemon."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import psycopg
import trustme

from gateway import control

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
PATIENCE = 30.0  # seconds for a server to come up on a busy machine
PASSWORDS = {"app_ro": "read-only secret", "app_rw": "read-write secret"}

HBA = """\
local   all all trust
hostssl all postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256
hostssl replication all 127.0.0.1/32 trust
"""


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until(condition, what: str, patience: float = PATIENCE):
    """The first true value of *condition*; fails if there is none in time."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {patience:g} s for {what}"
        time.sleep(0.02)
    return value


def tagged(connection: psycopg.Connection[Any]) -> str:
    """How the session's id begins, as the target knows it."""
    row = connection.execute("SHOW application_name").fetchone()
    assert row is not None
    return str(row[0]).rpartition(" ")[2].rstrip("]")


def _server_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("postgres")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


class PostgresServer:
    """A PostgreSQL of its own, on a free port of 127.0.0.1, in *directory*."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.ca_file = directory / "ca.crt"
        self._settings = settings

    def create(self) -> PostgresServer:
        """Make a fresh cluster with accounts, databases and a certificate for localhost."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-N")
        self._write_certificate()
        self._append("pg_hba.conf", HBA, replace=True)
        self._append("postgresql.conf", self._configuration())
        self.start()
        for account, password in PASSWORDS.items():
            self.sql(f"CREATE ROLE {account} LOGIN PASSWORD '{password}'")
        for database in ("orders", "reports"):
            self.sql(f"CREATE DATABASE {database} OWNER app_rw")
        self.sql("GRANT pg_read_all_data TO app_ro")
        return self

    def standby(self, directory: Path) -> PostgresServer:
        """A streaming standby of this server, running."""
        other = PostgresServer(directory)
        other.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(other.directory, "postgres", "postgres")
        source = f"host=127.0.0.1 port={self.port} user=postgres sslmode=require"
        other._run("pg_basebackup", "-D", str(other.data), "-R", "-c", "fast", "-d", source)
        other._append("postgresql.conf", f"port = {other.port}\n")
        shutil.copy(self.ca_file, other.ca_file)
        other.start()
        return other

    def start(self) -> None:
        log = str(self.directory / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-t", "60", "start")

    def restart(self) -> None:
        """In order, and at once: its sessions are told to go."""
        log = str(self.directory / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-m", "fast", "-w", "restart")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop", check=False)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run *statement* as the superuser; its rows."""
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def runs(self, process_id: int) -> bool:
        """Whether the session of this process id is in the middle of a statement."""
        asked = f"SELECT 1 FROM pg_stat_activity WHERE pid = {process_id} AND state = 'active'"
        return bool(self.sql(asked))

    def _configuration(self) -> str:
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": "''",
            "fsync": "off",
            "max_connections": "300",
            "ssl": "on",
            "password_encryption": "'scram-sha-256'",
            "wal_level": "replica",
            **self._settings,
        }
        return "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _write_certificate(self) -> None:
        ca = trustme.CA()
        certificate = ca.issue_cert("localhost", "127.0.0.1")
        ca.cert_pem.write_to_path(str(self.ca_file))
        key, chain = self.data / "server.key", self.data / "server.crt"
        certificate.private_key_pem.write_to_path(str(key))
        certificate.cert_chain_pems[0].write_to_path(str(chain))
        for path in (key, chain):
            path.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(path, "postgres", "postgres")

    def _append(self, name: str, text: str, *, replace: bool = False) -> None:
        path = self.data / name
        with path.open("w" if replace else "a") as file:
            file.write(text)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(POSTGRESQL / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server itself
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=False,
            env={**os.environ, "HOME": "/nonexistent"},  # ours may be closed to its user
            **_server_user(),
        )
        assert not check or done.returncode == 0, f"{program} failed: {self._log()}"

    def _log(self) -> str:
        path = self.directory / "log"
        return path.read_text()[-2000:] if path.exists() else "no log"


class GatewayProcess:
    """The daemon, started as its users start it.

    *configuration* is laid over the usual one; *objects* is the text of an objects file
    that it owns; *state* is its state directory, if it is to lie elsewhere.
    """

    def __init__(
        self,
        directory: Path,
        objects: str,
        configuration: str = "",
        daemon: str = "twist",
        state: Path | None = None,
    ) -> None:
        self.directory = directory
        self.state = state or directory / "state"
        self.port, self.diagnostics = free_port(), free_port()
        self.config = directory / "gateway.yaml"
        self.objects = directory / "objects.yaml"
        self._program = daemon
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.objects.write_text(objects)
        self.config.write_text(self._configuration() + configuration)

    def _configuration(self) -> str:
        return f"""\
state_dir: {self.state}
listeners:
  - address: 127.0.0.1:{self.port}
    protocols: [postgresql]
domain: gw.test
diagnostics: 127.0.0.1:{self.diagnostics}
objects: [{self.objects}]
"""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        path = self.directory / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def ca(self) -> Path:
        return self.state / "ca.crt"

    def start(self) -> GatewayProcess:
        self.spawn()
        until(self.ready, f"the gateway to be ready:\n{self.log}")
        return self

    def spawn(self) -> None:
        """Start it, and do not wait."""
        scripts = Path(sys.executable).parent
        arguments = ["-n", "--pidfile="] if self._program == "twistd" else []
        with (self.directory / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [scripts / self._program, *arguments, "gateway", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the gateway ended:\n{self.log}"
        return self.get("readyz")[0] == 200

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page of the diagnostics; status 0 if nothing answers."""
        try:
            url = f"http://127.0.0.1:{self.diagnostics}/{page}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> None:
        """End it in order; fails if its log shows that something went wrong inside."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGTERM)
            self.wait()
        for word in ("Traceback", "Unhandled"):
            assert word not in self.log, self.log

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def cli(self, *arguments: str, **run: Any) -> subprocess.CompletedProcess[str]:
        """Run the ``gateway`` command against this daemon's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **run,
        )

    def call(self, command: str, **arguments: Any) -> Any:
        """What the ``gateway`` command would ask of the daemon, without a process for it."""
        return control.call(self.state / "control.sock", command, **arguments)

    def connect(self, **over: Any) -> psycopg.Connection[Any]:
        """A session in autocommit, as alice unless *over* says otherwise."""
        return psycopg.connect(self.dsn(**over), autocommit=True)

    def session_of(self, connection: psycopg.Connection[Any]) -> str:
        """The id of the live session that *connection* is."""
        begin = tagged(connection)
        (found,) = [row["id"] for row in self.live() if row["id"].startswith(begin)]
        return found

    def live(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call("sessions", live=True)["sessions"]
        return rows

    def memory(self) -> int:
        """Bytes of it that are in memory."""
        resident: int = psutil.Process(self.pid).memory_info().rss
        return resident

    def files(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def apply(self, objects: str, *options: str) -> str:
        """``gateway apply``; what it printed."""
        path = self.directory / "applied.yaml"
        path.write_text(objects)
        done = self.cli("apply", "-f", str(path), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sessions(self, *options: str) -> list[dict[str, Any]]:
        done = self.cli("sessions", "--format", "json", *options)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def replay(self, session: str) -> list[dict[str, Any]]:
        done = self.cli("replay", session, "--format", "jsonl")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def dsn(self, **over: object) -> str:
        """A connection string for alice, who may read; None leaves a part out."""
        parts = {
            "host": "localhost",
            "port": self.port,
            "user": "alice",
            "password": "alice's password",
            "dbname": "orders",
            "sslmode": "verify-full",
            "sslrootcert": self.ca,
            "connect_timeout": 20,
            **over,
        }
        quoted = {
            name: str(value).replace("'", r"\'")
            for name, value in parts.items()
            if value is not None
        }
        return " ".join(f"{name}='{value}'" for name, value in quoted.items())
