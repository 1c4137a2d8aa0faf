"""Nothing runs unrecorded: a killed gateway, a full disk, a directory that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.pq import DiagnosticField

from tests.real.conftest import Start
from tests.real.programs import BOB, environment
from tests.real.raw import refusal
from tests.real.servers import GatewayProcess, PostgresServer, tagged, until

IO_ERROR = psycopg.errors.lookup("58030")

# -- a gateway that is killed ----------------------------------------------------------------

SCRIPT = """\
\\set number random(1, 1000000000000000)
BEGIN;
INSERT INTO marks VALUES (:number);
COMMIT;
"""


@pytest.fixture
def marks(postgres: PostgresServer) -> Iterator[str]:
    """A table of which each row tells of one committed transaction."""
    postgres.sql("CREATE TABLE marks (number bigint); ALTER TABLE marks OWNER TO app_rw", "orders")
    yield "marks"
    postgres.sql("DROP TABLE marks", "orders")


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_what_was_committed_is_recorded_when_the_gateway_is_killed(
    start: Start, postgres: PostgresServer, marks: str, tmp_path: Path, durability: str
) -> None:
    gateway = start(f"recording: {{durability: {durability}}}\n")
    with load(gateway, tmp_path, "simple"), load(gateway, tmp_path, "prepared"):
        until(lambda: committed(postgres, marks, 300), "some transactions")
        until(lambda: len(gateway.live()) == 4, "all four sessions")
        gateway.call("sessions")  # the index is written behind, but not behind who asks
        gateway.kill9()
    until(lambda: not backends(postgres), "the target to notice")
    written = committed(postgres, marks)

    done = gateway.cli("verify", "--all", "--format", "json")
    verdicts = {row["id"]: row["status"] for row in json.loads(done.stdout)}
    assert (done.returncode, set(verdicts.values())) == (0, {"ok", "truncated"})
    sessions = [name for name, status in verdicts.items() if status == "truncated"]
    sessions = [name for name in sessions if "-" not in name]  # what has one is an audit log
    assert len(sessions) == 4
    recorded = {number for session in sessions for number in commits(gateway.replay(session))}
    assert written <= recorded
    assert len(recorded - written) <= len(sessions)  # each may have been on its way with one

    gateway.start()
    assert {row["id"] for row in gateway.sessions() if row["status"] == "lost"} == set(sessions)
    with gateway.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    gateway.stop()


@contextmanager
def load(gateway: GatewayProcess, directory: Path, mode: str) -> Iterator[None]:
    """pgbench, writing through two connections until it is cut off."""
    script = directory / f"{mode}.sql"
    script.write_text(SCRIPT)
    target = gateway.dsn(password=None, user=BOB["user"])
    bench = subprocess.Popen(
        ["pgbench", "-n", "-c", "2", "-T", "60", "-M", mode, "-f", script, target],
        env=environment(BOB["password"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            bench.wait(10)
        bench.kill()
        bench.wait()


def committed(postgres: PostgresServer, marks: str, enough: int = 0) -> set[int]:
    """The marks, empty while there are not *enough*."""
    found = {number for (number,) in postgres.sql(f"SELECT number FROM {marks}", "orders")}
    return found if len(found) >= enough else set()


def backends(postgres: PostgresServer) -> list[Any]:
    return postgres.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'app_rw'")


def commits(events: list[dict[str, Any]]) -> Iterator[int]:
    """The marks of all transactions of which a transcript has both INSERT and COMMIT."""
    marked = 0
    for event in events:
        sql = event.get("sql", "")
        if sql.startswith("INSERT"):
            (number,) = event["parameters"] or [sql.partition("(")[2].partition(")")[0]]
            marked = int(number)
        elif sql.startswith("COMMIT"):
            yield marked


# -- a disk that is full ---------------------------------------------------------------------


LONG = "/*" + 5000 * "-" + "*/"  # more than what is left of a page that a file has begun
UNRECORDED = ("58030", "the session cannot be recorded")


@contextmanager
def no_writes(gateway: GatewayProcess) -> Iterator[None]:
    """No file of the gateway can grow, as if each disk had become full at once."""
    process = psutil.Process(gateway.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, (most, most))


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to be filled."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_when_nothing_can_be_written_sessions_end_and_new_ones_are_refused(
    start: Start, postgres: PostgresServer, marks: str, durability: str
) -> None:
    gateway = start(f"recording: {{durability: {durability}}}\n")
    with closing(gateway.connect(**BOB)) as connection, closing(gateway.connect()) as sleeper:
        sleeper.pgconn.send_query(b"SELECT pg_sleep(60)")
        pid = sleeper.info.backend_pid
        until(lambda: postgres.runs(pid), "the query to run")
        with no_writes(gateway):
            with pytest.raises(IO_ERROR, match="the session cannot be recorded"):
                connection.execute(f"INSERT INTO {marks} VALUES (1)")
            assert heard(gateway) == UNRECORDED
            # What ran already was recorded; but what comes of it can no longer be.
            began = time.monotonic()
            ended = sleeper.pgconn.get_result()
            assert time.monotonic() - began < 5
            assert ended is not None
            assert ended.error_field(DiagnosticField.SQLSTATE) == b"58030"
            until(lambda: not postgres.runs(pid), "its query to be cancelled", 2)
    assert not committed(postgres, marks)
    goes_on(gateway, postgres, marks)
    gateway.stop()


def test_a_full_disk(start: Start, postgres: PostgresServer, marks: str, short_tmp: Path) -> None:
    with small_disk(short_tmp / "disk") as disk:
        gateway = start(state=disk / "state")
        with gateway.connect(**BOB) as connection, filled(disk):
            with pytest.raises(IO_ERROR, match="the session cannot be recorded"):
                connection.execute(f"INSERT INTO {marks} VALUES (1) {LONG}")
            assert heard(gateway) == UNRECORDED
            assert gateway.get("readyz") == (503, "transcripts: disk full\n")
        assert not committed(postgres, marks)
        goes_on(gateway, postgres, marks)
        gateway.stop()


def heard(gateway: GatewayProcess) -> tuple[str, str] | None:
    """SQLSTATE and words with which a log-in is refused, None if it is not."""
    said = refusal(gateway, "alice", "alice's password")
    return said and (said.sqlstate, said.words)


def goes_on(gateway: GatewayProcess, postgres: PostgresServer, marks: str) -> None:
    """All is well again, without a restart, and no transcript looks altered."""
    with gateway.connect(**BOB) as connection:
        session = tagged(connection)
        connection.execute(f"INSERT INTO {marks} VALUES (2)")
    assert committed(postgres, marks) == {2}
    assert gateway.get("readyz")[0] == 200
    assert gateway.cli("verify", "--all").returncode == 0
    assert f"INSERT INTO {marks} VALUES (2)" in str(gateway.replay(session))
    reasons = {row["reason"].partition(":")[0] for row in gateway.sessions()}
    assert reasons == {"recording failed", "client closed"}


def test_where_recording_is_not_required_sessions_go_on(
    start: Start, postgres: PostgresServer, marks: str
) -> None:
    gateway = start("recording: {required: false}\n")
    with gateway.connect(**BOB) as connection:
        with no_writes(gateway):
            for number in (1, 2):
                connection.execute(f"INSERT INTO {marks} VALUES ({number})")
            assert gateway.get("readyz")[0] == 200
        connection.execute(f"INSERT INTO {marks} VALUES (3)")
    assert committed(postgres, marks) == {1, 2, 3}
    gateway.stop()


# -- a directory that cannot be written to ---------------------------------------------------


@contextmanager
def without_directory(gateway: GatewayProcess) -> Iterator[None]:
    """A file stands where the transcripts' directory was: not even root gets past that."""
    place, aside = gateway.state / "transcripts", gateway.state / "aside"
    place.rename(aside)
    place.touch()
    try:
        yield
    finally:
        place.unlink()
        aside.rename(place)


def test_an_unwritable_directory_refuses_new_sessions(gateway: GatewayProcess) -> None:
    assert heard(gateway) is None
    with without_directory(gateway):
        assert heard(gateway) == UNRECORDED
        status, why = gateway.get("readyz")
        assert (status, why.partition(":")[0]) == (503, "transcripts")
    assert heard(gateway) is None
    assert gateway.get("readyz")[0] == 200


def test_an_unwritable_directory_where_recording_is_not_required(start: Start) -> None:
    gateway = start("recording: {required: false}\n")
    gateway.connect().close()
    with without_directory(gateway), gateway.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert gateway.get("readyz")[0] == 200
        session = gateway.session_of(connection)
        with gateway.connect() as other:
            sessions = [session, gateway.session_of(other)]
    done = gateway.cli("audit", "--format", "json")
    told = [row for row in json.loads(done.stdout) if row["event"] == "session.unrecorded"]
    assert [row["session"] for row in told] == sessions
    gateway.stop()
