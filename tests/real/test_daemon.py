"""The daemon as its administrators know it: started, reloaded, drained, asked how it is."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import trustme

from tests.real.conftest import Start, more
from tests.real.programs import BOB
from tests.real.raw import refusal
from tests.real.servers import GatewayProcess, tagged, until

ALICE = "alice's password"
EXIT_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # twistd; twist raises it again


@pytest.mark.parametrize("daemon", ["twist", "twistd"])
def test_it_serves_and_ends_in_order(start: Start, daemon: str) -> None:
    gateway = start(daemon=daemon)
    with gateway.connect() as connection:
        assert connection.execute("SELECT session_user").fetchone() == ("app_ro",)
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() in EXIT_BY_SIGTERM
    assert not (gateway.state / "control.sock").exists()
    gateway.stop()


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6, 0.9])
def test_a_signal_while_it_starts(
    short_tmp: Path, objects: str, delay: float, tmp_path: Path
) -> None:
    gateway = GatewayProcess(short_tmp / tmp_path.name, objects)
    gateway.spawn()
    try:
        gateway.wait(delay)
    except subprocess.TimeoutExpired:
        gateway.signal(signal.SIGTERM)
    assert gateway.wait() in (*EXIT_BY_SIGTERM, 1)
    gateway.stop()


def test_what_it_keeps_is_for_nobody_else(gateway: GatewayProcess) -> None:
    with gateway.connect():
        pass
    found = [path for path in gateway.state.rglob("*") if not path.is_symlink()]
    seen_by_others = {path.name for path in (gateway.state, *found) if path.stat().st_mode & 0o077}
    assert seen_by_others <= {"ca.crt", "transcripts.pub"}  # which are public


# -- draining --------------------------------------------------------------------------------


def test_draining_lets_sessions_finish(start: Start) -> None:
    gateway = start("drain_seconds: 60\n")
    with gateway.connect(**BOB) as connection:
        gateway.signal(signal.SIGTERM)
        until(lambda: gateway.get("readyz") == (503, "draining\n"), "the drain to begin")
        assert gateway.get("livez") == (200, "alive\n")
        assert connection.execute("SELECT 'still here'").fetchone() == ("still here",)
        assert new_session(gateway) == ("57P03", "the gateway is shutting down")
    gateway.wait()  # at once, and not after a minute
    gateway.stop()


def test_draining_ends_what_does_not_finish(start: Start) -> None:
    gateway = start("drain_seconds: 0.5\n")
    with closing(gateway.connect()) as connection:
        gateway.signal(signal.SIGTERM)
        with pytest.raises(psycopg.errors.AdminShutdown, match="the gateway is shutting down"):
            connection.execute("SELECT pg_sleep(20)")
    gateway.wait()
    gateway.stop()
    assert gateway.sessions()[0]["reason"] == "gateway shutting down"
    assert gateway.cli("verify", "--all").returncode == 0


def new_session(gateway: GatewayProcess) -> tuple[str, str] | None:
    """What a new session is refused with: SQLSTATE and words."""
    said = refusal(gateway, "alice", ALICE)
    return said and (said.sqlstate, said.words)


# -- reloading -------------------------------------------------------------------------------


class Certified:
    """A gateway with a certificate from files, which tests replace."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._chain, self._key = directory / "tls.crt", directory / "tls.key"
        self._directory = directory
        self.ca = self.renew("first")
        self.gateway = start(
            f"tls: {{certificate: {{file: {self._chain}}}, key: {{file: {self._key}}}}}\n"
            "drain_seconds: 1\n"
        )
        self._text = self.gateway.config.read_text()
        self._objects = self.gateway.objects.read_text()

    def renew(self, name: str) -> Path:
        """Write another certificate, of another CA; the CA's file."""
        ca = trustme.CA()
        leaf = ca.issue_cert("localhost")
        leaf.cert_chain_pems[0].write_to_path(str(self._chain))
        leaf.private_key_pem.write_to_path(str(self._key))
        path = self._directory / f"{name}.ca"
        ca.cert_pem.write_to_path(str(path))
        return path

    def configure(self, before: str, after: str) -> None:
        assert before in self._text
        self.gateway.config.write_text(self._text.replace(before, after))

    def break_certificate(self) -> None:
        self._chain.write_text("no certificate")

    def break_objects(self) -> None:
        self.gateway.objects.write_text(self._objects.replace("role: operator", "role: absent"))

    def hang_up(self, said: str) -> None:
        """SIGHUP; waits for what the log says of it."""
        before = self.gateway.log.count(said)
        self.gateway.signal(signal.SIGHUP)
        until(lambda: self.gateway.log.count(said) > before, f"the log to say {said}")

    def shows(self, ca: Path) -> bool:
        """Whether new connections are shown a certificate of *ca*."""
        context = ssl.create_default_context(cafile=ca)
        with socket.create_connection(("localhost", self.gateway.port)) as plain:
            plain.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
            assert plain.recv(1) == b"S"
            try:
                context.wrap_socket(plain, server_hostname="localhost").close()
            except ssl.SSLCertVerificationError:
                return False
        return True


