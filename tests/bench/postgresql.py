"""PostgreSQL through the gateway, beside pgbouncer in session mode, haproxy and nothing.

CPU time is that of the door alone. Recording is on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.bench import tracking
from tests.bench.measure import Table, costing, resident, rounds
from tests.bench.peers import Door, doors

CLIENTS = 8
THROUGH = ("haproxy", "pgbouncer", "pgbouncer TLS", "gateway", "gateway TLS")
ROWS = "SELECT repeat('x', 100) AS a, i AS b, repeat('y', 50) AS c FROM generate_series(1, {}) i"
ROW_BYTES = 179  # on the wire: type, length, three columns with theirs


def run(seconds: int, count: int, sessions: int) -> Iterator[Table]:
    """The tables, as they get done. *seconds* a measurement, *count* rounds of each."""
    with doors(sessions) as every:
        yield from _transactions(every, seconds, count)
        yield tracking.run(every["gateway"], seconds, count)
        yield _latency(every, seconds, count)
        yield from _bulk(every, count)
        yield from _logins(every, seconds, count)
        yield _memory(every, sessions)


def _all(every: Mapping[str, Door], count: int, measure: Callable[[Door], None]) -> None:
    rounds(count, [partial(measure, every[name]) for name in THROUGH])


def _transactions(every: Mapping[str, Door], seconds: int, count: int) -> Iterator[Table]:
    for mode in ("simple", "prepared"):
        table = Table(
            f"pgbench -S -M {mode}, {CLIENTS} clients", "CPU µs a transaction", "pgbouncer"
        )

        def measure(door: Door, mode: str = mode, table: Table = table) -> None:
            with costing(door.pids) as cost:
                figures = door.pgbench("-S", "-M", mode, "-c", str(CLIENTS), "-T", str(seconds))
            table.add(door.name, cost.cpu / figures["transactions"] * 1e6)

        _all(every, count, measure)
        yield table


def _latency(every: Mapping[str, Door], seconds: int, count: int) -> Table:
    table = Table("pgbench -S, one client: latency", "µs", "direct")

    def measure(door: Door) -> None:
        figures = door.pgbench("-S", "-c", "1", "-T", str(seconds))
        table.add(door.name, figures["latency"] * 1e3)

    rounds(count, [partial(measure, every[name]) for name in ("direct", *THROUGH)])
    return table


def _bulk(every: Mapping[str, Door], count: int) -> Iterator[Table]:
    rows = 1_000_000
    statements = {"SELECT": ROWS.format(rows), "COPY": f"COPY ({ROWS.format(rows)}) TO STDOUT"}
    for name, statement in statements.items():
        speed = Table(f"bulk {name}: speed", "MB/s", "direct")
        cost_table = Table(f"bulk {name}: CPU", "ns a byte", "pgbouncer", digits=2)

        def measure(
            door: Door,
            name: str = name,
            statement: str = statement,
            speed: Table = speed,
            cost_table: Table = cost_table,
        ) -> None:
            with costing(door.pids) as cost:
                size = _fetch(door, name, statement, rows)
            speed.add(door.name, size / cost.wall / 1e6)
            if door.pids:
                cost_table.add(door.name, cost.cpu / size * 1e9)

        rounds(count, [partial(measure, every[each]) for each in ("direct", *THROUGH)])
        yield speed
        yield cost_table


def _fetch(door: Door, name: str, statement: str, rows: int) -> int:
    """Bytes that came."""
    if name == "COPY":
        with door.connect() as connection, connection.cursor().copy(statement) as copy:
            return sum(len(block) for block in copy)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(statement + ";\n")
        script.flush()
        door.pgbench("-f", str(Path(script.name)), "-c", "1", "-t", "1")
    return rows * ROW_BYTES


def _logins(every: Mapping[str, Door], seconds: int, count: int) -> Iterator[Table]:
    speed = Table(f"log-ins, {CLIENTS} clients", "a second", "direct")
    cpu = Table("log-ins: CPU", "ms each", "pgbouncer", digits=2)

    def measure(door: Door) -> None:
        with costing(door.pids) as cost:
            figures = door.pgbench("-C", "-S", "-c", str(CLIENTS), "-T", str(seconds))
        speed.add(door.name, figures["transactions"] / cost.wall)
        if door.pids:
            cpu.add(door.name, cost.cpu / figures["transactions"] * 1e3)

    rounds(count, [partial(measure, every[name]) for name in ("direct", *THROUGH)])
    yield speed
    yield cpu


def _memory(every: Mapping[str, Door], sessions: int) -> Table:
    table = Table(f"memory of an idle session, {sessions} of them", "KiB", "pgbouncer")
    for name in THROUGH:
        door = every[name]
        before = sum(map(resident, door.pids))
        held = [door.connect() for _ in range(sessions)]
        for connection in held:
            connection.execute("SELECT 1")
        table.add(name, (sum(map(resident, door.pids)) - before) / sessions / 1024)
        for connection in held:
            connection.close()
    return table
