"""psql and pgbench through the gateway: how people name things, and what they are told."""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Start
from tests.real.programs import BOB, QUIET, Terminal, environment, pgbench, psql
from tests.real.raw import GSS_REQUEST, SSL_REQUEST, RawClient, Refusal, refusal, startup
from tests.real.servers import GatewayProcess, PostgresServer, until

WHERE = "SELECT current_database(), session_user"
ALICE, BOBS, NOBODY = "alice's password", "bob's password", "nobody's password"
BY_NAME = {"hostaddr": "127.0.0.1", "host": "orders.gw.test"}


@pytest.mark.parametrize(
    ("over", "found"),
    [
        ({}, "orders|app_ro"),
        ({"dbname": "orders/reports"}, "reports|app_ro"),
        ({"user": "alice#orders", "dbname": "reports"}, "reports|app_ro"),
        ({"user": "alice:orders", "dbname": "reports"}, "reports|app_ro"),
        ({"user": "alice#orders", "dbname": None}, "orders|app_ro"),
        ({"user": "alice#orders", "dbname": "orders/reports"}, "reports|app_ro"),
        ({"user": "alice/app_ro"}, "orders|app_ro"),
        ({**BOB, "user": "bob/app_rw#orders", "dbname": "reports"}, "reports|app_rw"),
        ({**BOB, "user": "bob/app_rw:orders", "dbname": None}, "orders|app_rw"),
        ({**BOB, "user": "bob/app_ro", "dbname": "orders"}, "orders|app_ro"),
        ({**BY_NAME, "dbname": "reports"}, "reports|app_ro"),
        ({**BY_NAME, "dbname": None}, "orders|app_ro"),
        ({**BY_NAME, "user": "alice#orders", "dbname": "reports"}, "reports|app_ro"),
        ({**BY_NAME, **BOB, "dbname": "orders/reports"}, "reports|app_rw"),
    ],
    ids=str,
)
def test_naming(gateway: GatewayProcess, over: dict[str, Any], found: str) -> None:
    done = psql(gateway, WHERE, **over)
    assert (done.stdout.strip(), done.stderr) == (found, "")


@pytest.mark.parametrize(
    "over",
    [
        {"user": "alice#orders", "dbname": "hidden/orders"},
        {"user": "alice:hidden", "dbname": "orders/reports"},
        {**BY_NAME, "dbname": "hidden/orders"},
        {**BY_NAME, "user": "alice#hidden", "dbname": "orders"},
    ],
    ids=str,
)
def test_forms_that_disagree_are_refused(gateway: GatewayProcess, over: dict[str, Any]) -> None:
    assert "two different resources are named" in refused(psql(gateway, WHERE, **over))


def test_naming_nothing_is_refused_with_the_forms(gateway: GatewayProcess) -> None:
    done = psql(gateway, WHERE, dbname="/reports")
    assert "dbname=RESOURCE" in refused(done)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What psql was told at log-in, without what differs from one log-in to the next."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return re.sub(r"audit id \w+", "audit id", done.stderr).partition("FATAL:  ")[2]


# -- what the refused are told ---------------------------------------------------------------


def test_absent_and_forbidden_are_told_in_the_same_words(gateway: GatewayProcess) -> None:
    told = {
        refused(psql(gateway, WHERE, **over))
        for over in (
            {"dbname": "hidden"},
            {"dbname": "absent"},
            {"user": "alice#absent", "dbname": "orders"},
            {"user": "alice/app_rw"},
            {"user": "alice/no_such_account"},
            {"user": "nobody", "password": NOBODY},
        )
    }
    assert len(told) == 1
    assert told.pop().startswith("access denied (audit id)\nHINT:")


@pytest.mark.parametrize("database", ["hidden", "absent"])
def test_the_sqlstate_of_both_is_28000(gateway: GatewayProcess, database: str) -> None:
    said = refusal(gateway, "alice", ALICE, database)
    assert said is not None
    assert (said.sqlstate, said.fields["S"]) == ("28000", "FATAL")


