"""What the gateway is compared with: the same PostgreSQL, direct and through other doors."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from attrs import frozen

from tests.real.servers import PASSWORDS, GatewayProcess, PostgresServer, free_port, until

HBA = """\
local all all trust
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
USER, DATABASE = "app_rw", "orders"


@frozen
class Door:
    """A way to the database: where, as whom, and whose CPU it costs."""

    name: str
    port: int
    pids: tuple[int, ...]
    tls: bool = False
    user: str = USER
    password: str = PASSWORDS[USER]

    def environment(self) -> dict[str, str]:
        """libpq's variables; the password stands in no process list."""
        return {
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": DATABASE,
            "PGSSLMODE": "require" if self.tls else "disable",
            "PGGSSENCMODE": "disable",
        }

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=DATABASE,
            sslmode="require" if self.tls else "disable",
            gssencmode="disable",
            autocommit=True,
        )

    def pgbench(self, *arguments: str) -> dict[str, float]:
        """Transactions, their latency in ms, and how many a second."""
        done = subprocess.run(
            ["pgbench", "-n", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr}")
        return dict(_figures(done.stdout))


def _figures(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if line.startswith("number of transactions actually processed:"):
            yield "transactions", float(line.split(":")[1].split("/")[0])
        elif line.startswith("latency average"):
            yield "latency", float(line.split("=")[1].split()[0])
        elif line.startswith("tps"):
            yield "tps", float(line.split("=")[1].split()[0])


@contextmanager
def doors(sessions: int) -> Iterator[dict[str, Door]]:
    """All of them in front of one PostgreSQL that takes *sessions* connections."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gwbench")))
        directory.chmod(0o755)
        server = PostgresServer(
            directory / "pg", max_connections=str(3 * sessions + 50), shared_buffers="'256MB'"
        ).create()
        stack.callback(server.stop)
        (server.data / "pg_hba.conf").write_text(HBA)
        server.sql("SELECT pg_reload_conf()")
        direct = Door("direct", server.port, ())
        direct.pgbench("-i", "-q", "-s", "5")
        found = [direct, _haproxy(stack, directory, server), *_pgbouncer(stack, directory, server)]
        found += _gateway(stack, directory, server, sessions)
        yield {door.name: door for door in found}


def _haproxy(stack: ExitStack, directory: Path, server: PostgresServer) -> Door:
    port = free_port()
    config = directory / "haproxy.cfg"
    config.write_text(
        f"""\
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen pg
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{server.port}
"""
    )
    process = _daemon(stack, ["haproxy", "-db", "-f", str(config)])
    return _up(Door("haproxy", port, (process.pid,)))


def _pgbouncer(stack: ExitStack, directory: Path, server: PostgresServer) -> Iterator[Door]:
    for name, tls in (("pgbouncer", False), ("pgbouncer TLS", True)):
        port = free_port()
        users, config = directory / "users.txt", directory / f"bouncer{int(tls)}.ini"
        users.write_text(f'"{USER}" "{PASSWORDS[USER]}"\n')
        key, certificate = server.data / "server.key", server.data / "server.crt"
        secure = (
            f"client_tls_sslmode = require\nclient_tls_key_file = {key}\n"
            f"client_tls_cert_file = {certificate}\n"
        )
        config.write_text(
            f"""\
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {users}
pool_mode = session
max_client_conn = 2000
default_pool_size = 2000
unix_socket_dir =
logfile = {directory}/bouncer{int(tls)}.log
{secure if tls else ""}"""
        )
        program = ["/usr/sbin/pgbouncer", "-q", str(config)]
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "postgres", str(users), str(config)], check=True)
            directory.chmod(0o777)
            program[1:1] = ["-u", "postgres"]
        process = _daemon(stack, program)
        yield _up(Door(name, port, (process.pid,), tls))


def _gateway(
    stack: ExitStack, directory: Path, server: PostgresServer, sessions: int
) -> Iterator[Door]:
    objects = f"""\
resources:
  - name: {DATABASE}
    protocol: postgresql
    database: {DATABASE}
    targets: [{{address: "127.0.0.1:{server.port}"}}]
    tls: {{mode: disable}}
    accounts: [{{name: {USER}, password: {{value: "{PASSWORDS[USER]}"}}}}]
users: [{{name: alice, password: {{plain: "alice's password"}}}}]
roles: [{{name: all, allow: [{{resources: {{}}, accounts: [{USER}]}}]}}]
bindings: [{{name: all, role: all, subjects: [user:alice]}}]
"""
    configuration = f"""\
postgresql: {{tls: optional}}
limits: {{sessions: {2 * sessions}, sessions_per_user: {2 * sessions}}}
"""
    process = GatewayProcess(directory / "gateway", objects, configuration).start()
    stack.callback(process.stop)
    for name, tls in (("gateway", False), ("gateway TLS", True)):
        yield Door(name, process.port, (process.pid,), tls, "alice", "alice's password")


def _daemon(stack: ExitStack, program: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _up(door: Door) -> Door:
    until(lambda: _connects(door), f"{door.name} to take connections")
    return door


def _connects(door: Door) -> bool:
    try:
        door.connect().close()
    except psycopg.OperationalError:
        return False
    return True