@pytest.fixture
def certified(start: Start, tmp_path: Path) -> Certified:
    return Certified(start, tmp_path)


def test_hanging_up_reloads_all_three_and_drops_no_session(certified: Certified) -> None:
    gateway = certified.gateway
    with gateway.connect(sslrootcert=certified.ca) as connection:
        second = certified.renew("second")
        limits = "limits: {sessions_per_user: 1}"
        newcomer = '  - {name: newcomer, groups: [analysts], password: {plain: "secret"}}\n'
        gateway.objects.write_text(more(gateway.objects.read_text(), users=newcomer))
        certified.configure("gw.test\n", f"gw.test\npostgresql: {{tls: optional}}\n{limits}\n")
        certified.hang_up("Reloaded")
        assert (certified.shows(certified.ca), certified.shows(second)) == (False, True)
        with gateway.connect(user="newcomer", password="secret", sslmode="disable") as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            gateway.connect(sslrootcert=second)
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("broken", ["configuration", "certificate", "objects"])
def test_a_broken_file_leaves_all_as_it_was(certified: Certified, broken: str) -> None:
    gateway = certified.gateway
    with gateway.connect(sslrootcert=certified.ca) as connection:
        second = certified.renew("second")
        certified.configure("domain: gw.test\n", "domain: gw.test\npostgresql: {tls: optional}\n")
        if broken == "configuration":
            certified.configure("domain: gw.test\n", "domain: gw.test\nnonsense: 1\n")
        elif broken == "certificate":
            certified.break_certificate()
        else:
            certified.break_objects()
        certified.hang_up("Not reloaded")
        assert certified.shows(certified.ca)
        assert not certified.shows(second)
        with pytest.raises(psycopg.OperationalError, match="connections must use TLS"):
            gateway.connect(sslmode="disable")
        with gateway.connect(**BOB, sslrootcert=certified.ca) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_hanging_up_ends_what_the_objects_no_longer_allow(certified: Certified) -> None:
    gateway = certified.gateway
    with closing(gateway.connect(sslrootcert=certified.ca)) as connection:
        text = gateway.objects.read_text()
        gateway.objects.write_text(
            text.replace("subjects: [group:analysts]", "subjects: [user:bob]")
        )
        gateway.signal(signal.SIGHUP)
        with pytest.raises(psycopg.errors.AdminShutdown, match="revoked"):
            connection.execute("SELECT pg_sleep(20)")


# -- diagnostics -----------------------------------------------------------------------------


def test_diagnostics(gateway: GatewayProcess) -> None:
    refusal(gateway, "alice", "wrong")
    with gateway.connect() as connection:
        session = tagged(connection)
        status, metrics = gateway.get("metrics")
    assert (status, gateway.get("livez"), gateway.get("readyz")) == (
        200,
        (200, "alive\n"),
        (200, "ready\n"),
    )
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[:1] != "#")
    assert float(values["gateway_sessions_live"]) == 1
    assert float(values['gateway_logins_total{outcome="admitted"}']) >= 1
    assert float(values['gateway_logins_total{outcome="BadProof"}']) == 1
    assert "gateway_pump_lag_seconds" in values
    for secret in ("alice", "app_ro", session):
        assert secret not in metrics


# -- exit codes ------------------------------------------------------------------------------

MISTAKES = """\
state_dir: {directory}/state
listeners:
  - address: 127.0.0.1
    protocols: [postgresql]
  - address: 127.0.0.1:{port}
    protocols: [telnet]
domain: gw.test
domain: gw.other
limits: {{login_seconds: soon}}
retention: 5
"""
FOUND = [
    ("3:14", "listeners.0.address"),
    ("6:17", "listeners.1.protocols.0"),
    ("8:1", "domain"),
    ("9:25", "limits.login_seconds"),
    ("10:1", "retention"),
]


