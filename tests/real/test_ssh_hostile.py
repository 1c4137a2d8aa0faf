"""What a stranger can learn or break: names, keys, ciphers, memory; and what a log-in costs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import statistics
import string
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest

from tests.real.conftest import more
from tests.real.servers import until
from tests.real.ssh_clients import Direct, Person
from tests.real.ssh_servers import SshGateway, SshServer, UnixUser
from tests.ssh import raw
from tests.support import asyncio_test

pytest_plugins = ["tests.real.ssh_fixtures"]

TRIES = 400  # by each of both
FAR = 4.0  # standard deviations: by chance, once in 16,000
ROOM = 40 << 20  # bytes: what a gateway may grow by, whatever a client does


def test_ssh_audit_has_nothing_to_fail(ssh_gateway: SshGateway) -> None:
    program = Path(sys.executable).with_name("ssh-audit")
    done = subprocess.run(
        [program, "-j", "--skip-rate-test", "-p", str(ssh_gateway.ssh_port), "127.0.0.1"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    told = json.loads(done.stdout)
    for kind in ("kex", "key", "enc", "mac"):
        assert told[kind]
        failed = [each for each in told[kind] if "fail" in each["notes"]]
        assert not failed
    assert told["cves"] == []
    assert told["banner"]["raw"] == "SSH-2.0-Gateway"


# -- names ---------------------------------------------------------------------------------

WRONG = asyncssh.generate_private_key("ssh-ed25519")


async def visit(port: int, user: str) -> tuple[Mapping[str, float], tuple[bytes, ...]]:
    """Seconds that each try takes, and what the answers are."""
    client = await raw.connect(socket.create_connection(("127.0.0.1", port)))
    await client.begin()
    took, said = {}, []
    for name, fields in (
        ("nothing", (b"none",)),
        ("a key", (b"publickey", *raw.offered(WRONG))),
        ("a proof", (b"publickey", *client.signed(user, WRONG))),
        ("a password", (b"password", *raw.password("wrong"))),
    ):
        began = time.perf_counter()
        heard = await client.tries(user, *fields)
        took[name] = heard.at - began
        said.append(heard.payload)
    client.abort()
    await client.gone.wait()
    return took, tuple(said)


@asyncio_test
async def test_known_and_unknown_users_look_the_same(ssh_gateway: SshGateway) -> None:
    """By what is answered, and by how long that takes (Mann and Whitney's test)."""
    times: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    answers: dict[bool, set[tuple[bytes, ...]]] = {True: set(), False: set()}
    for _ in range(TRIES):
        for known in random.sample([True, False], 2):
            name = "alice" if known else "".join(random.choices(string.ascii_lowercase, k=5))
            took, said = await visit(ssh_gateway.ssh_port, f"{name}#web")
            answers[known].add(said)
            for what, seconds in took.items():
                times[what][known].append(seconds)
    assert len(answers[True]) == 1
    assert answers[True] == answers[False]
    for what, both in times.items():
        assert abs(deviation(both[True], both[False])) < FAR, what


def deviation(ones: list[float], others: list[float]) -> float:
    """How far the ranks of *ones* are from chance, in standard deviations."""
    ranked = sorted([(each, 1) for each in ones] + [(each, 0) for each in others])
    ranks = sum(rank for rank, (_, one) in enumerate(ranked, 1) if one)
    n, m = len(ones), len(others)
    return (ranks - n * (n + m + 1) / 2) / (n * m * (n + m + 1) / 12) ** 0.5


# -- keys that change all the time ---------------------------------------------------------


@pytest.fixture(scope="module")
def restless(
    ssh_gateway: SshGateway, ssh_objects: str, ssh_tmp: Path, deploy: UnixUser
) -> Iterator[str]:
    """A resource whose target wants new keys every 256 KiB."""
    server = SshServer(ssh_tmp / "restless", RekeyLimit="256K").create()
    server.trust(ssh_gateway.cli("ca", "users").stdout)
    line = f"""\
  - name: restless
    protocol: ssh
    labels: {{env: test}}
    targets: [{{address: "127.0.0.1:{server.port}", host_key: "{server.host_key}"}}]
    accounts: [{{name: {deploy.name}, certificate: {{}}}}]
"""
    ssh_gateway.put(more(ssh_objects, resources=line))
    yield "restless"
    ssh_gateway.put(ssh_objects)
    server.stop()


def test_new_keys_all_the_time(alice: Person, ssh_gateway: SshGateway, restless: str) -> None:
    """Both sides, each when it likes, in the middle of bulk both ways."""
    data = os.urandom(1_000_000) * 16
    before = ssh_gateway.memory()
    busy = alice.having("RekeyLimit=256K")
    done = busy.ssh(f"alice#{restless}", "cat", input=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == data
    assert ssh_gateway.memory() - before < ROOM


# -- memory --------------------------------------------------------------------------------


async def client(person: Person, user: str = "alice#web") -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1",
        person.gateway.ssh_port,
        username=user,
        client_keys=[str(person.key)],
        known_hosts=None,
        config=None,
        agent_path=None,
    )


@asyncio_test
async def test_a_client_that_never_reads(alice: Person, ssh_gateway: SshGateway) -> None:
    """It says that it has room for two gigabytes, and the target has them."""
    connection = await client(alice)
    before = ssh_gateway.memory()
    process = await connection.create_process("cat /dev/zero", encoding=None, window=0x7FFFFFFF)
    await process.stdout.read(1)
    connection._transport.pause_reading()
    session = ssh_gateway.newest()["id"]
    assert await asyncio.to_thread(at_rest, ssh_gateway, session)
    assert ssh_gateway.memory() - before < ROOM
    connection.abort()
    await connection.wait_closed()


def at_rest(gateway: SshGateway, session: str) -> int:
    """Bytes that a session has carried, when they become no more."""
    carried = -1
    while carried != (now := carried_by(gateway, session)):
        carried = now
        time.sleep(0.3)
    return carried


def carried_by(gateway: SshGateway, session: str) -> int:
    (row,) = [row for row in gateway.live() if row["id"] == session]
    return int(row["bytes_out"])


@asyncio_test
async def test_hundreds_of_strangers(ssh_gateway: SshGateway) -> None:
    """Who shows no name has a place for a while, as long as there are some; then none."""
    socks = [socket.create_connection(("127.0.0.1", ssh_gateway.ssh_port)) for _ in range(200)]
    answered = 0
    for sock in socks:
        sock.settimeout(10)
        with suppress(ConnectionError):  # there was no place
            answered += sock.recv(100).startswith(b"SSH-2.0-")
    for sock in socks:  # not before all have been answered: each gives its place to another
        sock.close()
    assert answered == 50  # unauthenticated_per_address, as it comes
    until(lambda: greeted(ssh_gateway.ssh_port), "the places to be free again")


def greeted(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        return sock.recv(100).startswith(b"SSH-2.0-")


@asyncio_test
async def test_channels_by_the_thousand(alice: Person, ssh_gateway: SshGateway) -> None:
    """Far more than anybody may have; the session goes on."""
    connection = await client(alice)
    before = ssh_gateway.memory()

    async def one() -> bool:
        try:
            await connection.create_process("sleep 60")
        except asyncssh.ChannelOpenError:
            return False
        return True

    opened = await asyncio.gather(*(one() for _ in range(1000)))
    assert opened.count(True) == 256
    assert ssh_gateway.memory() - before < ROOM
    connection.close()
    await connection.wait_closed()
    assert alice.ssh("alice#web", "echo in").stdout == b"in\n"


# -- time ----------------------------------------------------------------------------------


def test_a_log_in_takes_no_longer_than_a_direct_one(
    alice: Person, ssh_gateway: SshGateway, direct: Direct
) -> None:
    """Twice the exchanges of keys, but OpenSSH's small writes wait for nobody here."""
    through, without, began = [], [], []
    for _ in range(7):
        through.append(seconds(lambda: alice.ssh("alice#web", "true")))
        without.append(seconds(lambda: direct.ssh("true")))
        (command,) = [event for event in ssh_gateway.events() if event["kind"] == "exec"]
        began.append(command["at"])
    assert statistics.median(through) < 1.2 * statistics.median(without)
    assert min(began) < 0.03  # a kernel that waits with its acknowledgement waits 0.04


def seconds(run: Callable[[], subprocess.CompletedProcess[bytes]]) -> float:
    began = time.monotonic()
    assert run().returncode == 0
    return time.monotonic() - began
