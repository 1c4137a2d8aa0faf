"""Drivers through the gateway: each one's basic flow, and what only some of them do."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from tests.real.drivers import java, node
from tests.real.programs import BOB
from tests.real.raw import refusal
from tests.real.servers import GatewayProcess, PostgresServer, until
from tests.support import asyncio_test

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(gateway: GatewayProcess) -> Iterator[Connection]:
    """psycopg, as bob, who may write."""
    with gateway.connect(**BOB, channel_binding="require") as connection:
        yield connection


# -- psycopg ---------------------------------------------------------------------------------


def test_channel_binding_is_there_to_be_required(connection: Connection) -> None:
    """libpq goes on only where the gateway has proved to know what it was bound to."""
    assert connection.pgconn.ssl_in_use
    assert connection.pgconn.used_password
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_who_and_where_are_the_targets_own(
    connection: Connection, postgres: PostgresServer
) -> None:
    pid = connection.info.backend_pid
    assert connection.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
    assert connection.info.parameter_status("server_version").startswith("15.")
    assert postgres.sql(f"SELECT usename FROM pg_stat_activity WHERE pid = {pid}") == [("app_rw",)]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_parameters(connection: Connection, binary: bool) -> None:
    form = "b" if binary else "t"
    values = (42, "größer", b"\x00\xff", None, 2.5, [1, 2, 3])
    asked = ", ".join(f"%{form}" for _ in values)
    found = connection.execute(f"SELECT {asked}", values, binary=binary).fetchone()
    assert found == values


def test_prepared_statements(connection: Connection) -> None:
    for number in range(10):
        found = connection.execute("SELECT %s::int * 2", (number,), prepare=True).fetchone()
        assert found == (number * 2,)
    named = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert named == (1,)


def test_errors_and_transactions(connection: Connection) -> None:
    def fail() -> None:
        with connection.transaction():
            connection.execute("INSERT INTO kept VALUES (1)")
            connection.execute("SELECT 1/0")

    connection.execute("CREATE TEMP TABLE kept (n int)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        fail()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction():
        connection.execute("INSERT INTO kept VALUES (2)")
    assert connection.execute("SELECT n FROM kept").fetchall() == [(2,)]


def test_pipeline_mode(connection: Connection) -> None:
    def fail() -> None:
        with connection.pipeline():
            connection.execute("SELECT 1/0")
            connection.execute("CREATE TEMP TABLE never (n int)")

    with connection.pipeline() as pipeline:
        cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(500)]
        pipeline.sync()
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(500)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        fail()
    assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)


def test_binary_copy_both_ways(connection: Connection) -> None:
    connection.execute("CREATE TEMP TABLE copied (id int8, words text)")
    rows = [(number, f"row {number}") for number in range(20_000)]
    with connection.cursor().copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(("int8", "text"))
        for row in rows:
            copy.write_row(row)
    with connection.cursor().copy("COPY copied TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(("int8", "text"))
        assert list(copy.rows()) == rows


def test_a_copy_that_the_client_breaks_off(connection: Connection) -> None:
    def break_off() -> None:
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write_row((1,))
            raise RuntimeError("no more")

    connection.execute("CREATE TEMP TABLE copied (id int)")
    with pytest.raises(RuntimeError, match="no more"):
        break_off()
    assert connection.execute("SELECT count(*) FROM copied").fetchone() == (0,)


def test_notifications(gateway: GatewayProcess, connection: Connection) -> None:
    connection.execute("LISTEN news")
    with gateway.connect() as other:
        other.execute("NOTIFY news, 'from the other session'")
        pid = other.info.backend_pid
    (heard,) = connection.notifies(timeout=20, stop_after=1)
    assert (heard.channel, heard.payload, heard.pid) == ("news", "from the other session", pid)


def test_server_side_cursors(connection: Connection) -> None:
    with connection.transaction(), connection.cursor("slowly") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(number for (number,) in cursor) == 500_500


def test_large_objects(connection: Connection) -> None:
    """By the functions of SQL; libpq's own calls are below."""
    content = bytes(range(256)) * 1000
    with connection.transaction():
        row = connection.execute("SELECT lo_from_bytea(0, %s)", (content,)).fetchone()
        assert row is not None
        assert connection.execute("SELECT lo_get(%s)", row).fetchone() == (content,)
        connection.execute("SELECT lo_unlink(%s)", row)


def test_a_value_of_100_mb_both_ways(gateway: GatewayProcess, connection: Connection) -> None:
    before = gateway.memory()
    value = b"\x00\x01binary\xff" * 11_111_112
    asked = "SELECT encode(sha256(value), 'hex'), value FROM (SELECT %b::bytea AS value) AS sent"
    found = connection.execute(asked, (value,), binary=True).fetchone()
    assert found == (hashlib.sha256(value).hexdigest(), value)
    assert gateway.memory() - before < 30_000_000


