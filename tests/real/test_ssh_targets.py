"""How the gateway reaches targets: whom it trusts, how it logs in, what if one is down."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.conftest import more
from tests.real.servers import free_port
from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, SshServer, UnixUser, keygen

pytest_plugins = ["tests.real.ssh_fixtures"]

DOWN = b"no target can take this session now (audit id "


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """The port of somebody who accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def resource(name: str, targets: list[str], account: str) -> str:
    lines = "".join(f"      - {target}\n" for target in targets)
    return f"""\
  - name: {name}
    protocol: ssh
    labels: {{env: test}}
    targets:
{lines}    accounts: [{account}]
"""


Having = Callable[..., None]


@pytest.fixture
def having(ssh_gateway: SshGateway, ssh_objects: str) -> Having:
    """Adds resources to what there is."""

    def add(*resources: str) -> None:
        ssh_gateway.put(more(ssh_objects, resources="".join(resources)))

    return add


def at(port: int, key: str) -> str:
    return f'{{address: "127.0.0.1:{port}", {key}}}'


def minted(deploy: UnixUser) -> str:
    return f"{{name: {deploy.name}, certificate: {{}}}}"


def test_a_wrong_host_key_is_nobody_to_log_in_to(
    alice: Person,
    ssh_gateway: SshGateway,
    sshd: SshServer,
    deploy: UnixUser,
    having: Having,
    tmp_path: Path,
) -> None:
    wrong = keygen(tmp_path / "wrong")
    having(resource("wrong", [at(sshd.port, f'host_key: "{wrong}"')], minted(deploy)))
    done = alice.ssh("alice#wrong", "true")
    assert DOWN in done.stderr
    assert str(sshd.port).encode() not in done.stderr.replace(
        str(ssh_gateway.ssh_port).encode(), b""
    )
    told = ssh_gateway.audit("session.refused", resource="wrong")
    assert told["refusal"] == "Unreachable"
    assert "host key" in told["detail"]
    assert f"127.0.0.1:{sshd.port}" in told["detail"]


def test_a_host_ca(
    alice: Person,
    ssh_gateway: SshGateway,
    sshd: SshServer,
    deploy: UnixUser,
    having: Having,
    tmp_path: Path,
) -> None:
    other = keygen(tmp_path / "other_ca")
    having(
        resource("by-ca", [at(sshd.port, f'host_ca: "{sshd.host_ca}"')], minted(deploy)),
        resource("by-other-ca", [at(sshd.port, f'host_ca: "{other}"')], minted(deploy)),
    )
    assert alice.ssh("alice#by-ca", "echo in").stdout == b"in\n"
    assert DOWN in alice.ssh("alice#by-other-ca", "true").stderr
    assert "host key" in ssh_gateway.audit("session.refused", resource="by-other-ca")["detail"]


def test_a_host_certificate_for_another_name_does_not_do(
    alice: Person, ssh_gateway: SshGateway, ssh_tmp: Path, deploy: UnixUser, having: Having
) -> None:
    server = SshServer(ssh_tmp / "sshd_elsewhere", names="elsewhere.example").create()
    try:
        having(
            resource("elsewhere", [at(server.port, f'host_ca: "{server.host_ca}"')], minted(deploy))
        )
        assert DOWN in alice.ssh("alice#elsewhere", "true").stderr
        assert "host key" in ssh_gateway.audit("session.refused", resource="elsewhere")["detail"]
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_an_account_by_private_key(
    alice: Person, sshd: SshServer, deploy: UnixUser, having: Having, tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "account"
    with sshd.authorized.open("a") as file:
        file.write(f"{keygen(key, kind)}\n")
    account = f"{{name: {deploy.name}, private_key: {{file: {key}}}}}"
    having(resource("by-key", [at(sshd.port, f'host_key: "{sshd.host_key}"')], account))
    assert alice.ssh("alice#by-key", "echo in").stdout == b"in\n"


def test_an_account_by_password(
    alice: Person, ssh_gateway: SshGateway, sshd: SshServer, deploy: UnixUser, having: Having
) -> None:
    if deploy.password is None:
        pytest.skip("only root can make a user with a password")
    target = at(sshd.port, f'host_key: "{sshd.host_key}"')
    having(
        resource(
            "by-pw", [target], f"{{name: {deploy.name}, password: {{value: {deploy.password}}}}}"
        ),
        resource(
            "by-wrong-pw", [target], f"{{name: {deploy.name}, password: {{value: no-secret}}}}"
        ),
    )
    assert alice.ssh("alice#by-pw", "echo in").stdout == b"in\n"
    assert DOWN in alice.ssh("alice#by-wrong-pw", "true").stderr
    told = ssh_gateway.audit("session.refused", resource="by-wrong-pw")
    assert "refuses the account" in told["detail"]
    for secret in (deploy.password, "no-secret"):
        assert secret not in ssh_gateway.log
        assert secret not in str(told)


def test_a_target_that_is_down(alice: Person, ssh_gateway: SshGateway) -> None:
    done = alice.ssh("alice#down", "true")
    assert DOWN in done.stderr
    assert ssh_gateway.audit("session.refused", resource="down")["refusal"] == "Unreachable"


def test_the_next_target_takes_over(
    alice: Person,
    ssh_gateway: SshGateway,
    sshd: SshServer,
    deploy: UnixUser,
    having: Having,
    silent: int,
) -> None:
    """One refuses, one says nothing, one has another key: each costs its time, and no more."""
    key = f'host_key: "{sshd.host_key}"'
    targets = [at(free_port(), key), at(silent, key), at(sshd.port, key)]
    having(resource("several", targets, minted(deploy)))
    for _ in range(3):
        assert alice.ssh("alice#several", "echo in").stdout == b"in\n"
        assert ssh_gateway.newest()["target"] == f"127.0.0.1:{sshd.port}"


def test_what_a_target_is_told(
    alice: Person, ssh_gateway: SshGateway, sshd: SshServer, deploy: UnixUser
) -> None:
    """The session's id, so that both logs can be read together."""
    alice.ssh("alice#web", "true")
    session = ssh_gateway.newest()["id"]
    assert f"gateway {session}" in sshd.log


def test_keys_are_not_left_behind(alice: Person, ssh_gateway: SshGateway, deploy: UnixUser) -> None:
    """What logs in at a target is made for it, and never a file."""
    before = set(ssh_gateway.state.rglob("*"))
    alice.ssh("alice#web", "true")
    new = set(ssh_gateway.state.rglob("*")) - before
    assert all(path.suffix == ".gwt" for path in new if path.is_file())
