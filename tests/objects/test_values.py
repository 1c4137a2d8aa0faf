"""From stored bodies to the snapshot that decides: nothing is lost on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway import hours, objects
from gateway.errors import GatewayError
from gateway.identity.password import matches
from gateway.model import (
    Address,
    Allow,
    Binding,
    Monitoring,
    Protocol,
    Role,
    Selector,
    Snapshot,
    SshRights,
    Target,
    TargetKind,
    Terms,
    TlsMode,
)
from gateway.vault import FileVault
from tests.objects.sample import AUTHORITY, LEAF, PRIVATE, PUBLIC, sample


def stored(directory: Path, text: str) -> dict[str, dict[str, Any]]:
    """As the store gives it back."""
    vault = FileVault.open(directory / "keys")
    bodies: dict[str, dict[str, Any]] = {}
    for document in objects.parse(text, str(directory / "objects.yaml")):
        body = json.loads(json.dumps(objects.settle(document, None, vault)))
        bodies.setdefault(document.kind, {})[document.name] = body
    return bodies


def read(directory: Path, text: str) -> Snapshot:
    return objects.snapshot(stored(directory, text), FileVault.open(directory / "keys"), 7)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    directory = tmp_path_factory.mktemp("state")
    return read(directory, sample(directory))


def test_resources(state: Snapshot) -> None:
    orders, web = state.resources["orders"], state.resources["web"]
    assert orders.protocol is Protocol.POSTGRESQL
    assert [each.address for each in orders.targets] == [
        Address("10.0.0.11", 5432),
        Address("2001:db8::12", 5432),
    ]
    assert dict(orders.labels) == {"env": "prod", "team": "shop"}
    assert (orders.database, orders.tls.mode) == ("orders", TlsMode.VERIFY_FULL)
    assert orders.tls.ca == AUTHORITY.cert_pem.bytes()
    assert orders.authentication == {"scram-sha-256", "certificate"}
    assert orders.tag_application_name
    assert web.targets == (Target(Address("10.0.0.21", 22), PUBLIC),)


def test_how_targets_are_shared_and_watched(tmp_path: Path) -> None:
    text = (
        "resources: [{name: o, protocol: postgresql, accounts: [{name: a, password: {value: x}}],\n"
        "  targets: [{address: 'h:1', weight: 2, zone: here, draining: true}, {address: 'h:2'}],\n"
        "  health: {account: a, database: d}}]\n"
    )
    found = read(tmp_path, text).resources["o"]
    assert found.targets == (
        Target(Address("h", 1), weight=2.0, zone="here", draining=True),
        Target(Address("h", 2), weight=1.0, zone=None, draining=False),
    )
    assert found.health == Monitoring("a", "d")


def test_accounts(state: Snapshot) -> None:
    orders, web = state.resources["orders"].accounts, state.resources["web"].accounts
    assert orders.keys() == {"app_ro", "app_rw", "app_cert"}
    password, key = orders["app_ro"].password, orders["app_cert"].private_key
    assert password is not None
    assert password.reveal() == b"read-only hunter2"
    assert key is not None
    assert b"PRIVATE" in key.reveal()
    assert orders["app_cert"].certificate == LEAF.cert_chain_pems[0].bytes()
    assert not orders["app_cert"].minted
    assert (web["deploy"].minted, web["deploy"].certificate) == (True, None)
    root = web["root"].private_key
    assert root is not None
    assert root.reveal() == PRIVATE
    assert not web["root"].minted


def test_users(state: Snapshot) -> None:
    alice, bob, carol = (state.users[name] for name in ("alice", "bob", "carol"))
    assert alice.groups == {"analysts"}
    assert alice.ssh_keys == (f"{PUBLIC} alice",)
    for user, password in ((alice, "pencil"), (bob, "only for hunter2"), (carol, "pencil")):
        assert user.password is not None
        assert matches(user.password, password)
    assert (alice.admin, carol.admin, carol.disabled) == (False, True, False)


def test_roles(state: Snapshot) -> None:
    reader = Allow(
        Selector(frozenset({"orders"}), {"env": frozenset({"prod"})}),
        frozenset({"app_ro"}),
        Terms(TargetKind.STANDBY, 5, True, 60, 28800, 3600),
    )
    assert state.roles["reader"] == Role("reader", (reader,))
    operator = Allow(
        Selector(None, {"env": frozenset({"prod", "test"})}),
        frozenset({"app_rw", "deploy"}),
        Terms(ssh=SshRights(forward=("127.0.0.1:*",))),
    )
    assert state.roles["operator"] == Role("operator", (operator,))


def test_bindings(state: Snapshot) -> None:
    assert state.bindings == (
        Binding("analysts-read", "reader", groups=frozenset({"analysts"})),
        Binding(
            "ops",
            "operator",
            frozenset({"carol"}),
            frozenset({"ops"}),
            (ip_network("10.0.0.0/8"),),
            (ip_network("10.9.0.0/16"),),
            hours.parse("Mon-Fri 08:00-18:00 Europe/Berlin"),
            datetime(2027, 1, 1, tzinfo=UTC),
        ),
    )
    assert state.version == 7


def test_a_snapshot_cannot_be_changed_and_does_not_show_secrets(state: Snapshot) -> None:
    for mapping in (state.resources, state.users, state.roles, state.resources["web"].accounts):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]
    assert "hunter2" not in str(state)
    assert "PRIVATE" not in str(state)


def test_every_authentication_and_tls_mode(tmp_path: Path) -> None:
    text = (
        "resources: [{name: o, protocol: postgresql, targets: [{address: h:1}],"
        " tls: {mode: require}, authentication: [md5, trust], tag_application_name: false}]\n"
    )
    resource = read(tmp_path, text).resources["o"]
    assert resource.authentication == {"md5", "trust"}
    assert (resource.tls.mode, resource.tls.ca) == (TlsMode.REQUIRE, None)
    assert not resource.tag_application_name
    assert dict(resource.accounts) == {}


def test_secrets_of_another_vault(tmp_path: Path) -> None:
    bodies = stored(tmp_path, sample(tmp_path))
    with pytest.raises(GatewayError):
        objects.snapshot(bodies, FileVault.open(tmp_path / "others"), 1)


def test_nothing_is_stored_yet(tmp_path: Path) -> None:
    assert objects.snapshot({}, FileVault.open(tmp_path / "keys"), 0) == Snapshot()
