"""One sshd for all tests of SSH, and a gateway in front of it for each module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.servers import free_port
from tests.real.ssh_clients import Direct, Person
from tests.real.ssh_servers import (
    SshGateway,
    SshServer,
    StartSsh,
    UnixUser,
    keygen,
    missing,
    unix_user,
)

PASSWORDS = {"alice": "alice's password", "bob": "bob's password"}


@pytest.fixture(scope="session")
def ssh_tmp() -> Iterator[Path]:
    """A directory that every user can reach and whose name leaves room for sockets."""
    if needed := missing():
        pytest.exit(f"the tests need: apt-get install {' '.join(needed)}", returncode=3)
    with tempfile.TemporaryDirectory(prefix="gwssh") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def deploy(ssh_tmp: Path) -> Iterator[UnixUser]:
    """The account on the targets."""
    with unix_user(ssh_tmp) as user:
        yield user


@pytest.fixture(scope="session")
def sshd(ssh_tmp: Path) -> Iterator[SshServer]:
    server = SshServer(ssh_tmp / "sshd").create()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def people_keys(ssh_tmp: Path) -> dict[str, str]:
    """Public lines by name."""
    directory = ssh_tmp / "keys"
    directory.mkdir()
    return {name: keygen(directory / name) for name in ("alice", "bob")}


@pytest.fixture(scope="session")
def ssh_objects(sshd: SshServer, deploy: UnixUser, people_keys: dict[str, str]) -> str:
    """alice has shells, commands and files; bob may do everything; nobody may do anything."""
    return f"""\
resources:
  - name: web
    protocol: ssh
    labels: {{env: test}}
    targets: [{{address: "127.0.0.1:{sshd.port}", host_key: "{sshd.host_key}"}}]
    accounts: [{{name: {deploy.name}, certificate: {{}}}}]
  - name: hidden
    protocol: ssh
    targets: [{{address: "127.0.0.1:{sshd.port}", host_key: "{sshd.host_key}"}}]
    accounts: [{{name: {deploy.name}, certificate: {{}}}}]
  - name: down
    protocol: ssh
    labels: {{env: test}}
    targets: [{{address: "127.0.0.1:{free_port()}", host_key: "{sshd.host_key}"}}]
    accounts: [{{name: {deploy.name}, certificate: {{}}}}]
users:
  - {{name: alice, ssh_keys: ["{people_keys["alice"]}"], password: {{plain: "alice's password"}}}}
  - {{name: bob, ssh_keys: ["{people_keys["bob"]}"], password: {{plain: "bob's password"}}}}
  - {{name: nobody, password: {{plain: "nobody's password"}}}}
roles:
  - name: worker
    allow:
      - {{resources: {{labels: {{env: test}}}}, accounts: [{deploy.name}]}}
  - name: master
    allow:
      - resources: {{labels: {{env: test}}}}
        accounts: [{deploy.name}]
        ssh: {{forward: ["127.0.0.1:*", "localhost:*", "/*"], agent: true, x11: true}}
bindings:
  - {{name: alice-works, role: worker, subjects: [user:alice]}}
  - {{name: bob-rules, role: master, subjects: [user:bob]}}
"""


@pytest.fixture(scope="module")
def start_ssh(ssh_tmp: Path, sshd: SshServer, ssh_objects: str) -> Iterator[StartSsh]:
    """Starts gateways; ends them, and looks at their logs, when the module is through."""
    begun: list[SshGateway] = []

    def begin(configuration: str = "", **over: Any) -> SshGateway:
        directory = Path(tempfile.mkdtemp(dir=ssh_tmp))
        given = {"objects": ssh_objects, "configuration": configuration, **over}
        begun.append(SshGateway(directory, **given))
        return begun[-1].started(sshd)

    yield begin
    for gateway in begun:
        gateway.stop()


@pytest.fixture(scope="module")
def ssh_gateway(start_ssh: StartSsh) -> SshGateway:
    return start_ssh("drain_seconds: 1\n")


@pytest.fixture(scope="module")
def alice(ssh_gateway: SshGateway, ssh_tmp: Path, people_keys: dict[str, str]) -> Person:
    return Person(ssh_gateway.directory / "alice", ssh_tmp / "keys" / "alice", ssh_gateway).set_up()


@pytest.fixture(scope="module")
def bob(ssh_gateway: SshGateway, ssh_tmp: Path, people_keys: dict[str, str]) -> Person:
    return Person(ssh_gateway.directory / "bob", ssh_tmp / "keys" / "bob", ssh_gateway).set_up()


@pytest.fixture(scope="session")
def direct(ssh_tmp: Path, sshd: SshServer, deploy: UnixUser) -> Direct:
    return Direct(ssh_tmp / "direct", sshd, deploy).set_up()