def test_cancel(connection: Connection, postgres: PostgresServer) -> None:
    cursor = connection.cursor()
    connection.pgconn.send_query(b"SELECT pg_sleep(60)")
    until(lambda: postgres.runs(connection.info.backend_pid), "the query to run")
    connection.cancel_safe()
    result = connection.pgconn.get_result()
    assert result is not None
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
    while connection.pgconn.get_result() is not None:
        pass
    assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_a_cancel_with_a_wrong_key_does_nothing(
    gateway: GatewayProcess, connection: Connection
) -> None:
    with gateway.connect() as other:
        other.cancel_safe()  # nothing runs there, and here it has nothing to say
    assert connection.execute("SELECT pg_sleep(0.2), 1").fetchone() == ("", 1)


def test_startup_options_reach_the_target(gateway: GatewayProcess) -> None:
    with gateway.connect(options="-c work_mem=5MB -c DateStyle=German") as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        assert connection.execute("SHOW DateStyle").fetchone() == ("German, DMY",)


def test_names_that_need_quoting(connection: Connection) -> None:
    name = sql.Identifier('wei"rd näme')
    connection.execute(sql.SQL("CREATE TEMP TABLE {} (n int)").format(name))
    assert connection.execute(sql.SQL("TABLE {}").format(name)).fetchall() == []


# -- asyncpg ---------------------------------------------------------------------------------


async def connect(gateway: GatewayProcess, **over: Any) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="localhost",
        port=gateway.port,
        ssl=ssl.create_default_context(cafile=gateway.ca),
        database="orders",
        timeout=20,
        **BOB | over,
    )


@asyncio_test
async def test_asyncpg(gateway: GatewayProcess) -> None:
    connection = await connect(gateway)

    async def fail() -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO kept VALUES (1)")
            await connection.fetchval("SELECT 1/0")

    try:
        row = await connection.fetchrow(
            "SELECT $1::int + 2 AS sum, $2::text AS words", 40, "größer"
        )
        assert (row["sum"], row["words"]) == (42, "größer")
        square = await connection.prepare("SELECT $1::int * $1::int")
        assert [await square.fetchval(number) for number in (3, 4)] == [9, 16]
        await connection.execute("CREATE TEMP TABLE kept (n int)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await fail()
        await connection.executemany("INSERT INTO kept VALUES ($1)", [(2,), (3,)])
        async with connection.transaction():
            kept = [row["n"] async for row in connection.cursor("SELECT n FROM kept", prefetch=1)]
        assert kept == [2, 3]
    finally:
        await connection.close()
    told = gateway.replay(gateway.sessions("--user", "bob")[0]["id"])
    sums = [e["parameters"] for e in told if "AS sum" in str(e.get("sql"))]
    assert sums == [[40, "größer"]], "binary, of types that only the target has named"


@asyncio_test
async def test_asyncpg_copies(gateway: GatewayProcess) -> None:
    connection = await connect(gateway)
    try:
        await connection.execute("CREATE TEMP TABLE copied (id int, words text)")
        rows = [(number, f"row {number}") for number in range(5000)]
        assert await connection.copy_records_to_table("copied", records=rows) == "COPY 5000"
        chunks: list[bytes] = []

        async def take(chunk: bytes) -> None:
            chunks.append(chunk)

        await connection.copy_from_query("TABLE copied", output=take)
        assert b"".join(chunks) == b"".join(b"%d\trow %d\n" % (n, n) for n in range(5000))
    finally:
        await connection.close()


@asyncio_test
async def test_asyncpg_cancels_what_takes_too_long(gateway: GatewayProcess) -> None:
    connection = await connect(gateway)
    try:
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("SELECT pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


@asyncio_test
async def test_asyncpg_reads_why_it_is_refused(gateway: GatewayProcess) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(gateway, password="wrong")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="access denied"):
        await connect(gateway, user="bob/app_rw#hidden")
    said = refusal(gateway, "bob/app_rw#hidden", BOB["password"])
    assert said is not None
    assert said.words == "access denied"


# -- drivers of other languages --------------------------------------------------------------


def test_node_postgres(gateway: GatewayProcess) -> None:
    assert node(gateway) == {
        "parameters": {"sum": 42, "words": "größer"},
        "prepared": [9, 16],
        "bytes": True,
        "error": "22012",
        "aborted": "25P02",
        "kept": [2],
        "queued": True,
        "copied": True,
        "heard": "hello",
        "cancelled": "57014",
        "wrong": "28P01",
        "forbidden": "28000",
        "unverified": "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    }


def test_jdbc(gateway: GatewayProcess) -> None:
    assert java(gateway) == {
        "sum": 42,
        "words": "größer",
        "bytes": True,
        "prepared": [1, 4, 9, 16, 25],
        "error": "22012",
        "aborted": "25P02",
        "kept": [2, 1],
        "batch": 500,
        "cursor": 100,
        "copied_in": 5000,
        "copied": True,
        "heard": "hello",
        "cancelled": "57014",
        "wrong": "28P01",
        "forbidden": "28000",
    }