@pytest.fixture
def mistaken(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(MISTAKES.format(directory=tmp_path, port=5432))
    return path


def run(*command: str | Path, **over: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        command,
        env=environment | over,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


COMMAND = (sys.executable, "-m", "gateway")
TWIST = Path(sys.executable).with_name("twist")


def test_five_mistakes_are_told_at_once(mistaken: Path) -> None:
    code, _, told = run(*COMMAND, "check", "--config", mistaken)
    lines = told.splitlines()
    assert (code, len(lines)) == (78, 5)
    for line, (place, path) in zip(lines, FOUND, strict=True):
        assert line.startswith(f"{mistaken}:{place}: {path}: ")
    for form in (
        (*COMMAND, "--config", mistaken, "check"),
        (TWIST, "gateway", "--config", mistaken),
    ):
        assert run(*form) == (78, "", told)
    assert run(*COMMAND, "check", GATEWAY_CONFIG=str(mistaken)) == (78, "", told)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    for form in ((*COMMAND, "check"), (TWIST, "gateway")):
        code, _, told = run(*form, "--config", missing)
        assert code == 78
        assert told.startswith(f"{missing}:")
        assert len(told.splitlines()) == 1


def test_check_of_a_good_one(gateway: GatewayProcess) -> None:
    assert gateway.cli("check").returncode == 0


def test_no_daemon(short_tmp: Path, objects: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(short_tmp / tmp_path.name, objects)
    for command in (("kill", "abc"), ("sessions", "--live"), ("explain", "alice", "orders")):
        done = gateway.cli(*command)
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr.startswith("gateway: no gateway answers on ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", [("fetch",), ("kill",), ("get", "planets"), ("sessions", "--since", "soon")]
)
def test_wrong_usage(gateway: GatewayProcess, command: tuple[str, ...]) -> None:
    done = gateway.cli(*command)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--help tells more" in done.stderr


def test_denied(gateway: GatewayProcess) -> None:
    assert gateway.cli("explain", "alice", "orders").returncode == 0
    done = gateway.cli("explain", "alice", "hidden")
    assert done.returncode == 77
    assert "DENIED" in done.stdout


def test_failed(gateway: GatewayProcess) -> None:
    for command in (("kill", "abcdef"), ("replay", "abcdef"), ("get", "user", "nobody-at-all")):
        done = gateway.cli(*command)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


# -- what is in the way of a start -----------------------------------------------------------


def test_a_port_that_is_taken(gateway: GatewayProcess, short_tmp: Path, tmp_path: Path) -> None:
    other = GatewayProcess(short_tmp / tmp_path.name, gateway.objects.read_text())
    other.config.write_text(other.config.read_text().replace(str(other.port), str(gateway.port)))
    other.spawn()
    assert other.wait() == 1
    assert "cannot listen" in other.log
    other.stop()
    assert gateway.ready()


def test_a_second_daemon_in_the_same_directory(
    gateway: GatewayProcess, short_tmp: Path, tmp_path: Path
) -> None:
    objects = gateway.objects.read_text()
    other = GatewayProcess(short_tmp / tmp_path.name, objects, state=gateway.state)
    other.spawn()
    assert other.wait() == 1
    assert "another gateway is running" in other.log
    other.stop()
    assert new_session(gateway) is None


def test_objects_with_a_mistake(short_tmp: Path, objects: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(
        short_tmp / tmp_path.name, objects.replace("role: operator", "role: absent")
    )
    gateway.spawn()
    assert gateway.wait() == 78
    lines = gateway.objects.read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if "role: absent" in text]
    assert f"\n{gateway.objects}:{line}:" in gateway.log
    gateway.stop()


@pytest.mark.parametrize("key", ["vault.key", "transcripts.key"])
def test_a_key_that_was_lost(start: Start, key: str) -> None:
    """A new one would open nothing, and sign as if it were the first."""
    gateway = start()
    gateway.signal(signal.SIGTERM)
    gateway.wait()
    keys = gateway.state / "keys"
    before = {path.name: path.read_bytes() for path in keys.iterdir() if path.name != key}
    (keys / key).unlink()
    gateway.spawn()
    assert gateway.wait() in (1, 78)
    assert f"{key}:" in gateway.log
    assert f"is missing, and {gateway.state / 'gateway.sqlite'} rests on it" in gateway.log
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    gateway.stop()
