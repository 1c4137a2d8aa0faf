"""One listener for several protocols, and one behind a proxy that says where people are."""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.real.conftest import more
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, SshServer, UnixUser, keygen, run

pytest_plugins = ["tests.real.ssh_fixtures"]


class SharedGateway(SshGateway):
    """Everything at one address; from here, it believes what a proxy says."""

    def _configuration(self) -> str:
        listener = f"""\
  - address: 127.0.0.1:{self.ssh_port}
    protocols: [postgresql, ssh]
  - address: 127.0.0.1:{self.port}
    protocols: [ssh]
    proxy_protocol: {{trusted: [127.0.0.0/8]}}
"""
        head, _, rest = super()._configuration().partition("listeners:\n")
        return f"{head}listeners:\n{listener}domain:{rest.partition('domain:')[2]}"


@pytest.fixture(scope="module")
def shared(
    ssh_tmp: Path, sshd: SshServer, objects: str, deploy: UnixUser, people_keys: dict[str, str]
) -> Iterator[SharedGateway]:
    """sam may come from one network only."""
    web = f"""\
  - name: web
    protocol: ssh
    targets: [{{address: "127.0.0.1:{sshd.port}", host_key: "{sshd.host_key}"}}]
    accounts: [{{name: {deploy.name}, certificate: {{}}}}]
"""
    key = people_keys["alice"]
    allowed = f"{{resources: {{names: [web]}}, accounts: [{deploy.name}]}}"
    everything = more(
        objects,
        resources=web,
        users=f'  - {{name: sam, ssh_keys: ["{key}"]}}\n  - {{name: tom, ssh_keys: ["{key}"]}}\n',
        roles=f"  - {{name: web, allow: [{allowed}]}}\n",
        bindings="  - {name: sam, role: web, subjects: [user:sam], sources: [203.0.113.0/24]}\n"
        "  - {name: tom, role: web, subjects: [user:tom]}\n",
    )
    gateway = SharedGateway(ssh_tmp / "shared", everything).started(sshd)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def person(shared: SharedGateway, ssh_tmp: Path) -> Person:
    return Person(shared.directory / "person", ssh_tmp / "keys" / "alice", shared).set_up()


# -- several protocols ---------------------------------------------------------------------


def test_psql_and_ssh_at_one_address(person: Person, shared: SharedGateway) -> None:
    for _ in range(2):
        assert person.ssh("tom#web", "echo in").stdout == b"in\n"
        with psycopg.connect(shared.dsn(port=shared.ssh_port)) as connection:
            assert connection.execute("SELECT 6 * 7").fetchone() == (42,)


@pytest.mark.parametrize("mode", ["require", "prefer", "verify-full"])
def test_all_ways_to_ask_for_tls(shared: SharedGateway, mode: str) -> None:
    with psycopg.connect(shared.dsn(port=shared.ssh_port, sslmode=mode)) as connection:
        assert connection.pgconn.ssl_in_use


def test_who_waits_for_a_banner_is_shown_one(shared: SharedGateway) -> None:
    with socket.create_connection(("127.0.0.1", shared.ssh_port), 10) as sock:
        assert sock.makefile("rb").readline() == b"SSH-2.0-Gateway\r\n"


def test_first_bytes_one_by_one(shared: SharedGateway) -> None:
    with socket.create_connection(("127.0.0.1", shared.ssh_port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"SSH-2.0-slow\r\n":
            sock.sendall(bytes((byte,)))
        assert sock.makefile("rb").readline() == b"SSH-2.0-Gateway\r\n"


# -- behind a proxy ------------------------------------------------------------------------

PROXY = """
import os, socket, sys, threading

sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
header, size = bytes.fromhex(sys.argv[2]), int(sys.argv[3])
for at in range(0, len(header), size):
    sock.sendall(header[at : at + size])


def out():
    while data := sock.recv(65536):
        os.write(1, data)
    os._exit(0)


threading.Thread(target=out).start()
while data := os.read(0, 65536):
    sock.sendall(data)
sock.shutdown(socket.SHUT_WR)
"""
V1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 56789 22\r\n"
V1_V6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56789 22\r\n"
V1_ELSEWHERE = b"PROXY TCP4 198.51.100.1 127.0.0.1 56789 22\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton("203.0.113.7")
    + socket.inet_aton("127.0.0.1")
    + (56789).to_bytes(2)
    + (22).to_bytes(2)
)


def behind(person: Person, header: bytes, size: int = 1000) -> Person:
    script = person.directory / "proxy.py"
    script.write_text(PROXY)
    command = (sys.executable, script, person.gateway.port, header.hex() or '""', size)
    return person.having(f"ProxyCommand={' '.join(map(str, command))}")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [1, 1000])
def test_where_people_are_is_believed(
    person: Person, shared: SharedGateway, header: bytes, size: int
) -> None:
    done = behind(person, header, size).ssh("sam#web", "echo in")
    assert done.stdout == b"in\n", done.stderr
    row = shared.newest()
    assert (row["user"], row["source"]) == ("sam", "203.0.113.7")
    assert shared.audited("session.started")[-1]["source"] == "203.0.113.7"
    assert shared.events(row["id"])[0]["source"] == "203.0.113.7"


def test_where_people_are_counts(person: Person, shared: SharedGateway) -> None:
    for header in (V1_ELSEWHERE, V1_V6):
        assert b"access denied" in behind(person, header).ssh("sam#web", "true").stderr
    sources = [entry["source"] for entry in shared.audited("session.refused", user="sam")]
    assert sources == ["198.51.100.1", "2001:db8::7"]
    assert b"access denied" in person.ssh("sam#web", "true").stderr  # and without a proxy


def test_a_jump_comes_from_where_its_carrier_does(
    person: Person, shared: SharedGateway, deploy: UnixUser
) -> None:
    carrier = person.directory / "carrier"
    words = behind(person, V1).command("ssh", "-W", "WHERE", "sam@127.0.0.1")
    carrier.write_text("#!/bin/sh\nexec " + shlex.join(words).replace("WHERE", '"$1"'))
    carrier.chmod(0o700)
    through = person.having(f"ProxyCommand={carrier} %h:%p")
    done = through.run("ssh", f"{deploy.name}@web", "echo in")
    assert done.stdout == b"in\n", done.stderr
    assert shared.newest()["source"] == "203.0.113.7"


@pytest.mark.parametrize(
    "header", [b"", b"PROXY nonsense\r\n", V2[:-5]], ids=["none", "nonsense", "torn"]
)
def test_a_proxy_that_says_nothing_of_use(person: Person, header: bytes) -> None:
    done = behind(person, header).ssh("tom#web", "true")
    assert (done.returncode, done.stdout) == (255, b"")


def test_a_certificate_for_some_addresses_is_held_against_the_true_one(
    person: Person, shared: SharedGateway, tmp_path: Path
) -> None:
    own = Path(shutil.copy(shared.user_ca, tmp_path / "ca"))
    for name, network in (("here", "203.0.113.0/24"), ("there", "127.0.0.0/8")):
        key = tmp_path / name
        keygen(key)
        option = f"source-address={network}"
        run("ssh-keygen", "-q", "-s", own, "-I", "x", "-n", "tom", "-O", option, f"{key}.pub")
        certified = Person(tmp_path, key, shared).set_up().having("PasswordAuthentication=no")
        done = (
            behind(certified, V1).having("KbdInteractiveAuthentication=no").ssh("tom#web", "true")
        )
        assert done.returncode == (0 if name == "here" else 255)
