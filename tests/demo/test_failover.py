"""What people try with a gateway that promises failover: kill the servers behind it."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import psycopg
import pytest

from tests.demo.demos import Demo, query, shell
from tests.real.servers import until
from tests.support import over


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One in a temporary directory, as most people have it."""
    demo = Demo(tmp_path_factory.mktemp("demo") / "out").serving()
    yield demo
    assert demo.stop() == 0
    assert demo.text.splitlines()[-1] == "stopping ..."
    assert not demo.path.exists()
    assert not [process for process in psutil.process_iter() if _is_of(process, demo)]


def _is_of(process: psutil.Process, demo: Demo) -> bool:
    try:
        return process.cwd().startswith(str(demo.path))
    except psutil.Error:
        return False


def connected(line: str) -> psycopg.Connection[Any]:
    """As the printed psql *line* would."""
    password, _, conninfo = shlex.split(line)
    return psycopg.connect(conninfo, password=password.removeprefix("PGPASSWORD="), autocommit=True)


def on_a_standby(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    assert row is not None
    return bool(row[0])


def targets(demo: Demo) -> dict[str, dict[str, Any]]:
    listed = json.loads(shell(f"{demo.line(' targets')} --format json").stdout)
    return {row["kind"]: row for row in listed if row["resource"] == "orders"}


def test_the_targets_are_known_before_anybody_has_logged_in(demo: Demo) -> None:
    until(lambda: targets(demo).keys() == {"primary", "standby"}, "their kinds")
    until(lambda: targets(demo)["standby"]["lag_seconds"] is not None, "its lag")
    assert {row["state"] for row in targets(demo).values()} == {"up"}


def test_the_servers_can_be_told_apart(demo: Demo) -> None:
    for name in ("primary", "standby"):
        [server] = [each for each in demo.servers if f"cluster_name={name}" in each.cmdline()]
        below = shell(f"ps -o args= --ppid {server.pid}").stdout.splitlines()
        assert {line.partition(": ")[2].partition(":")[0] for line in below} == {name}


def test_a_killed_standby_is_started_again_and_its_session_goes_on(demo: Demo) -> None:
    with connected(demo.line("user=alice")) as alice:
        assert on_a_standby(alice)
        assert shell(demo.line("kill -9")).returncode == 0
        demo.said("the standby ended with code -9: starting it again\n")
        assert not on_a_standby(alice)
    until(lambda: targets(demo)["standby"]["state"] == "up", "the standby")
    assert query(demo.line("user=alice"), "SELECT pg_is_in_recovery()") == "t"
    told = shell(demo.line(" audit ").partition("#")[0]).stdout
    assert "session.moved" in told


def test_a_killed_primary_is_started_again_whatever_ran_there(demo: Demo) -> None:
    """A backend that is busy does not see the end of its server by itself."""
    endless = "DO 'BEGIN LOOP END LOOP; END'"
    line = demo.line("user=bob")
    with closing(connected(line)) as bob, connected(line) as other:
        bob.pgconn.send_query(endless.encode())
        row = until(
            lambda: other.execute(
                "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = %s", [endless]
            ).fetchone(),
            "the loop",
        )
        backend = row[0]
        os.kill(int((demo.path / "primary" / "postmaster.pid").read_text().split()[0]), 9)
        demo.said("the primary ended with code -9: starting it again\n")
        assert not on_a_standby(other)  # it waits for the primary, which comes back
    assert over(backend)
    assert query(line, "UPDATE orders SET amount = 1 WHERE id = 1") == "UPDATE 1"


def test_the_drain_line_works(demo: Demo) -> None:
    line = demo.line(" drain ").partition("#")[0]
    with connected(demo.line("user=alice")) as alice:
        until(lambda: on_a_standby(alice), "the standby")
        assert shell(line).returncode == 0
        until(lambda: not on_a_standby(alice), "the move")
    assert shell(line.replace(" drain ", " undrain ")).returncode == 0


def test_a_killed_ssh_server_is_started_again(demo: Demo) -> None:
    [server] = [each for each in demo.servers if "gateway.demo.shell" in each.cmdline()]
    home = shell(f"{demo.line('ssh_config web')} pwd").stdout
    assert home == f"{demo.path}/web\n"  # no name in /proc, where the directory lets it through
    server.send_signal(signal.SIGKILL)
    demo.said("the SSH server ended with code -9: starting it again\n")
    until(lambda: shell(f"{demo.line('ssh_config web')} pwd").stdout == home, "a shell")
