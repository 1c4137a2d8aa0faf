"""One real PostgreSQL for all tests, and a gateway in front of it for each module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.drivers import JDBC, NODE_PG
from tests.real.servers import PASSWORDS, POSTGRESQL, GatewayProcess, PostgresServer, free_port

NEEDED = {
    "psql": "postgresql-client",
    "node": "nodejs",
    "npm": "npm",
    "javac": "default-jdk-headless",
}


def pytest_configure() -> None:
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if not (POSTGRESQL / "postgres").exists():
        missing.append("postgresql-15")
    if not JDBC.exists():
        missing.append("libpostgresql-jdbc-java")
    if missing:
        pytest.exit(f"the tests need: apt-get install {' '.join(missing)}", returncode=3)
    if not NODE_PG.exists():
        pytest.exit(f"the tests need: npm ci --prefix {NODE_PG.parents[1]}", returncode=3)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A directory that every user can reach and whose name leaves room for sockets."""
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def postgres(short_tmp: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(short_tmp / "pg").create()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def objects(postgres: PostgresServer) -> str:
    """alice reads, bob writes, nobody may do anything; resources as real people name them."""
    return f"""\
resources:
  - name: orders
    protocol: postgresql
    labels: {{env: test}}
    database: orders
    targets: [{{address: "localhost:{postgres.port}"}}]
    tls: {{mode: verify-full, ca: {{file: {postgres.ca_file}}}}}
    accounts:
      - {{name: app_ro, password: {{value: "{PASSWORDS["app_ro"]}"}}}}
      - {{name: app_rw, password: {{value: "{PASSWORDS["app_rw"]}"}}}}
  - name: hidden
    protocol: postgresql
    targets: [{{address: "localhost:{postgres.port}"}}]
    tls: {{mode: verify-full, ca: {{file: {postgres.ca_file}}}}}
    accounts:
      - {{name: app_ro, password: {{value: "{PASSWORDS["app_ro"]}"}}}}
  - name: down
    protocol: postgresql
    labels: {{env: test}}
    targets: [{{address: "localhost:{free_port()}"}}]
    accounts:
      - {{name: app_rw, password: {{value: "{PASSWORDS["app_rw"]}"}}}}
users:
  - {{name: alice, groups: [analysts], password: {{plain: "alice's password"}}}}
  - {{name: bob, groups: [ops], password: {{plain: "bob's password"}}}}
  - {{name: nobody, password: {{plain: "nobody's password"}}}}
roles:
  - name: reader
    allow:
      - {{resources: {{names: [orders]}}, accounts: [app_ro], read_only: true}}
  - name: operator
    allow:
      - {{resources: {{labels: {{env: test}}}}, accounts: [app_rw, app_ro]}}
bindings:
  - {{name: analysts-read, role: reader, subjects: [group:analysts]}}
  - {{name: ops, role: operator, subjects: [group:ops]}}
"""


def more(objects: str, **added: str) -> str:
    """*objects* with lines added to its lists of resources, users, roles and bindings."""
    for kind, lines in added.items():
        objects = objects.replace(f"{kind}:\n", f"{kind}:\n{lines}")
    return objects


Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def start(short_tmp: Path, objects: str) -> Iterator[Start]:
    """Starts gateways; ends them, and looks at their logs, when the module is through."""
    started: list[GatewayProcess] = []

    def begin(configuration: str = "", **over: Any) -> GatewayProcess:
        directory = Path(tempfile.mkdtemp(dir=short_tmp))
        given = {"objects": objects, "configuration": configuration, **over}
        process = GatewayProcess(directory, **given)
        started.append(process)
        return process.start()

    yield begin
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def gateway(start: Start) -> GatewayProcess:
    """A gateway as it comes, but for its patience at the end."""
    return start("drain_seconds: 2\n")
