"""What people read about a decision."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from attrs import evolve

from gateway import routing
from gateway.explain import explain, lines
from gateway.model import (
    Account,
    Address,
    Allow,
    Ask,
    Binding,
    Grant,
    Identity,
    Protocol,
    Resource,
    Role,
    Selector,
    Snapshot,
    Target,
    TargetKind,
    Terms,
    User,
)
from gateway.policy import decide

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
TARGETS = (Target(Address("10.0.0.11", 5432)), Target(Address("10.0.0.12", 5432)))
ACCOUNTS = MappingProxyType({"app_ro": Account("app_ro")})
TERMS = Terms(TargetKind.STANDBY, read_only=True)
STATE = Snapshot(
    1,
    MappingProxyType({"orders": Resource("orders", Protocol.POSTGRESQL, TARGETS, ACCOUNTS)}),
    MappingProxyType({"alice": User("alice", frozenset({"analysts", "eu"}))}),
    MappingProxyType(
        {"reader": Role("reader", (Allow(Selector(), frozenset({"app_ro"}), TERMS),))}
    ),
    (
        Binding("read", "reader", groups=frozenset({"analysts"})),
        Binding("bob-only", "reader", users=frozenset({"bob"})),
        Binding(
            "office",
            "reader",
            users=frozenset({"alice"}),
            sources=(ip_network("192.0.2.0/24"),),
        ),
    ),
)
ASK = Ask(Protocol.POSTGRESQL, "alice", "orders", ip_address("::ffff:10.1.1.1"))
ALICE = Identity("alice", "password")
SEEN = {TARGETS[0].address: routing.Seen("primary"), TARGETS[1].address: routing.Seen("standby")}


def order(grant: Grant) -> tuple[routing.Candidate, ...]:
    wanted = routing.Wanted(grant.terms.targets)
    return routing.order(grant.resource.targets, wanted, SEEN, 0.0, 0)


def test_allowed() -> None:
    told = explain(ASK, ALICE, STATE, NOW, order)
    assert told.evaluation.outcome == decide(ASK, ALICE, STATE, NOW)
    assert lines(told) == [
        "alice -> orders, from 10.1.1.1, at 2026-01-05T12:00:00+00:00",
        "user: alice, groups: analysts, eu",
        "bindings:",
        "  no      bob-only (reader): is not for alice",
        "  no      office (reader): 10.1.1.1 is not in its sources",
        "  chosen  read (reader, clause 1): allows app_ro",
        "targets, in the order of trying:",
        "  1. 10.0.0.12:5432: standby, 0 open sessions",
        "  2. 10.0.0.11:5432: primary, not the standby that is wanted, unless that has changed, "
        "0 open sessions",
        "ALLOWED as app_ro by read: read only, targets: standby",
    ]
    body = json.loads(json.dumps(told.as_json()))
    assert body["allowed"] is True
    assert body["grant"]["account"] == "app_ro"
    assert body["steps"][2] == {
        "binding": "read",
        "role": "reader",
        "clause": 0,
        "verdict": "chosen",
        "why": "allows app_ro",
    }
    assert [target["address"] for target in body["targets"]] == [
        "10.0.0.12:5432",
        "10.0.0.11:5432",
    ]


def test_ssh_is_told_in_its_own_words() -> None:
    web = evolve(STATE.resources["orders"], protocol=Protocol.SSH)
    state = evolve(STATE, resources=MappingProxyType({"orders": web}))
    told = explain(evolve(ASK, protocol=Protocol.SSH), ALICE, state, NOW, order)
    assert lines(told)[-1] == "ALLOWED as app_ro by read: shell, exec, sftp"
    assert told.as_json()["grant"]["terms"] == "shell, exec, sftp"


def test_denied() -> None:
    state = evolve(STATE, bindings=STATE.bindings[1:])
    told = explain(evolve(ASK, account="app_ro"), ALICE, state, NOW, order)
    assert lines(told)[0].startswith("alice -> orders as app_ro, from")
    assert lines(told)[-1] == "DENIED: office: 10.1.1.1 is not in its sources"
    body = told.as_json()
    assert (body["allowed"], body["targets"], body["public"]) == (False, [], None)
    assert body["reason"] == "office: 10.1.1.1 is not in its sources"


def test_nobody() -> None:
    told = explain(evolve(ASK, user="eve"), Identity("eve", "password"), STATE, NOW, order)
    assert lines(told)[1:] == [
        "user: there is none of this name",
        "DENIED: there is no user eve",
    ]