def test_a_refusal_names_the_entry_of_the_audit_log(gateway: GatewayProcess) -> None:
    said = refusal(gateway, "alice", ALICE, "hidden")
    assert said is not None
    quoted = re.search(r"audit id (\w+)", said.fields["M"])
    assert quoted is not None
    entries = b"".join(path.read_bytes() for path in gateway.state.glob("audit/*.gwt"))
    assert f'"id": "{quoted[1]}"'.encode() in entries


def test_wrong_password_and_unknown_user_cannot_be_told_apart(gateway: GatewayProcess) -> None:
    told = {
        refused(psql(gateway, WHERE, user=user, password="wrong"))
        for user in ("alice", "no-such-user", "alice/no_such_account")
    }
    assert told == {"authentication failed (audit id)\n"}
    for user in ("alice", "no-such-user"):
        said = refusal(gateway, user, "wrong")
        assert said is not None
        assert said.sqlstate == "28P01"


def test_who_has_several_accounts_is_told_to_choose(gateway: GatewayProcess) -> None:
    done = psql(gateway, WHERE, user="bob", password=BOBS)
    assert "name an account: bob/app_ro or bob/app_rw" in refused(done)


def test_a_target_that_is_down(gateway: GatewayProcess) -> None:
    done = psql(gateway, WHERE, **BOB, dbname="down")
    assert refused(done).startswith("no target can take this session now (audit id)\n")
    said = refusal(gateway, "bob", BOBS, "down")
    assert said is not None
    assert said.sqlstate == "57P03"


def test_an_upstream_error_is_told_in_general_words(gateway: GatewayProcess) -> None:
    """The target's own words name its account, its database and its address."""
    done = psql(gateway, WHERE, dbname="orders/no_such_database")
    told = refused(done)
    assert told.startswith("no target can take this session now: there is no such database (")
    assert "HINT" not in told  # trying again does not help
    assert "no_such_database" not in told


# -- TLS and what comes before it ------------------------------------------------------------


def test_clear_text_is_refused(gateway: GatewayProcess) -> None:
    told = refused(psql(gateway, WHERE, sslmode="disable"))
    assert told.startswith("connections must use TLS\nHINT:  Connect with sslmode=require")


def test_clear_text_where_the_configuration_allows_it(start: Start) -> None:
    lenient = start("postgresql: {tls: optional}\n")
    for mode in ("disable", "verify-full"):
        assert psql(lenient, WHERE, sslmode=mode).stdout.strip() == "orders|app_ro"


def test_direct_tls(gateway: GatewayProcess) -> None:
    """As ``sslnegotiation=direct`` of PostgreSQL 17's libpq has it."""
    with RawClient(gateway) as client:
        client.tls(alpn="postgresql")
        client.send(startup(user="alice", database="orders"))
        client.authenticate(ALICE)
        client.until_ready()
        assert (b"C", b"SELECT 1\0") in client.query("SELECT 1")


def test_direct_tls_needs_alpn(gateway: GatewayProcess) -> None:
    with RawClient(gateway) as client:
        client.tls()
        with pytest.raises(Refusal) as refused:
            client.receive()
    assert refused.value.sqlstate == "08P01"


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_gss_encryption_as_libpq_tries_it(gateway: GatewayProcess, mode: str) -> None:
    assert psql(gateway, WHERE, gssencmode=mode).stdout.strip() == "orders|app_ro"


def test_gss_encryption_is_declined_and_tls_follows(gateway: GatewayProcess) -> None:
    with RawClient(gateway) as client:
        client.send(GSS_REQUEST)
        assert client.exactly(1) == b"N"
        client.ask_tls()
        client.send(startup(user="alice", database="orders"))
        client.authenticate(ALICE)
        client.until_ready()


def test_clear_text_behind_the_request_for_tls_is_refused(gateway: GatewayProcess) -> None:
    with RawClient(gateway) as client:
        client.send(SSL_REQUEST + startup(user="alice", database="orders"))
        with pytest.raises(Refusal) as refused:
            client.receive()
    assert refused.value.sqlstate == "08P01"


# -- at work ---------------------------------------------------------------------------------


