"""What ends a session that runs, within which time, and what people read then."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.real.servers import until
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, StartSsh, UnixUser
from tests.real.test_recording import no_writes, without_directory
from tests.support import over

pytest_plugins = ["tests.real.ssh_fixtures"]

AT_ONCE = 1.0  # seconds from a change to the end of what it does not allow
BINDING = "  - {name: alice-works, role: worker, subjects: [user:alice]}\n"


class Running:
    """A command that runs, as alice on web."""

    def __init__(self, process: subprocess.Popen[bytes], gateway: SshGateway) -> None:
        self.process = process
        assert process.stdout is not None
        self.pid = int(process.stdout.readline())  # on the target
        self.session = str(gateway.newest()["id"])

    def heard(self, within: float) -> str:
        """What its person reads at the end, which comes soon."""
        began = time.monotonic()
        _, err = self.process.communicate(timeout=20)
        assert time.monotonic() - began < within
        assert self.process.returncode == 255
        return err.decode().splitlines()[0].partition(":11: ")[2]


SLEEP = "echo $$; exec sleep 60"


@contextmanager
def running(
    person: Person, *options: str, command: str = SLEEP, login: str = "alice#web@127.0.0.1"
) -> Iterator[Running]:
    process = person.start(*options, login, command)
    try:
        yield Running(process, person.gateway)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


@pytest.fixture
def objects(ssh_gateway: SshGateway, ssh_objects: str) -> Iterator[str]:
    """Put back when a test has changed them."""
    yield ssh_objects
    ssh_gateway.put(ssh_objects)


@pytest.mark.parametrize("options", [[], ["-tt"]], ids=["command", "terminal"])
def test_killed(alice: Person, ssh_gateway: SshGateway, options: list[str]) -> None:
    with running(alice, *options) as one:
        done = ssh_gateway.cli("kill", one.session, "--reason", "go home")
        assert done.returncode == 0, done.stderr
        words = f"the session was ended by an administrator: go home (session {one.session})"
        assert one.heard(AT_ONCE) == words
        if options:  # without a terminal nothing tells a command that is silent
            until(lambda: over(one.pid), "the command to end too")
    assert ssh_gateway.newest()["reason"] == "killed: go home"
    assert ssh_gateway.events(one.session)[-1]["reason"] == "killed"


@pytest.mark.parametrize("form", ["straight", "jump"])
def test_a_binding_that_goes(
    alice: Person, ssh_gateway: SshGateway, objects: str, deploy: UnixUser, form: str
) -> None:
    login = "alice#web@127.0.0.1"
    if form == "jump":
        alice, login = alice.through("alice"), f"{deploy.name}@web"
    with running(alice, "-tt", login=login) as one:
        assert BINDING in objects
        ssh_gateway.put(objects.replace(BINDING, ""))
        words = f"access to this resource was revoked (session {one.session})"
        assert one.heard(AT_ONCE) == words
    assert alice.run("ssh", login, "true").returncode == 255


def test_a_user_who_is_disabled(alice: Person, ssh_gateway: SshGateway) -> None:
    with running(alice) as one:
        ssh_gateway.call("disable", name="alice")
        try:
            assert one.heard(AT_ONCE).startswith("access to this resource was revoked")
        finally:
            ssh_gateway.call("enable", name="alice")


@pytest.mark.parametrize(
    "change",
    [
        ("forward: [", "shell: false, forward: ["),
        ("agent: true", "agent: false"),
        ('"/*"', '"/run/*"'),
    ],
)
def test_a_right_that_goes(
    bob: Person, ssh_gateway: SshGateway, objects: str, change: tuple[str, str]
) -> None:
    with running(bob, login="bob#web@127.0.0.1") as one:
        assert change[0] in objects
        ssh_gateway.put(objects.replace(*change))
        assert one.heard(AT_ONCE).startswith("access to this resource was revoked")


def test_all_channels_of_a_connection_end(
    alice: Person, ssh_gateway: SshGateway, ssh_tmp: Path
) -> None:
    with alice.master("alice#web", ssh_tmp / "kill_control") as through:
        begun = [through.start("alice#web@127.0.0.1", SLEEP) for _ in range(3)]
        for process in begun:
            assert process.stdout is not None
            process.stdout.readline()
        ssh_gateway.call("kill", id=ssh_gateway.newest()["id"], reason="")
        began = time.monotonic()
        for process in begun:
            process.communicate(timeout=20)
            assert process.returncode == 255
        assert time.monotonic() - began < AT_ONCE


# -- limits of time ------------------------------------------------------------------------


@pytest.fixture
def limited(ssh_gateway: SshGateway, objects: str) -> None:
    ssh_gateway.put(
        objects.replace(
            "{env: test}}, accounts",
            "{env: test}}, max_session_seconds: 3, idle_seconds: 1, accounts",
        )
    )


def test_idle(alice: Person, ssh_gateway: SshGateway, limited: None) -> None:
    """Keep-alives are no life."""
    with running(alice, "-o", "ServerAliveInterval=1") as one:
        began = time.monotonic()
        assert one.heard(5).startswith("the session was idle for too long")
        assert time.monotonic() - began > 0.5
    assert ssh_gateway.newest()["reason"] == "idle too long: 1 s"


def test_the_longest_session(alice: Person, ssh_gateway: SshGateway, limited: None) -> None:
    """Somebody who is busy is not idle, but their time ends as well."""
    busy = "echo $$; while sleep 0.5; do echo; done"
    with running(alice, command=busy) as one:
        began = time.monotonic()
        assert one.heard(6).startswith("the session reached its time limit")
        assert time.monotonic() - began > 2
    assert ssh_gateway.newest()["reason"] == "time limit reached: 3 s"


# -- recording -----------------------------------------------------------------------------

UNRECORDED = "the session cannot be recorded"


def test_an_unwritable_directory(alice: Person, ssh_gateway: SshGateway) -> None:
    with without_directory(ssh_gateway):
        done = alice.ssh("alice#web", "touch /tmp/never; echo never")
        assert (done.returncode, done.stdout) == (255, b"")
        assert UNRECORDED.encode() in done.stderr
    assert alice.ssh("alice#web", "echo in").stdout == b"in\n"


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_when_nothing_can_be_written(
    start_ssh: StartSsh, ssh_tmp: Path, people_keys: dict[str, str], durability: str
) -> None:
    """No command runs, neither in a new session nor in one that is there, which ends."""
    gateway = start_ssh(f"drain_seconds: 1\nrecording: {{durability: {durability}}}\n")
    alice = Person(gateway.directory / "alice", ssh_tmp / "keys" / "alice", gateway).set_up()
    control = ssh_tmp / f"full_{durability}"
    with (
        alice.master("alice#web", control) as through,
        running(alice) as one,
        no_writes(gateway),
    ):
        done = alice.ssh("alice#web", "touch ~/never")
        assert (done.returncode, UNRECORDED.encode() in done.stderr) == (255, True)
        assert through.ssh("alice#web", "touch ~/never").returncode == 255
        assert one.heard(5).startswith(UNRECORDED)
    assert alice.ssh("alice#web", "ls ~/never").returncode == 2
    assert gateway.cli("verify", "--all").returncode == 0


def test_durability_on_the_disk(
    start_ssh: StartSsh, ssh_tmp: Path, people_keys: dict[str, str]
) -> None:
    """Everything works with fsync before each word, and nothing is lost on the way."""
    gateway = start_ssh("drain_seconds: 1\nrecording: {durability: disk}\n")
    alice = Person(gateway.directory / "alice", ssh_tmp / "keys" / "alice", gateway).set_up()
    done = alice.ssh("alice#web", "cat; exit 3", input=bytes(3_000_000))
    assert (done.returncode, done.stdout) == (3, bytes(3_000_000))
    assert alice.run("sftp", "-b", "-", "alice#web@127.0.0.1", input=b"ls\n").returncode == 0


# -- the gateway's own end -----------------------------------------------------------------


def test_a_gateway_that_stops(
    start_ssh: StartSsh, ssh_tmp: Path, people_keys: dict[str, str]
) -> None:
    """Sessions get their time to finish; then they are told. Nobody new comes in."""
    gateway = start_ssh("drain_seconds: 2\n")
    alice = Person(gateway.directory / "alice", ssh_tmp / "keys" / "alice", gateway).set_up()
    with (
        alice.master("alice#web", ssh_tmp / "drain_control") as through,
        running(alice) as long,
        running(alice, command="echo $$; sleep 1; exit 4") as short,
    ):
        gateway.signal(signal.SIGTERM)
        until(lambda: gateway.get("readyz")[0] == 503, "it to drain")
        assert alice.ssh("alice#web", "true").returncode == 255
        assert through.ssh("alice#web", "exit 7").returncode == 7
        short.process.communicate(timeout=20)
        assert short.process.returncode == 4
        assert long.heard(5).startswith("the gateway is shutting down")
    gateway.wait()
    reasons = {entry["reason"] for entry in gateway.audited("session.ended")}
    assert reasons == {"client closed", "gateway shutting down"}


def test_a_gateway_that_is_killed(
    start_ssh: StartSsh, ssh_tmp: Path, people_keys: dict[str, str]
) -> None:
    """What ran on the target ends, and the transcript is good up to its last word."""
    gateway = start_ssh()
    alice = Person(gateway.directory / "alice", ssh_tmp / "keys" / "alice", gateway).set_up()
    with running(alice, "-tt") as one:
        gateway.kill9()
        until(lambda: over(one.pid), "the command to end too")
        assert one.process.wait(20) == 255
    done = gateway.cli("verify", one.session)
    assert (done.returncode, "truncated" in done.stdout) == (0, True)
    assert str(one.pid) in str(gateway.events(one.session))
