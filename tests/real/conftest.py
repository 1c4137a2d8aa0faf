"""One real PostgreSQL for all tests, and a gateway in front of it for each module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.servers import PASSWORDS, POSTGRESQL, GatewayProcess, PostgresServer

NEEDED = {
    "psql": "postgresql-client",
    "node": "nodejs",
    "npm": "npm",
    "java": "default-jre-headless",
}


def pytest_configure() -> None:
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if not (POSTGRESQL / "postgres").exists():
        missing.append("postgresql-15")
    if missing:
        pytest.exit(f"the tests need: apt-get install {' '.join(missing)}", returncode=3)


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


Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def start(short_tmp: Path, objects: str) -> Iterator[Start]:
    """Starts gateways; ends them, and looks at their logs, when the module is through."""
    started: list[GatewayProcess] = []

    def begin(configuration: str = "", daemon: str = "twist", **popen: object) -> GatewayProcess:
        directory = Path(tempfile.mkdtemp(dir=short_tmp))
        process = GatewayProcess(directory, objects, configuration, daemon)
        started.append(process)
        return process.start(**popen)

    yield begin
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def gateway(start: Start) -> GatewayProcess:
    """A gateway as it comes."""
    return start()
