"""Two sshds behind one name: killed, frozen, somebody else, examined."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.servers import until
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, SshServer, UnixUser, keygen

pytest_plugins = ["tests.real.ssh_fixtures"]

INTERVAL, TIMEOUT = 0.5, 1.0  # seconds; as the gateway here is configured


@pytest.fixture(scope="module")
def other_sshd(ssh_tmp: Path) -> Iterator[SshServer]:
    server = SshServer(ssh_tmp / "other").create()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def two(
    start_ssh: Callable[..., SshGateway], sshd: SshServer, other_sshd: SshServer, ssh_objects: str
) -> SshGateway:
    """Behind the name "web" there are two."""
    one = f'{{address: "127.0.0.1:{sshd.port}", host_key: "{sshd.host_key}"}}'
    more = f'{{address: "localhost:{other_sshd.port}", host_key: "{other_sshd.host_key}"}}'
    gateway = start_ssh(
        f"health: {{interval_seconds: {INTERVAL}, timeout_seconds: {TIMEOUT}}}\ndrain_seconds: 1\n",
        objects=ssh_objects.replace(one, f"{one}, {more}", 1),
    )
    other_sshd.trust(gateway.cli("ca", "users").stdout)
    return gateway


@pytest.fixture(scope="module")
def carla(two: SshGateway, ssh_tmp: Path, people_keys: dict[str, str]) -> Person:
    return Person(two.directory / "alice", ssh_tmp / "keys" / "alice", two).set_up()


def states(gateway: SshGateway) -> list[str]:
    rows = gateway.call("targets")["targets"]
    return [row["state"] for row in rows if row["resource"] == "web"]


def wait_until(gateway: SshGateway, *wanted: str) -> None:
    until(lambda: states(gateway) == list(wanted), f"{wanted}, and not {states(gateway)}", 25)


def where(person: Person, gateway: SshGateway) -> str:
    done = person.ssh("alice#web", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    return str(gateway.newest()["target"])


def test_one_that_dies_is_passed_over_and_comes_back(
    two: SshGateway, carla: Person, other_sshd: SshServer, sshd: SshServer
) -> None:
    wait_until(two, "up", "up")
    other_sshd.stop()
    assert {where(carla, two) for _ in range(3)} == {f"127.0.0.1:{sshd.port}"}
    wait_until(two, "up", "down")
    other_sshd.start()
    wait_until(two, "up", "up")


def test_one_that_is_frozen_costs_its_timeout_once(
    two: SshGateway, carla: Person, other_sshd: SshServer, sshd: SshServer
) -> None:
    assert other_sshd._process is not None
    os.kill(other_sshd._process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert where(carla, two) == f"127.0.0.1:{sshd.port}"
        assert time.monotonic() - began < TIMEOUT + 3
        wait_until(two, "up", "down")
        told = [row for row in two.call("targets")["targets"] if row["resource"] == "web"]
        assert "no answer in time" in told[1]["why"]
    finally:
        os.kill(other_sshd._process.pid, signal.SIGCONT)
    wait_until(two, "up", "up")


def test_all_down_is_told_at_once(
    two: SshGateway, carla: Person, other_sshd: SshServer, sshd: SshServer
) -> None:
    sshd.stop()
    other_sshd.stop()
    try:
        wait_until(two, "down", "down")
        began = time.monotonic()
        done = carla.ssh("alice#web", "true")
        assert time.monotonic() - began < TIMEOUT + 2
        assert done.returncode == 255
        assert b"no target can take this session now" in done.stderr
    finally:
        sshd.start()
        other_sshd.start()
    wait_until(two, "up", "up")


def test_the_doctor_finds_somebody_else(
    two: SshGateway, other_sshd: SshServer, sshd: SshServer, deploy: UnixUser, tmp_path: Path
) -> None:
    done = two.cli("doctor", "web")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = json.loads(two.cli("doctor", "web", "--format", "json").stdout)
    steps = {step["step"]: step for step in told["targets"][0]["steps"]}
    assert steps.keys() == {"name", "TCP", "banner", "host key", "log-in"}
    assert steps["log-in"]["said"] == deploy.name
    assert "OpenSSH" in steps["banner"]["said"]

    text = two.objects.read_text()
    two.apply(text.replace(other_sshd.host_key, keygen(tmp_path / "wrong"), 1))
    try:
        wait_until(two, "up", "down")
        done = two.cli("doctor", "web")
        assert done.returncode == 1
        assert "FAILED  host key" in done.stdout
        assert "ssh-keyscan" in done.stdout
    finally:
        two.apply(text)
    wait_until(two, "up", "up")