def test_copy_of_100_mb_in_and_out(gateway: GatewayProcess, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    megabyte = "".join(f"{number}\t{os.urandom(500).hex()}\n" for number in range(1000))
    with there.open("w") as file:
        for _ in range(100):
            file.write(megabyte)
    assert there.stat().st_size > 100_000_000
    done = psql(
        gateway,
        "CREATE UNLOGGED TABLE big (number int, noise text)",
        rf"\copy big from '{there}'",
        rf"\copy big to '{back}'",
        "DROP TABLE big",
        **BOB,
    )
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(there, back, shallow=False)


def test_ctrl_c_cancels(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with Terminal(gateway) as terminal:
        terminal.wait_for("orders=>")
        terminal.type("SELECT pg_sleep(60), 'ctrl-c';\n")
        until(lambda: runs(postgres, "ctrl-c"), "the query to run")
        terminal.type("\x03")
        terminal.wait_for("canceling statement due to user request")
        terminal.wait_for("orders=>")
        terminal.type("SELECT 6 * 7 AS answer;\n")
        terminal.wait_for("42")


def test_kill_tells_the_reason(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with Terminal(gateway) as terminal:
        terminal.wait_for("orders=>")
        terminal.type("SELECT pg_sleep(60), 'killed';\n")
        until(lambda: runs(postgres, "killed"), "the query to run")
        until(lambda: len(gateway.live()) == 1, "earlier sessions to be gone")
        (session,) = [row["id"] for row in gateway.live()]
        done = gateway.cli("kill", session, "--reason", "lunch")
        assert (done.returncode, done.stdout) == (0, f"ended {session}\n")
        terminal.wait_for(f"the session was ended by an administrator (session {session})")
        terminal.wait_for("lunch")
        until(lambda: not runs(postgres, "killed"), "the query to end")


def runs(postgres: PostgresServer, text: str) -> bool:
    """Whether a query with *text* in it runs on the target, other than this one."""
    return bool(
        postgres.sql(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active'"
            f" AND query LIKE '%{text}%' AND usename <> 'postgres'"
        )
    )


def test_standard_input_and_its_errors(gateway: GatewayProcess) -> None:
    """A script with an error in the middle goes on, as psql has it."""
    done = subprocess.run(
        ["psql", *QUIET, gateway.dsn(password=None)],
        input="SELECT 1;\nSELECT 1/0;\nSELECT 'after';\n\\echo :LAST_ERROR_SQLSTATE\n",
        env=environment(ALICE),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "1\nafter\n22012\n"
    assert "division by zero" in done.stderr


# -- pgbench ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(gateway: GatewayProcess) -> GatewayProcess:
    """A gateway to a target on which ``pgbench -i`` has run."""
    done = pgbench(gateway, "-i", "-q", "-s", "1")
    assert done.returncode == 0, done.stderr
    return gateway


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(bench: GatewayProcess, postgres: PostgresServer, mode: str) -> None:
    written = "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts)"
    written += " FROM pgbench_history"
    ((before, _),) = postgres.sql(written, "orders")
    done = pgbench(bench, "-n", "-c", "4", "-t", "25", "-M", mode)
    assert done.returncode == 0, done.stderr
    assert "number of failed transactions: 0 (" in done.stdout
    assert postgres.sql(written, "orders") == [(before + 100, True)]


def test_pgbench_pipelines(bench: GatewayProcess, postgres: PostgresServer, tmp_path: Path) -> None:
    script = tmp_path / "pipeline.sql"
    inserts = "INSERT INTO pipelined VALUES (:client_id);\n" * 50
    script.write_text(f"\\startpipeline\nBEGIN;\n{inserts}COMMIT;\n\\endpipeline\n")
    postgres.sql("CREATE TABLE pipelined (client int); GRANT ALL ON pipelined TO app_rw", "orders")
    for mode in ("extended", "prepared"):
        done = pgbench(bench, "-n", "-c", "2", "-t", "10", "-M", mode, "-f", str(script))
        assert done.returncode == 0, done.stderr
    assert postgres.sql("SELECT count(*) FROM pipelined", "orders") == [(2000,)]
