"""Sessions on real servers that are killed, frozen, drained and promoted under them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from gateway.audit import read
from tests.real.conftest import Start
from tests.real.faults import crash, freeze, thaw
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
        self._held: list[Connection] = []
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
        self._held.append(self.gateway.connect(user=user, password="secret", **over))
        return self._held[-1]

    def written(self, server: int) -> Counter[int]:
        rows = self.servers[server].sql("SELECT id FROM written", "orders")
        return Counter(row[0] for row in rows)

    def close(self) -> None:
        for connection in self._held:
            connection.close()
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
    told = list(read(place.gateway.state / "audit"))
    assert {each["session"] for each in told if each["event"] == "session.moved"} == set(before)


def reroutes(place: Cluster, connection: Connection) -> list[dict[str, Any]]:
    told = place.gateway.replay(place.gateway.session_of(connection))
    return [event for event in told if event["kind"] == "reroute"]


def test_no_write_is_done_twice_and_who_was_writing_is_told(cluster) -> None:
    place = cluster(0, 1, 2)
    inside, flying, committing, pinned = (place.connect("writer") for _ in range(4))
    pinned.execute("CREATE TEMP TABLE t (a int)")
    (row,) = [row for row in place.gateway.live() if row.get("pinned")]
    assert row["pinned"] == "temporary tables"
    for connection in (inside, committing):
        connection.execute("BEGIN")
    inside.execute("INSERT INTO written VALUES (1)")
    slow = "INSERT INTO written SELECT 2 FROM pg_sleep(30)"
    told: list[BaseException] = []

    def write() -> None:
        try:
            flying.execute(slow)
        except psycopg.Error as error:
            told.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    until(lambda: place.servers[0].runs(flying.info.backend_pid), "the statement to run")
    crash(place.servers[0])
    writing.join(20)
    assert [type(error) for error in told] == [errors.AdminShutdown]
    assert "a statement was in flight" in str(told[0])
    with pytest.raises(errors.SerializationFailure, match="safe to run it again"):
        inside.execute("INSERT INTO written VALUES (1)")
    with pytest.raises(errors.SerializationFailure):
        committing.execute("COMMIT")
    with pytest.raises(errors.AdminShutdown, match="temporary tables"):
        pinned.execute("SELECT 1")
    place.servers[0].start()
    assert place.written(0) == {}


def test_writes_go_on_after_a_promotion(cluster) -> None:
    """No acknowledged write is lost or doubled: the primary replicates synchronously."""
    place = cluster(0, 1, 2)
    place.servers[0].sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    place.servers[0].sql("SELECT pg_reload_conf()")
    acknowledged: list[tuple[float, int]] = []
    failed: list[tuple[int, BaseException]] = []
    numbers, over = iter(range(1_000_000)), threading.Event()
    lock = threading.Lock()

    def write(connection: Connection) -> None:
        while not over.wait(1.0):
            with lock:
                number = next(numbers)
            try:
                connection.execute("INSERT INTO written VALUES (%s)", [number])
            except psycopg.Error as error:
                failed.append((number, error))
                connection.close()
                connection = place.connect("writer")
            else:
                acknowledged.append((time.monotonic(), number))

    held = [place.connect("writer") for _ in range(50)]
    writers = [threading.Thread(target=write, args=[each]) for each in held]
    for number, writer in enumerate(writers):
        writer.start()
        time.sleep(0.02 * (number % 2))  # spread over the second
    until(lambda: len(acknowledged) > 100, "writes")
    crash(place.servers[0])
    promote(place.servers[1])
    promoted = time.monotonic()
    after = until(lambda: [at for at, _ in acknowledged if at > promoted], "writes to go on")
    until(lambda: sum(at > promoted for at, _ in acknowledged) > 100, "all to go on")
    over.set()
    for writer in writers:
        writer.join(20)
    assert after[0] - promoted < 2 * INTERVAL + 1
    written = place.written(1)
    told = [number for _, number in acknowledged]
    assert [number for number in told if written[number] != 1] == []
    assert not [number for number, count in written.items() if count > 1]
    for _, error in failed:
        assert isinstance(error, errors.AdminShutdown), error
    assert len(failed) < len(held)


def promote(server: PostgresServer) -> None:
    server._run("pg_ctl", "-D", str(server.data), "-w", "promote")


def test_a_frozen_target_is_left_by_who_is_idle(cluster) -> None:
    place = cluster(0, 1)
    held = [place.connect("reader") for _ in range(20)]
    for number, connection in enumerate(held):
        furnish(connection, number)
    place.gateway.apply(place.objects(0, 1, 2))
    until(lambda: states(place)[2] == "up", "the other standby to be seen")
    freeze(place.servers[1])
    frozen = time.monotonic()
    until(lambda: targets(place) == {place.servers[2].port}, "the sessions to have moved")
    assert time.monotonic() - frozen < 3 * (INTERVAL + TIMEOUT)
    for number, connection in enumerate(held):
        check(connection, number)
    thaw(place.servers[1])
    until(lambda: states(place)[1] == "up", "the target to be back")


def states(place: Cluster) -> list[str]:
    told = {row["address"]: row["state"] for row in place.gateway.call("targets")["targets"]}
    return [told.get(f"localhost:{server.port}", "") for server in place.servers]


def targets(place: Cluster) -> set[int]:
    return {int(row["target"].rpartition(":")[2]) for row in place.gateway.live()}


def test_a_drained_target_is_left_by_who_is_idle(cluster) -> None:
    place = cluster(0, 1)
    held = [place.connect("reader") for _ in range(50)]
    for number, connection in enumerate(held):
        furnish(connection, number)
    busy = place.connect("reader")
    busy.execute("BEGIN")
    busy.execute("SELECT 1")
    place.gateway.apply(place.objects(0, 1, 2))
    until(lambda: states(place)[2] == "up", "the other standby to be seen")
    began = time.monotonic()
    done = place.gateway.cli("targets", "drain", f"localhost:{place.servers[1].port}")
    assert done.returncode == 0, done.stderr
    left = lambda: Counter(row["target"] for row in place.gateway.live())  # noqa: E731
    until(lambda: left()[f"localhost:{place.servers[1].port}"] == 1, "the idle ones to go")
    assert time.monotonic() - began < 5
    for number, connection in enumerate(held):
        check(connection, number)
    busy.execute("SELECT 1")
    busy.execute("COMMIT")
    until(lambda: targets(place) == {place.servers[2].port}, "the busy one to follow")
    assert port(busy) == place.servers[2].port


def test_a_restart_in_order_is_not_noticed_either(cluster) -> None:
    """The server says goodbye to every session, which is not passed on."""
    place = cluster(0, 1)
    held = [place.connect("reader") for _ in range(200)]
    for number, connection in enumerate(held):
        furnish(connection, number)
    place.servers[1].restart()
    for number, connection in enumerate(held):
        check(connection, number)


def test_who_is_ended_at_the_target_has_ended(cluster) -> None:
    place = cluster(0, 1, 2)
    connection = place.connect("reader")
    server = next(each for each in place.servers if each.port == port(connection))
    server.sql(f"SELECT pg_terminate_backend({connection.info.backend_pid})")
    with pytest.raises(errors.AdminShutdown, match="administrator command"):
        connection.execute("SELECT 1")


def test_who_was_idle_for_too_long_has_ended(cluster) -> None:
    """The server says so itself, and the client reads it when it asks for something next."""
    place = cluster(0, 1, 2)
    connection = place.connect("reader")
    connection.execute("SET idle_session_timeout = '100ms'")
    until(lambda: not place.gateway.live(), "the session to end")
    with pytest.raises(errors.IdleSessionTimeout):
        connection.execute("SELECT 1")


def test_who_has_gone_is_not_taken_along(cluster) -> None:
    """While its target was frozen, which therefore did not notice."""
    place = cluster(0, 1)
    held = [place.connect("reader") for _ in range(20)]
    place.gateway.apply(place.objects(0, 1, 2))
    until(lambda: states(place)[2] == "up", "the other standby to be seen")
    freeze(place.servers[1])
    for connection in held[:10]:
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
    until(lambda: len(place.gateway.live()) == 10, "the ten to end")
    until(lambda: targets(place) == {place.servers[2].port}, "the others to have moved")
    thaw(place.servers[1])
    for connection in held[10:]:
        assert port(connection) == place.servers[2].port


def test_channels_are_listened_to_after_a_promotion(cluster) -> None:
    place = cluster(0, 1)
    listening = place.connect("writer")
    listening.execute("LISTEN news")
    crash(place.servers[0])
    promote(place.servers[1])
    until(lambda: targets(place) == {place.servers[1].port}, "the session to have moved")
    place.servers[1].sql("NOTIFY news, 'here'", "orders")
    (heard,) = list(listening.notifies(timeout=10, stop_after=1))
    assert (heard.channel, heard.payload) == ("news", "here")
