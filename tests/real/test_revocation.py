"""What ends a session that runs, and what holds it while it does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.pq import DiagnosticField

from tests.real.conftest import Start, more
from tests.real.programs import BOB, QUIET, environment
from tests.real.raw import refusal
from tests.real.servers import GatewayProcess, PostgresServer, tagged, until

ALICE = "alice's password"
GONE = "access to this resource was revoked"

USERS = """\
  - {name: short, password: {plain: "secret"}}
  - {name: idle, password: {plain: "secret"}}
  - {name: hurried, password: {plain: "secret"}}
  - {name: untagged, password: {plain: "secret"}}
"""
ROLES = """\
  - name: short
    allow: [{resources: {names: [orders]}, accounts: [app_ro], max_session_seconds: 1}]
  - name: idle
    allow: [{resources: {names: [orders]}, accounts: [app_ro], idle_seconds: 1}]
  - name: hurried
    allow: [{resources: {names: [orders]}, accounts: [app_ro], statement_timeout_seconds: 0.2}]
  - name: untagged
    allow: [{resources: {names: [untagged]}, accounts: [app_ro]}]
"""
BINDINGS = "".join(
    f"  - {{name: {name}, role: {name}, subjects: [user:{name}]}}\n"
    for name in ("short", "idle", "hurried", "untagged")
)
ANALYSTS = "{name: analysts-read, role: reader, subjects: [group:analysts]}"


@pytest.fixture(scope="module")
def everything(objects: str) -> str:
    """The objects of this module: some more users, under limits of their own."""
    orders = objects[objects.index("  - name: orders") : objects.index("  - name: hidden")]
    untagged = orders.replace("name: orders", "name: untagged")
    untagged += "    tag_application_name: false\n"
    return more(objects, resources=untagged, users=USERS, roles=ROLES, bindings=BINDINGS)


@pytest.fixture(scope="module")
def shared(start: Start, everything: str) -> GatewayProcess:
    return start("drain_seconds: 2\n", objects=everything)


@pytest.fixture
def gateway(shared: GatewayProcess, everything: str) -> Iterator[GatewayProcess]:
    """The module's gateway; its objects are put back when a test has changed them."""
    yield shared
    apply(shared, everything)
    shared.call("enable", name="bob")


def apply(gateway: GatewayProcess, objects: str) -> None:
    """As ``gateway apply --prune`` does it, without a process for it."""
    gateway.call("apply", text=objects, file="changed.yaml", prune=True)


class Sleeper:
    """psycopg in the middle of a statement that would take a minute."""

    def __init__(self, gateway: GatewayProcess, postgres: PostgresServer, **over: Any) -> None:
        self.connection = gateway.connect(**over)
        self.pid = self.connection.info.backend_pid
        self._postgres = postgres
        self.connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        until(self.runs, "the query to run")

    def close(self) -> None:
        self.connection.close()

    def runs(self) -> bool:
        return self._postgres.runs(self.pid)

    def ended(self) -> tuple[str, str]:
        """SQLSTATE and message with which it ends, which has to be within one second."""
        began = time.monotonic()
        result = self.connection.pgconn.get_result()
        assert time.monotonic() - began < 1
        assert result is not None
        until(lambda: not self.runs(), "the query to be cancelled on the target", 1)
        sqlstate = result.error_field(DiagnosticField.SQLSTATE) or b""
        message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b""
        return sqlstate.decode(), message.decode().partition(" (session ")[0]


# -- changes of the objects ------------------------------------------------------------------


