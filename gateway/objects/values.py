"""Stored bodies as the frozen values that policy and dialers ask. Judged long ago."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, TypeVar

from gateway import hours
from gateway.contracts import Body, Vault
from gateway.identity.password import parse_verifier
from gateway.model import (
    Account,
    Address,
    Allow,
    Binding,
    Monitoring,
    Protocol,
    Resource,
    Role,
    Secret,
    Selector,
    Snapshot,
    SshRights,
    Target,
    TargetKind,
    TargetTls,
    Terms,
    TlsMode,
    User,
)
from gateway.objects.references import Bodies

V = TypeVar("V")


def snapshot(bodies: Bodies, vault: Vault, version: int) -> Snapshot:
    """All objects at once; *version* is what the store calls this state.

    :raises GatewayError: a secret is not of this vault
    """
    resources = {
        name: _resource(name, body, vault) for name, body in bodies.get("resources", {}).items()
    }
    users = {name: _user(name, body) for name, body in bodies.get("users", {}).items()}
    roles = {name: _role(name, body) for name, body in bodies.get("roles", {}).items()}
    bindings = (_binding(name, body) for name, body in sorted(bodies.get("bindings", {}).items()))
    return Snapshot(version, _fixed(resources), _fixed(users), _fixed(roles), tuple(bindings))


def _fixed(values: dict[str, V]) -> Mapping[str, V]:
    return MappingProxyType(values)


def _resource(name: str, body: Body, vault: Vault) -> Resource:
    accounts = {each["name"]: _account(each, vault) for each in body["accounts"]}
    tls = body["tls"]
    return Resource(
        name,
        Protocol(body["protocol"]),
        tuple(_target(each) for each in body["targets"]),
        _fixed(accounts),
        _fixed(dict(body["labels"])),
        body.get("database"),
        TargetTls(TlsMode(tls["mode"]), tls["ca"]["pem"].encode() if "ca" in tls else None),
        frozenset(body["authentication"]),
        body["tag_application_name"],
        Monitoring(**body["health"]) if "health" in body else None,
        body.get("move_idle_sessions", True),
    )


def _target(body: Body) -> Target:
    return Target(
        Address.parse(body["address"]),
        body.get("host_key"),
        body.get("host_ca"),
        body.get("weight", 1.0),
        body.get("zone"),
        body.get("draining", False),
    )


def _account(body: Body, vault: Vault) -> Account:
    certificate = body.get("certificate")
    pem = certificate.get("pem") if certificate is not None else None
    return Account(
        body["name"],
        _secret(body.get("password"), vault),
        pem.encode() if pem is not None else None,
        _secret(body.get("private_key"), vault),
        minted=certificate is not None and pem is None,
    )


def _secret(stored: Body | None, vault: Vault) -> Secret | None:
    return None if stored is None else Secret(vault.unseal(stored["sealed"]))


def _user(name: str, body: Body) -> User:
    password = body.get("password")
    return User(
        name,
        frozenset(body["groups"]),
        parse_verifier(password["scram-sha-256"]) if password is not None else None,
        tuple(body["ssh_keys"]),
        body["admin"],
        body["disabled"],
    )


def _role(name: str, body: Body) -> Role:
    return Role(name, tuple(map(_allow, body["allow"])))


def _allow(body: Body) -> Allow:
    names = body["resources"].get("names")
    labels = {key: frozenset(values) for key, values in body["resources"]["labels"].items()}
    selector = Selector(None if names is None else frozenset(names), _fixed(labels))
    return Allow(selector, frozenset(body["accounts"]), _terms(body))


def _terms(body: Body) -> Terms:
    ssh: Mapping[str, Any] = body["ssh"]
    return Terms(
        TargetKind(body["targets"]),
        body.get("max_lag_seconds"),
        body["read_only"],
        body.get("statement_timeout_seconds"),
        body.get("max_session_seconds"),
        body.get("idle_seconds"),
        body["replication"],
        SshRights(**{**ssh, "forward": tuple(ssh["forward"])}),
    )


def _binding(name: str, body: Body) -> Binding:
    subjects = [subject.partition(":")[::2] for subject in body["subjects"]]
    return Binding(
        name,
        body["role"],
        frozenset(who for kind, who in subjects if kind == "user"),
        frozenset(who for kind, who in subjects if kind == "group"),
        tuple(map(ip_network, body["sources"])),
        tuple(map(ip_network, body["deny_sources"])),
        hours.parse(body["hours"]) if "hours" in body else None,
        datetime.fromisoformat(body["expires"]) if "expires" in body else None,
    )
