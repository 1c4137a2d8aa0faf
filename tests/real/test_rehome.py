"""Sessions on real servers that are killed, frozen, drained and promoted under them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import errors

from tests.real.conftest import Start
from tests.real.servers import PASSWORDS, GatewayProcess, PostgresServer, until

INTERVAL, TIMEOUT = 0.5, 1.0  # seconds, of the gateways' health checks
CONFIGURATION = (
    f"health: {{interval_seconds: {INTERVAL}, timeout_seconds: {TIMEOUT}}}\n"
    "drain_seconds: 1\nlimits: {sessions_per_user: 1000}\n"
)
Connection = psycopg.Connection[Any]


class Cluster:
    """A primary, two standbys, and a gateway that knows some of them."""

    def __init__(self, directory: Path, start: Start, *known: int) -> None:
        primary = PostgresServer(directory / "a", wal_keep_size="64MB").create()
        self.servers = [primary, primary.standby(directory / "b"), primary.standby(directory / "c")]
        primary.sql("CREATE TABLE written (id int)", "orders")
        primary.sql("GRANT ALL ON written TO app_rw", "orders")
        self.gateway: GatewayProcess = start(CONFIGURATION, objects=self.objects(*known))

    def objects(self, *known: int, draining: int | None = None) -> str:
        targets = ", ".join(
            f'{{address: "localhost:{self.servers[each].port}"'
            f"{', draining: true' if each == draining else ''}}}"
            for each in known
        )
        return f"""\
resources:
  - name: orders
    protocol: postgresql
    database: orders
    targets: [{targets}]
    tls: {{mode: verify-full, ca: {{file: {self.servers[0].ca_file}}}}}
    accounts: [{{name: app_rw, password: {{value: "{PASSWORDS["app_rw"]}"}}}}]
users:
  - {{name: reader, password: {{plain: secret}}}}
  - {{name: writer, password: {{plain: secret}}}}
roles:
  - {{name: reader, allow: [{{resources: {{}}, accounts: [app_rw], targets: standby}}]}}
  - {{name: writer, allow: [{{resources: {{}}, accounts: [app_rw], targets: primary}}]}}
bindings:
  - {{name: reader, role: reader, subjects: [user:reader]}}
  - {{name: writer, role: writer, subjects: [user:writer]}}
"""

    def connect(self, user: str, **over: Any) -> Connection:
        return self.gateway.connect(user=user, password="secret", **over)

    def written(self, server: int) -> Counter[int]:
        rows = self.servers[server].sql("SELECT id FROM written", "orders")
        return Counter(row[0] for row in rows)

    def close(self) -> None:
        for server in self.servers:
            thaw(server)
            server.stop()


@pytest.fixture
def cluster(short_tmp: Path, start: Start, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*known: int) -> Cluster:
        made.append(Cluster(short_tmp / tmp_path.name, start, *known))
        return made[-1]

    yield make
    for each in made:
        each.close()


def processes(server: PostgresServer) -> list[psutil.Process]:
    """The postmaster first."""
    try:
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]
    except (OSError, psutil.NoSuchProcess):
        return []


def all_get(server: PostgresServer, number: signal.Signals) -> None:
    for process in processes(server):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass


def crash(server: PostgresServer) -> None:
    """As when the power fails."""
    all_get(server, signal.SIGKILL)


def freeze(server: PostgresServer) -> None:
    all_get(server, signal.SIGSTOP)


def thaw(server: PostgresServer) -> None:
    all_get(server, signal.SIGCONT)


def port(connection: Connection) -> int:
    (row,) = connection.execute("SHOW port").fetchall()
    return int(row[0])


def furnish(connection: Connection, number: int) -> None:
    """A state of its own."""
    connection.execute(f"SET statement_timeout = {10_000 + number}")
    connection.execute("SET TimeZone TO 'Asia/Tokyo'")
    connection.execute(f"SET app.number = '{number}'")
    for _ in range(2):
        connection.execute("SELECT %s::int * 2", [number], prepare=True)


def check(connection: Connection, number: int) -> None:
    (row,) = connection.execute("SELECT %s::int * 2", [number], prepare=True).fetchall()
    assert row == (2 * number,)
    (row,) = connection.execute(
        "SELECT current_setting('statement_timeout'), current_setting('TimeZone'),"
        " current_setting('app.number'), current_setting('application_name')"
    ).fetchall()
    timeout, zone, own, tag = row
    milliseconds = 10_000 + number
    assert timeout == (f"{milliseconds // 1000}s" if number == 0 else f"{milliseconds}ms")
    assert (zone, own) == ("Asia/Tokyo", str(number))
    assert tag.startswith("[reader ")
    prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
    assert prepared[0][0] >= 1


def test_200_idle_sessions_survive_the_death_of_their_standby(cluster) -> None:
    place = cluster(0, 1)
    held = [place.connect("reader") for _ in range(200)]
    for number, connection in enumerate(held):
        furnish(connection, number)
    place.gateway.apply(place.objects(0, 1, 2))
    before = [row["id"] for row in place.gateway.live()]
    crash(place.servers[1])
    for number, connection in enumerate(held):
        check(connection, number)
        assert port(connection) == place.servers[2].port
    rows = place.gateway.live()
    assert [row["id"] for row in rows] == before
    assert {row["target"] for row in rows} == {f"localhost:{place.servers[2].port}"}
    for connection in held[::50]:
        (note,) = reroutes(place, connection)
        assert note["from"] == f"localhost:{place.servers[1].port}"
        assert note["to"] == f"localhost:{place.servers[2].port}"
    for connection in held:
        connection.close()


def reroutes(place: Cluster, connection: Connection) -> list[dict[str, Any]]:
    told = place.gateway.replay(place.gateway.session_of(connection))
    return [event for event in told if event["kind"] == "reroute"]