def test_removing_a_binding_ends_the_session_and_psql_shows_why(
    gateway: GatewayProcess, postgres: PostgresServer, everything: str
) -> None:
    psql = subprocess.Popen(
        ["psql", *QUIET, "-c", "SELECT pg_sleep(60), 'psql'", gateway.dsn(password=None)],
        env=environment(ALICE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%''psql''' AND state = 'active'"
    ((pid,),) = until(lambda: postgres.sql(running), "the query to run")
    printed = gateway.apply(everything.replace(f"  - {ANALYSTS}\n", ""), "--prune")
    began = time.monotonic()
    _, told = psql.communicate(timeout=30)
    assert time.monotonic() - began < 1
    assert f"FATAL:  {GONE} (session " in told
    assert "- binding analysts-read" in printed.splitlines()
    until(lambda: not postgres.runs(pid), "the query to be cancelled on the target", 1)
    said = refusal(gateway, "alice", ALICE)
    assert said is not None
    assert said.sqlstate == "28000"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("subjects: [group:ops]", "subjects: [user:alice]"),
        ("accounts: [app_rw, app_ro]", "accounts: [app_ro]"),
        ("{name: bob, groups: [ops],", "{name: bob,"),
        ("labels: {env: test}\n    database", "labels: {env: other}\n    database"),
        ("subjects: [group:ops]", "subjects: [group:ops], deny_sources: [127.0.0.0/8]"),
        ("subjects: [group:ops]", "subjects: [group:ops], sources: [10.0.0.0/8]"),
        ("subjects: [group:ops]", "subjects: [group:ops], expires: 2020-01-01T00:00:00Z"),
        ("accounts: [app_rw, app_ro]", "accounts: [app_rw], read_only: true"),
    ],
)
def test_what_takes_the_right_away_ends_the_session(
    gateway: GatewayProcess, postgres: PostgresServer, everything: str, before: str, after: str
) -> None:
    assert before in everything
    with closing(Sleeper(gateway, postgres, **BOB)) as sleeper:
        apply(gateway, everything.replace(before, after))
        assert sleeper.ended() == ("57P01", GONE)


def test_other_changes_leave_a_session_alone(
    gateway: GatewayProcess, postgres: PostgresServer, everything: str
) -> None:
    changed = everything.replace("{name: short, role: short", "{name: renamed, role: short")
    changed = changed.replace("{name: nobody,", "{name: nobody, groups: [ops],")
    with closing(Sleeper(gateway, postgres, **BOB)) as sleeper, gateway.connect() as reader:
        apply(gateway, changed)
        assert reader.execute("SELECT 1").fetchone() == (1,)
        assert sleeper.runs()
        gateway.call("kill", id=tagged_in(postgres, sleeper.pid), reason="")
        assert sleeper.ended() == ("57P01", "the session was ended by an administrator")


def tagged_in(postgres: PostgresServer, pid: int) -> str:
    """How the session's id begins, by what the target shows of it."""
    shown = postgres.sql(f"SELECT application_name FROM pg_stat_activity WHERE pid = {pid}")
    return str(shown[0][0]).rpartition(" ")[2].rstrip("]")


def test_deleting_a_binding(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with closing(Sleeper(gateway, postgres, **BOB)) as sleeper:
        done = gateway.cli("delete", "binding", "ops")
        assert done.returncode == 0
        assert "binding ops comes back when it is read next" in done.stderr
        assert sleeper.ended() == ("57P01", GONE)


def test_disabling_a_user(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with closing(Sleeper(gateway, postgres, **BOB)) as sleeper:
        assert gateway.cli("users", "disable", "bob").returncode == 0
        assert sleeper.ended() == ("57P01", GONE)
    said = refusal(gateway, "bob/app_rw", BOB["password"])
    assert said is not None
    assert (said.sqlstate, said.words) == ("28P01", "authentication failed")
    assert gateway.cli("users", "enable", "bob").returncode == 0
    assert refusal(gateway, "bob/app_rw", BOB["password"]) is None


def test_who_does_not_read_is_ended_all_the_same(
    gateway: GatewayProcess, postgres: PostgresServer
) -> None:
    with closing(gateway.connect(**BOB)) as connection:
        pid = connection.info.backend_pid
        connection.pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
        stuck = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'ClientWrite'"
        until(lambda: postgres.sql(stuck), "all buffers on the way to be full")
        gateway.call("disable", name="bob")
        until(lambda: not gateway.live(), "the session to be over", 1)
        until(lambda: not postgres.runs(pid), "the target to notice", 1)


def test_the_end_and_its_reason_are_kept(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with closing(Sleeper(gateway, postgres, **BOB)) as sleeper:
        session = tagged_in(postgres, sleeper.pid)
        gateway.call("delete", kind="bindings", name="ops")
        sleeper.ended()
    until(lambda: not gateway.live(), "the session to be over")
    last = gateway.replay(session)[-1]
    assert (last["kind"], last["reason"]) == ("end", "access revoked")
    (row,) = [row for row in gateway.call("sessions")["sessions"] if row["id"].startswith(session)]
    assert row["reason"].startswith("access revoked: ")


# -- time ------------------------------------------------------------------------------------


def test_a_binding_that_expires(
    gateway: GatewayProcess, postgres: PostgresServer, everything: str
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=1.5)
    timed = ANALYSTS.replace("}", f", expires: {moment.isoformat()}}}")
    apply(gateway, everything.replace(ANALYSTS, timed))
    with closing(Sleeper(gateway, postgres)) as sleeper:
        assert datetime.now(UTC) < moment
        until(lambda: datetime.now(UTC) >= moment, "the moment of expiry")
        # Looked at once a second, and told within the second.
        result = sleeper.connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(DiagnosticField.SQLSTATE) == b"57P01"
        assert datetime.now(UTC) - moment < timedelta(seconds=2)
        until(lambda: not sleeper.runs(), "the query to be cancelled on the target", 1)


def test_hours_that_are_over(
    gateway: GatewayProcess, postgres: PostgresServer, everything: str
) -> None:
    def during(hours: int) -> str:
        start = datetime.now(UTC) + timedelta(hours=hours)
        window = f"Mon-Sun {start:%H:%M}-{start + timedelta(hours=3):%H:%M} UTC"
        return everything.replace(ANALYSTS, ANALYSTS.replace("}", f', hours: "{window}"}}'))

    apply(gateway, during(-1))
    with closing(Sleeper(gateway, postgres)) as sleeper:
        apply(gateway, during(+2))
        assert sleeper.ended() == ("57P01", GONE)
    apply(gateway, during(-1))
    assert refusal(gateway, "alice", ALICE) is None


def test_the_longest_a_session_may_take(gateway: GatewayProcess) -> None:
    with (
        closing(gateway.connect(user="short", password="secret")) as connection,
        pytest.raises(psycopg.errors.AdminShutdown, match="reached its time limit"),
    ):
        connection.execute("SELECT pg_sleep(20)")
    assert reason(gateway, "short") == "time limit reached: 1 s"


def test_idleness(gateway: GatewayProcess) -> None:
    with closing(gateway.connect(user="idle", password="secret")) as connection:
        # Who waits for an answer is not idle.
        assert connection.execute("SELECT 1 FROM pg_sleep(2.5)").fetchone() == (1,)
        told: list[tuple[str | None, str | None]] = []
        connection.add_notice_handler(lambda said: told.append((said.severity, said.sqlstate)))
        with pytest.raises(psycopg.OperationalError, match="closed"):
            list(connection.notifies(timeout=10))  # what comes unasked is a notice to libpq
        assert told == [("FATAL", "57P05")]
    assert reason(gateway, "idle") == "idle too long: 1 s"


def reason(gateway: GatewayProcess, user: str) -> str:
    """Why the newest session of *user* ended."""
    until(lambda: not gateway.live(), "the session to be over")
    return str(gateway.call("sessions", user=user)["sessions"][0]["reason"])


# -- what the target is told -----------------------------------------------------------------


def test_read_only(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TEMP TABLE mine AS SELECT 1; CREATE TABLE theirs (n int)")
    with gateway.connect(**BOB) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


def test_statement_timeout(gateway: GatewayProcess) -> None:
    with gateway.connect(user="hurried", password="secret") as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("200ms",)
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            connection.execute("SELECT pg_sleep(20)")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_clients_cannot_lift_the_limits_at_startup(gateway: GatewayProcess) -> None:
    lifting = "-c statement_timeout=0 -c default_transaction_read_only=off"
    with gateway.connect(user="hurried", password="secret", options=lifting) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("200ms",)
    with gateway.connect(options=lifting) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_application_name(gateway: GatewayProcess, postgres: PostgresServer) -> None:
    with gateway.connect(application_name="monthly report") as connection:
        session = gateway.session_of(connection)
        (shown,) = postgres.sql(
            "SELECT application_name FROM pg_stat_activity"
            f" WHERE pid = {connection.info.backend_pid}"
        )
        assert shown == (f"monthly report [alice {session[:8]}]",)
        assert tagged(connection) == session[:8]


def test_application_name_left_alone(gateway: GatewayProcess) -> None:
    who = {"user": "untagged", "password": "secret", "dbname": "untagged"}
    with gateway.connect(**who, application_name="as it is") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("as it is",)
