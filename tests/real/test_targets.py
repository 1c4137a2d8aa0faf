"""A primary and two streaming standbys: killed, frozen, promoted, full, drained, swapped."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.audit import read
from gateway.routing import RAMP
from tests.real.conftest import Start
from tests.real.faults import crash, freeze, thaw
from tests.real.programs import environment
from tests.real.servers import PASSWORDS, PATIENCE, GatewayProcess, PostgresServer, until

INTERVAL, TIMEOUT = 0.5, 1.0  # seconds; as the gateways here are configured
CONFIGURATION = (
    f"health: {{interval_seconds: {INTERVAL}, timeout_seconds: {TIMEOUT}}}\ndrain_seconds: 1\n"
    "limits: {sessions_per_user: 1000}\n"
)
USERS = ("any", "primary", "standby", "prefer", "fresh")


class Cluster:
    """One primary and its standbys, and a gateway in front of them."""

    def __init__(self, start: Start, directory: Path, standbys: int = 2) -> None:
        self.servers = [PostgresServer(directory / "a", wal_keep_size="64MB").create()]
        self.servers[0].sql("CREATE TABLE t (id int PRIMARY KEY)", "orders")
        self.servers[0].sql("ALTER TABLE t OWNER TO app_rw", "orders")
        for name in "bcd"[:standbys]:
            self.servers.append(self.servers[0].standby(directory / name))
        self.gateway: GatewayProcess = start(CONFIGURATION, objects=self.objects())
        self.wait_until_seen()

    def objects(self, *, without: tuple[int, ...] = (), extra: str = "") -> str:
        ca, first = self.servers[0].ca_file, self.servers[0]
        targets = ", ".join(
            f'{{address: "localhost:{server.port}"{extra}}}'
            for number, server in enumerate(self.servers)
            if number not in without
        )
        accounts = ", ".join(
            f'{{name: {name}, password: {{value: "{password}"}}}}'
            for name, password in PASSWORDS.items()
        )
        kinds = {"prefer": "prefer-standby", "fresh": "standby"}
        roles = "".join(
            f"  - {{name: {user}, allow: [{{resources: {{}}, accounts: [app_rw],"
            f" targets: {kinds.get(user, user)}"
            f"{', max_lag_seconds: 1' if user == 'fresh' else ''}}}]}}\n"
            for user in USERS
        )
        assert first.ca_file.exists()
        return (
            "resources:\n  - name: orders\n    protocol: postgresql\n    database: orders\n"
            f"    targets: [{targets}]\n    accounts: [{accounts}]\n"
            f"    tls: {{mode: verify-full, ca: {{file: {ca}}}}}\n"
            "    health: {account: app_ro, database: postgres}\n"
            + "users:\n"
            + "".join(f"  - {{name: {user}, password: {{plain: secret}}}}\n" for user in USERS)
            + f"roles:\n{roles}bindings:\n"
            + "".join(f"  - {{name: {u}, role: {u}, subjects: [user:{u}]}}\n" for u in USERS)
        )

    def rows(self) -> dict[int, dict[str, Any]]:
        """What the gateway knows of each server, by its place."""
        told = {row["address"]: row for row in self.gateway.call("targets")["targets"]}
        addresses = {f"localhost:{s.port}": n for n, s in enumerate(self.servers)}
        return {addresses[address]: row for address, row in told.items()}

    def states(self) -> list[str]:
        return [row["state"] for _, row in sorted(self.rows().items())]

    def wait_until_seen(self, patience: float = PATIENCE) -> None:
        kinds = ["primary", *["standby"] * (len(self.servers) - 1)]
        until(
            lambda: (
                [row["kind"] for _, row in sorted(self.rows().items())] == kinds
                and set(self.states()) == {"up"}
            ),
            f"the targets to be seen as they are, not {self.rows()}",
            patience,
        )

    def connect(self, user: str, **over: Any) -> psycopg.Connection[Any]:
        return self.gateway.connect(user=user, password="secret", **over)

    def where(self, user: str) -> int:
        """On which server a session of *user* ends up."""
        with self.connect(user) as connection:
            (row,) = connection.execute("SHOW port").fetchall()
            return [server.port for server in self.servers].index(int(row[0]))

    def together(self, user: str, count: int) -> set[int]:
        """On which servers so many sessions of *user* are that are open at once."""
        with ExitStack() as stack:
            rows = [
                stack.enter_context(self.connect(user)).execute("SHOW port").fetchall()
                for _ in range(count)
            ]
        ports = [server.port for server in self.servers]
        return {ports.index(int(row[0][0])) for row in rows}

    def close(self) -> None:
        for server in self.servers:
            thaw(server)
            server.stop()


@pytest.fixture(scope="module")
def directory(short_tmp: Path) -> Path:
    found = short_tmp / "targets"
    found.mkdir()
    found.chmod(0o755)
    return found


@pytest.fixture(scope="module")
def cluster(start: Start, directory: Path) -> Iterator[Cluster]:
    made = Cluster(start, directory / "one")
    yield made
    made.close()


@contextmanager
def pgbench(cluster: Cluster, user: str, clients: int, seconds: int) -> Iterator[Any]:
    """pgbench that connects anew for each transaction; it gives a process with its output."""
    script = cluster.gateway.directory / "select.sql"
    script.write_text("SELECT count(*) FROM t;\n")
    arguments = ["-n", "-C", "-c", str(clients), "-j", "2", "-T", str(seconds), "-f", str(script)]
    process = subprocess.Popen(
        ["pgbench", *arguments, cluster.gateway.dsn(password=None, user=user)],
        env=environment("secret"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def spread(cluster: Cluster, since: float) -> Counter[int]:
    """How many sessions began on which server after a moment."""
    ports = {f"localhost:{server.port}": n for n, server in enumerate(cluster.servers)}
    rows = cluster.gateway.call("sessions", since=since, limit=100_000)["sessions"]
    return Counter(ports[row["target"]] for row in rows)


def test_what_is_seen(cluster: Cluster) -> None:
    cluster.servers[0].sql("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", "orders")
    rows = cluster.rows()
    assert [rows[n]["kind"] for n in range(3)] == ["primary", "standby", "standby"]
    assert len({rows[n]["timeline"] for n in range(3)}) == 1
    assert rows[0]["lag_seconds"] is rows[0]["lag_bytes"] is None
    until(lambda: cluster.rows()[1]["lag_bytes"] == 0, "the standby to have replayed all")
    assert cluster.rows()[1]["lag_seconds"] < 5
    assert rows[1]["why"] == "answers"
    status, page = cluster.gateway.get("metrics")
    assert status == 200
    up = f'gateway_target_up{{resource="orders",target="localhost:{cluster.servers[1].port}"}} 1.0'
    assert up in page
    done = cluster.gateway.cli("targets", "--format", "json")
    assert {row["state"] for row in json.loads(done.stdout)} == {"up"}
    assert "standby" in cluster.gateway.cli("targets").stdout


def test_who_goes_where(cluster: Cluster) -> None:
    assert {cluster.where("primary") for _ in range(3)} == {0}
    assert {cluster.where("standby") for _ in range(4)} <= {1, 2}
    assert {cluster.where("prefer") for _ in range(4)} <= {1, 2}
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(cluster.connect("any"))
        assert sorted(row["sessions"] for row in cluster.rows().values()) == [3, 3, 3]


def test_a_standby_is_killed_under_load(cluster: Cluster) -> None:
    """At most one failed transaction for each connection, then none; and it comes back."""
    victim, clients = cluster.servers[2], 6
    with pgbench(cluster, "any", clients, 120) as bench:
        began = time.time()
        until(lambda: sum(spread(cluster, began).values()) > 150, "a few sessions")
        assert fair(spread(cluster, began), {0, 1, 2})
        crash(victim)
        killed = time.time()
        until(lambda: cluster.rows()[2]["state"] == "down", "the dead one to be found", 3)
        assert time.time() - killed < 2 * INTERVAL + TIMEOUT
        down = time.time()
        until(lambda: sum(spread(cluster, down).values()) > 150, "a few sessions")
        assert fair(spread(cluster, down + 0.1), {0, 1}), "nothing but probes where it is down"
        victim.start()
        until(lambda: cluster.rows()[2]["state"] == "up", "it to come back", 10)
        back = time.time()
        ramped = back + RAMP
        until(lambda: sum(spread(cluster, ramped).values()) > 150, "its full share to come")
        bench.send_signal(signal.SIGTERM)
        said, _ = bench.communicate(timeout=PATIENCE)
    failures = [line for line in said.splitlines() if "error" in line or "aborted" in line]
    assert len(failures) <= clients, said
    assert fair(spread(cluster, ramped), {0, 1, 2})


def fair(found: Counter[int], servers: set[int]) -> bool:
    """Within half of its share and one and a half of it, each; and no others."""
    mean = sum(found.values()) / len(servers)
    return found.keys() == servers and all(mean / 2 < found[n] < mean * 1.5 for n in servers)


def test_a_frozen_standby_is_passed_over_in_time(cluster: Cluster) -> None:
    freeze(cluster.servers[1])
    try:
        began = time.monotonic()
        assert {cluster.where("standby") for _ in range(3)} == {2}
        assert time.monotonic() - began < TIMEOUT + 2
        until(lambda: cluster.rows()[1]["state"] == "down", "the frozen one to be found", 6)
        began = time.monotonic()
        assert {cluster.where("standby") for _ in range(3)} == {2}
        assert time.monotonic() - began < TIMEOUT, "and it costs nobody anything"
    finally:
        thaw(cluster.servers[1])
    cluster.wait_until_seen()


def test_all_down_is_told_at_once(cluster: Cluster) -> None:
    for server in cluster.servers[1:]:
        freeze(server)
    try:
        until(lambda: cluster.states()[1:] == ["down", "down"], "both to be found", 10)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="no target can take this session now"):
            cluster.connect("standby")
        assert time.monotonic() - began < TIMEOUT / 2 + 1
        assert cluster.where("prefer") == 0
    finally:
        for server in cluster.servers[1:]:
            thaw(server)
    cluster.wait_until_seen()


def test_one_that_is_full_is_passed_over_and_not_down(cluster: Cluster) -> None:
    server = cluster.servers[2]
    with ExitStack() as stack:
        dsn = f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"
        server.sql("ALTER SYSTEM SET max_connections = 300")
        for _ in range(400):
            try:
                stack.enter_context(psycopg.connect(dsn, autocommit=True))
            except psycopg.OperationalError:
                break
        until(lambda: cluster.rows()[2]["state"] == "degraded", "it to be found full", 5)
        assert cluster.rows()[2]["why"] == "out of connections"
        assert {cluster.where("standby") for _ in range(5)} == {1}
    cluster.wait_until_seen()


def test_a_standby_that_lags_is_not_for_those_who_mind(cluster: Cluster) -> None:
    primary, slow = cluster.servers[0], cluster.servers[1]
    primary.sql("INSERT INTO t VALUES (2) ON CONFLICT DO NOTHING", "orders")
    replayed = "SELECT pg_last_xact_replay_timestamp() IS NOT NULL"
    until(lambda: slow.sql(replayed) == [(True,)], "a transaction to be replayed")
    slow.sql("SELECT pg_wal_replay_pause()")
    try:
        until(
            lambda: slow.sql("SELECT pg_get_wal_replay_pause_state()") == [("paused",)],
            "the replay to pause",
        )
        primary.sql("CREATE TABLE more AS SELECT generate_series(1, 1000)", "orders")
        until(lambda: (cluster.rows()[1]["lag_seconds"] or 0) > 1.5, "the lag to be seen", 20)
        until(lambda: (cluster.rows()[1]["lag_bytes"] or 0) > 0, "bytes to be missing")
        assert {cluster.where("fresh") for _ in range(4)} == {2}
        assert cluster.together("standby", 4) == {1, 2}
    finally:
        slow.sql("SELECT pg_wal_replay_resume()")
        primary.sql("DROP TABLE more", "orders")
    until(lambda: (cluster.rows()[1]["lag_seconds"] or 0) < 1, "it to catch up")


def test_a_wrong_password_is_told_and_not_hammered(cluster: Cluster) -> None:
    gateway, server = cluster.gateway, cluster.servers[0]
    server.sql("ALTER ROLE app_rw PASSWORD 'another one'")
    try:
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError, match="no target can take"):
                cluster.connect("primary")
        assert cluster.rows()[0]["state"] == "up", "it works, and others may have their sessions"
        told = list(read(gateway.state / "audit"))
        refused = [each for each in told if each["event"] == "target.account-refused"]
        assert len([r for r in refused if r["target"] == f"localhost:{server.port}"]) == 1
        assert (refused[0]["account"], refused[0]["resource"]) == ("app_rw", "orders")
        assert "28P01" in refused[0]["detail"]
    finally:
        server.sql(f"ALTER ROLE app_rw PASSWORD '{PASSWORDS['app_rw']}'")
    until(lambda: reached(cluster, "primary"), "the account to be tried again", 15)


def reached(cluster: Cluster, user: str) -> bool:
    try:
        cluster.connect(user).close()
    except psycopg.OperationalError:
        return False
    return True


def test_draining(cluster: Cluster) -> None:
    gateway, address = cluster.gateway, f"localhost:{cluster.servers[1].port}"
    done = gateway.cli("targets", "drain", address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"draining orders/{address}: ")
    assert cluster.rows()[1]["state"] == "draining"
    assert {cluster.where("standby") for _ in range(4)} == {2}
    gateway.apply(cluster.objects())
    gateway.call("reload")
    assert cluster.rows()[1]["state"] == "draining", "no file that is silent about it undoes it"
    assert gateway.cli("targets", "undrain", f"orders/{address}").returncode == 0
    assert cluster.rows()[1]["state"] == "up"
    assert cluster.together("standby", 6) == {1, 2}
    assert "no target 'nowhere:1'" in gateway.cli("targets", "drain", "nowhere:1").stderr
    assert "orders has 3 targets" in gateway.cli("targets", "drain", "orders").stderr


def test_draining_empties_a_target_of_idle_sessions(cluster: Cluster) -> None:
    address = f"localhost:{cluster.servers[2].port}"
    with ExitStack() as stack:
        idle = [stack.enter_context(cluster.connect("standby")) for _ in range(30)]
        for number, connection in enumerate(idle):
            connection.execute(f"SET application_name = 'idle {number}'")
        assert cluster.rows()[2]["sessions"] >= 10
        began = time.monotonic()
        assert cluster.gateway.cli("targets", "drain", address).returncode == 0
        until(lambda: cluster.rows()[2]["sessions"] == 0, "all to have gone", 10)
        assert time.monotonic() - began < 5
        for number, connection in enumerate(idle):
            shown = connection.execute("SHOW application_name").fetchone()
            assert shown == (f"idle {number}",)
            assert connection.execute("SHOW port").fetchone() == (str(cluster.servers[1].port),)
    cluster.gateway.call("drain", name=address, draining=False)


def test_swapping_targets_under_load(cluster: Cluster) -> None:
    with pgbench(cluster, "any", 4, 10) as bench:
        for without in ((2,), (), (1,), (), (1, 2), ()):
            text = cluster.objects(without=without)
            cluster.gateway.call("apply", text=text, file="objects.yaml")
            began = time.time()
            until(lambda began=began: sum(spread(cluster, began).values()) > 20, "sessions")
            found = spread(cluster, began + 0.2)
            assert not found.keys() & set(without)
        said, _ = bench.communicate(timeout=PATIENCE)
    assert bench.returncode == 0, said
    assert "aborted" not in said
    cluster.wait_until_seen()


def test_who_starts_among_temporary_tables_is_pinned(cluster: Cluster) -> None:
    with (
        cluster.connect("any", options="-c search_path=pg_temp") as pinned,
        cluster.connect("any") as free,
    ):
        rows = {row["id"]: row for row in cluster.gateway.live()}
        ids = [cluster.gateway.session_of(each) for each in (pinned, free)]
        assert [rows[each].get("pinned") for each in ids] == [
            "a search_path that makes tables temporary",
            None,
        ]


def test_the_doctor(cluster: Cluster) -> None:
    done = cluster.gateway.cli("doctor", "orders")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "all is well" in done.stdout
    told = json.loads(cluster.gateway.cli("doctor", "orders", "--format", "json").stdout)
    steps = {step["step"]: step for step in told["targets"][1]["steps"]}
    assert steps.keys() == {"name", "TCP", "TLS", "log-in", "role", "lag"}
    assert all(step["ok"] for step in steps.values())
    assert told["targets"][0]["system"] == told["targets"][1]["system"] is not None

    freeze(cluster.servers[2])
    try:
        until(lambda: cluster.states()[2] == "down", "the frozen one to be found", 6)
        done = cluster.gateway.cli("doctor", "orders")
        assert done.returncode == 1
        assert "FAILED  TLS       no answer in time" in done.stdout
        assert "something is wrong" in done.stdout
    finally:
        thaw(cluster.servers[2])
    assert "no resource 'nothing'" in cluster.gateway.cli("doctor", "nothing").stderr
    cluster.wait_until_seen()


# -- what changes the cluster for good ---------------------------------------------------------


def test_a_promotion_is_found(start: Start, directory: Path) -> None:
    cluster = Cluster(start, directory / "two", standbys=1)
    try:
        old, new = cluster.servers
        old.stop("fast")
        until(lambda: cluster.states()[0] == "down", "the old primary to be found down", 6)
        new._run("pg_ctl", "-D", str(new.data), "promote")
        until(lambda: new.sql("SELECT pg_is_in_recovery()") == [(False,)], "the promotion")
        began = time.monotonic()
        until(lambda: cluster.rows()[1]["kind"] == "primary", "the new primary to be found", 6)
        assert time.monotonic() - began < 2 * INTERVAL + 1
        assert cluster.where("primary") == 1

        old.start()  # and takes itself for the primary, as it did before
        until(lambda: cluster.states()[0] == "degraded", "the split brain to be seen", 10)
        assert "split brain: a primary on timeline 1" in cluster.rows()[0]["why"]
        assert {cluster.where("primary") for _ in range(4)} == {1}
        new.stop("fast")
        until(lambda: cluster.states()[1] == "down", "the new primary to be found down", 6)
        with pytest.raises(psycopg.OperationalError, match="no target can take this session now"):
            cluster.connect("primary")
        told = cluster.gateway.call("explain", user="primary", resource="orders")
        assert any("split brain" in target["why"] for target in told["targets"])
    finally:
        cluster.close()
