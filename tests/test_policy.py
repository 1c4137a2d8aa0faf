"""Who gets in: a table, and laws over generated snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import policy
from gateway.model import (
    Account,
    Address,
    Allow,
    Ask,
    Binding,
    Denied,
    Grant,
    Hours,
    Identity,
    Protocol,
    Resource,
    Role,
    Secret,
    Selector,
    Snapshot,
    Target,
    TargetKind,
    Terms,
    User,
)
from gateway.policy import Verdict, decide, renew
from gateway.terms import covers, rank

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday
TARGETS = (Target(Address("10.0.0.11", 5432)),)


def named(*values: Any) -> Mapping[str, Any]:
    return MappingProxyType({value.name: value for value in values})


def nets(*texts: str) -> tuple[Any, ...]:
    return tuple(map(ip_network, texts))


ORDERS = Resource(
    "orders",
    Protocol.POSTGRESQL,
    TARGETS,
    named(Account("app_ro"), Account("app_rw")),
    MappingProxyType({"env": "prod", "team": "shop"}),
)
WEB = Resource(
    "web", Protocol.SSH, TARGETS, named(Account("app_ro")), MappingProxyType({"env": "prod"})
)
BARE = Resource("bare", Protocol.POSTGRESQL, TARGETS)
READER = Role(
    "reader",
    (Allow(Selector(frozenset({"orders"})), frozenset({"app_ro"}), Terms(read_only=True)),),
)
WRITER = Role(
    "writer",
    (
        Allow(
            Selector(labels=MappingProxyType({"env": frozenset({"prod", "test"})})),
            frozenset({"app_rw", "gone"}),
            Terms(replication=True),
        ),
    ),
)
ANYTHING = Role("anything", (Allow(Selector(), frozenset({"app_ro", "app_rw"})),))
USERS = named(
    User("alice", frozenset({"analysts"})),
    User("bob", frozenset({"ops"})),
    User("mallory", frozenset({"analysts", "ops"}), disabled=True),
)
READ = Binding("read", "reader", groups=frozenset({"analysts"}))
ALICE_WRITES = Binding("alice-writes", "writer", users=frozenset({"alice"}))
OPS = Binding(
    "ops",
    "writer",
    groups=frozenset({"ops"}),
    sources=nets("10.0.0.0/8"),
    deny_sources=nets("10.9.0.0/16"),
)


def snapshot(*bindings: Binding) -> Snapshot:
    return Snapshot(1, named(ORDERS, WEB, BARE), USERS, named(READER, WRITER, ANYTHING), bindings)


def ask(user: str = "alice", resource: str = "orders", **other: Any) -> Ask:
    source = ip_address(other.pop("source", "10.1.1.1"))
    return Ask(other.pop("protocol", Protocol.POSTGRESQL), user, resource, source, **other)


def decided(wanted: Ask, *bindings: Binding, now: datetime = NOW) -> Grant | Denied:
    return decide(wanted, Identity(wanted.user, "password"), snapshot(*bindings), now)


EVERYWHERE = evolve(OPS, sources=(), deny_sources=())
MONDAYS = Hours(frozenset({0}), 8 * 60, 18 * 60, "UTC")

GRANTED = [
    ("by group", ask(), [READ], "app_ro", "read"),
    ("by name", ask(), [ALICE_WRITES], "app_rw", "alice-writes"),
    ("account named", ask(account="app_rw"), [READ, ALICE_WRITES], "app_rw", "alice-writes"),
    ("source", ask("bob"), [OPS], "app_rw", "ops"),
    ("mapped source", ask("bob", source="::ffff:10.1.1.1"), [OPS], "app_rw", "ops"),
    (
        "mapped network",
        ask("bob"),
        [evolve(OPS, sources=nets("::ffff:10.0.0.0/104"))],
        "app_rw",
        "ops",
    ),
    (
        "deny reaches no other binding",
        ask("bob", source="10.9.1.1"),
        [OPS, evolve(EVERYWHERE, name="x")],
        "app_rw",
        "x",
    ),
    ("hours", ask(), [evolve(READ, hours=MONDAYS)], "app_ro", "read"),
    ("not yet expired", ask(), [evolve(READ, expires=NOW + timedelta(0, 1))], "app_ro", "read"),
    ("replication", ask("bob", replication=True), [EVERYWHERE], "app_rw", "ops"),
    (
        "replication leaves one account",
        ask(replication=True),
        [READ, ALICE_WRITES],
        "app_rw",
        "alice-writes",
    ),
    (
        "writing before reading",
        ask(account="app_ro"),
        [READ, evolve(READ, name="z", role="anything")],
        "app_ro",
        "z",
    ),
    ("names decide between equals", ask(), [READ, evolve(READ, name="a")], "app_ro", "a"),
    (
        "untimed before timed",
        ask(),
        [evolve(READ, name="a", hours=MONDAYS), READ],
        "app_ro",
        "read",
    ),
    ("the other protocol", ask(resource="web", protocol=Protocol.SSH),
     [evolve(READ, role="anything")], "app_ro", "read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "bindings", "account", "binding"),
    [row[1:] for row in GRANTED],
    ids=[str(row[0]) for row in GRANTED],
)
def test_granted(wanted: Ask, bindings: list[Binding], account: str, binding: str) -> None:
    for order in (bindings, bindings[::-1]):
        grant = decided(wanted, *order)
        assert isinstance(grant, Grant), grant
        assert (grant.account.name, grant.binding) == (account, binding)
        assert grant.ask == wanted


REFUSED = [
    ("nobody", ask("eve"), [READ], "there is no user eve"),
    ("disabled", ask("mallory"), [READ, OPS], "user mallory is disabled"),
    ("no resource", ask(resource="nope"), [READ], "there is no resource nope"),
    ("protocol", ask(resource="web"), [READ], "web speaks ssh, not postgresql"),
    ("no binding", ask("bob"), [READ], "no binding is for this user"),
    ("no bindings at all", ask(), [], "no binding is for this user"),
    ("absent account", ask(account="root"), [READ], "orders has no account root"),
    ("other account", ask(account="app_rw"), [READ], "read: allows app_ro, not app_rw"),
    ("source", ask("bob", source="192.0.2.1"), [OPS], "ops: 192.0.2.1 is not in its sources"),
    ("deny", ask("bob", source="10.9.1.1"), [OPS], "ops: 10.9.1.1 is in its deny_sources"),
    (
        "deny, mapped source",
        ask("bob", source="::ffff:10.9.1.1"),
        [OPS],
        "ops: 10.9.1.1 is in its deny_sources",
    ),
    (
        "deny, mapped network",
        ask("bob", source="10.9.1.1"),
        [evolve(EVERYWHERE, deny_sources=nets("::ffff:10.9.0.0/112"))],
        "ops: 10.9.1.1 is in its deny_sources",
    ),
    ("hours", ask(), [evolve(READ, hours=evolve(MONDAYS, end=12 * 60))],
     "read: it is outside its hours (Mon 08:00-12:00 UTC)"),
    ("expired", ask(), [evolve(READ, expires=NOW)],
     "read: it expired at 2026-01-05T12:00:00+00:00"),
    ("role gone", ask(), [evolve(READ, role="x")], "read: there is no role x"),
    ("label missing", ask(resource="bare"), [ALICE_WRITES],
     "alice-writes: wants env=prod|test, bare has no env"),
    ("name", ask(resource="bare"), [READ], "read: does not name bare"),
    ("no accounts", ask(resource="bare"), [evolve(READ, role="anything")],
     "read: bare has none of its accounts"),
    ("replication", ask(replication=True), [READ], "read: does not allow replication"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "bindings", "reason"),
    [row[1:] for row in REFUSED],
    ids=[str(row[0]) for row in REFUSED],
)
def test_refused(wanted: Ask, bindings: list[Binding], reason: str) -> None:
    assert decided(wanted, *bindings) == Denied(reason)


def test_a_choice_of_accounts_is_told() -> None:
    denied = decided(ask(), READ, ALICE_WRITES)
    assert isinstance(denied, Denied)
    assert denied.public == "name an account: alice/app_ro or alice/app_rw"


def test_a_proof_counts_for_its_own_user_only() -> None:
    outcome = decide(ask("bob"), Identity("alice", "password"), snapshot(OPS, READ), NOW)
    assert isinstance(outcome, Denied)


def test_fields_of_two_clauses_are_never_merged() -> None:
    wide = Allow(Selector(), frozenset({"app_ro"}), Terms(read_only=True))
    writes = Allow(Selector(), frozenset({"app_ro"}), Terms(targets=TargetKind.STANDBY))
    both = evolve(snapshot(READ), roles=named(Role("reader", (wide, writes))))
    grant = decide(ask(), Identity("alice", "password"), both, NOW)
    assert isinstance(grant, Grant)
    assert grant.terms == writes.terms


@pytest.mark.parametrize(
    ("change", "timed"),
    [({}, False), ({"hours": MONDAYS}, True), ({"expires": NOW + timedelta(1)}, True)],
)
def test_timed(change: dict[str, Any], timed: bool) -> None:
    grant = decided(ask(), evolve(READ, **change))
    assert isinstance(grant, Grant)
    assert grant.timed is timed


def test_a_denial_names_a_bounded_number_of_misses() -> None:
    many = [evolve(READ, name=f"b{n:02}", expires=NOW) for n in range(30)]
    denied = decided(ask(), *many)
    assert isinstance(denied, Denied)
    assert denied.reason.endswith("; and 22 more")


def test_exactly_one_step_is_chosen() -> None:
    asked = ask(account="app_ro")
    bindings = (READ, evolve(READ, name="z", role="anything"), OPS)
    steps = policy.evaluate(asked, Identity("alice", "password"), snapshot(*bindings), NOW).steps
    assert [(step.binding, step.verdict) for step in steps] == [
        ("read", Verdict.ALLOWS),
        ("z", Verdict.CHOSEN),
    ]


# Live sessions

BASE = snapshot(READ)


def with_resource(**change: Any) -> Snapshot:
    return evolve(BASE, resources=named(evolve(ORDERS, **change)))


def with_terms(terms: Terms) -> Snapshot:
    allow = (evolve(READER.allow[0], terms=terms),)
    return evolve(BASE, roles=named(Role("reader", allow)))


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (BASE, None),
        (with_resource(targets=(Target(Address("10.9.9.9", 1)),)), None),
        (with_resource(accounts=named(Account("app_ro", certificate=b"new"))), None),
        (with_terms(Terms()), None),
        (snapshot(READ, ALICE_WRITES), None),  # more accounts are no ambiguity for it
        (snapshot(Binding("other", "reader", users=frozenset({"alice"}))), None),
        (snapshot(), "no binding is for this user"),
        (with_resource(accounts=named(Account("app_rw"))), "orders has no account app_ro"),
        (with_resource(name="renamed"), "there is no resource orders"),
        (
            with_terms(Terms(read_only=True, idle_seconds=9)),
            "what is allowed now is less than what the session was given",
        ),
        (
            evolve(BASE, users=named(evolve(USERS["alice"], disabled=True))),
            "user alice is disabled",
        ),
        (evolve(BASE, users=named(User("alice"))), "no binding is for this user"),
    ],
)  # fmt: skip
def test_a_live_session_goes_on(after: Snapshot, reason: str | None) -> None:
    grant = decide(ask(), Identity("alice", "password"), BASE, NOW)
    assert isinstance(grant, Grant)
    renewed = renew(grant, after, NOW)
    assert (renewed.reason if isinstance(renewed, Denied) else None) == reason


def test_time_alone_takes_a_timed_grant_away() -> None:
    timed = snapshot(evolve(READ, expires=NOW + timedelta(minutes=1)))
    grant = decide(ask(), Identity("alice", "password"), timed, NOW)
    assert isinstance(grant, Grant)
    assert renew(grant, timed, NOW) == grant
    assert isinstance(renew(grant, timed, NOW + timedelta(minutes=1)), Denied)


def test_a_session_that_comes_to_rest_upon_a_timed_binding_is_timed() -> None:
    office = evolve(READ, name="office", hours=MONDAYS)
    grant = decided(ask(), READ, office)
    assert isinstance(grant, Grant)
    assert policy.renew(grant, snapshot(READ, office), NOW) == grant
    renewed = policy.renew(grant, snapshot(office), NOW)
    assert renewed == evolve(grant, binding="office", timed=True)
    evening = NOW + timedelta(hours=8)
    assert isinstance(policy.renew(grant, snapshot(office), evening), Denied)


def test_a_session_goes_on_with_the_targets_and_credentials_of_today() -> None:
    grant = decided(ask(), READ)
    assert isinstance(grant, Grant)
    state = snapshot(READ)
    account = evolve(grant.account, password=Secret(b"rotated"))
    resource = evolve(
        grant.resource,
        targets=(Target(Address("new", 5432)),),
        accounts={**grant.resource.accounts, account.name: account},
    )
    state = evolve(state, resources={**state.resources, resource.name: resource})
    renewed = policy.renew(grant, state, NOW)
    assert renewed == evolve(grant, resource=resource, account=account)


# Laws

SOURCES = ["10.1.1.1", "10.9.1.1", "::ffff:10.9.1.1", "2001:db8::1"]
NETWORKS = st.lists(
    st.sampled_from(nets("10.0.0.0/8", "10.9.0.0/16", "2001:db8::/32", "::ffff:10.9.0.0/112")),
    max_size=2,
).map(tuple)
NAMES = st.frozensets(st.sampled_from(["alice", "bob"]), max_size=2)
GROUPS = st.frozensets(st.sampled_from(["analysts", "ops"]), max_size=2)
TERMS = st.builds(
    Terms,
    targets=st.sampled_from(TargetKind),
    read_only=st.booleans(),
    replication=st.booleans(),
    max_session_seconds=st.none() | st.sampled_from([60.0, 3600.0]),
    idle_seconds=st.none() | st.sampled_from([60.0, 3600.0]),
)
LABELS = st.sampled_from([{}, {"env": frozenset({"prod"})}, {"env": frozenset({"test"})}])
CLAUSES = st.builds(
    Allow,
    st.builds(
        Selector,
        st.none() | st.frozensets(st.sampled_from(["orders", "bare"]), max_size=2),
        LABELS.map(MappingProxyType),
    ),
    st.frozensets(st.sampled_from(["app_ro", "app_rw", "gone"]), max_size=2),
    TERMS,
)
ROLES = st.tuples(st.lists(CLAUSES, max_size=3), st.lists(CLAUSES, max_size=3)).map(
    lambda both: named(*(Role(f"role{n}", tuple(allow)) for n, allow in enumerate(both)))
)
HOURS = st.none() | st.sampled_from([MONDAYS, evolve(MONDAYS, days=frozenset({1}))])
EXPIRES = st.none() | st.sampled_from([NOW, NOW + timedelta(1)])
BINDINGS = st.lists(
    st.builds(
        Binding,
        st.sampled_from([f"b{n}" for n in range(9)]),
        st.sampled_from(["role0", "role1", "gone"]),
        NAMES,
        GROUPS,
        NETWORKS,
        NETWORKS,
        HOURS,
        EXPIRES,
    ),
    max_size=4,
    unique_by=lambda binding: binding.name,
).map(tuple)
SNAPSHOTS = st.builds(
    Snapshot,
    resources=st.just(named(ORDERS, BARE, WEB)),
    users=st.just(USERS),
    roles=ROLES,
    bindings=BINDINGS,
)
ASKS = st.builds(
    ask,
    st.sampled_from(["alice", "bob", "mallory"]),
    st.sampled_from(["orders", "orders", "bare"]),
    source=st.sampled_from(SOURCES),
    account=st.sampled_from([None, "app_ro", "app_rw"]),
    replication=st.booleans(),
)


def rights(wanted: Ask, state: Snapshot) -> set[tuple[str, Terms]]:
    """All that could be had by naming an account, in whichever way the choice falls."""
    steps = policy.evaluate(wanted, Identity(wanted.user, "password"), state, NOW).steps
    return {(option.account.name, option.terms) for step in steps for option in step.options}


def outcome(wanted: Ask, state: Snapshot) -> Grant | Denied:
    return decide(wanted, Identity(wanted.user, "password"), state, NOW)


@given(ASKS, SNAPSHOTS)
def test_removing_a_binding_never_adds_access(wanted: Ask, state: Snapshot) -> None:
    for binding in state.bindings:
        rest = tuple(other for other in state.bindings if other is not binding)
        fewer = evolve(state, bindings=rest)
        assert rights(wanted, fewer) <= rights(wanted, state)
        after = outcome(wanted, fewer)
        if isinstance(after, Grant):  # what it gives could be had before, by its name
            before = outcome(evolve(wanted, account=after.account.name), state)
            assert isinstance(before, Grant)
            assert rank(before.terms) >= rank(after.terms)


@given(ASKS, SNAPSHOTS, NETWORKS)
def test_adding_deny_sources_never_adds_access(
    wanted: Ask, state: Snapshot, networks: tuple[Any, ...]
) -> None:
    for index, binding in enumerate(state.bindings):
        bindings = list(state.bindings)
        bindings[index] = evolve(binding, deny_sources=binding.deny_sources + networks)
        assert rights(wanted, evolve(state, bindings=tuple(bindings))) <= rights(wanted, state)


@given(ASKS, SNAPSHOTS)
def test_deny_sources_always_win_in_their_binding(wanted: Ask, state: Snapshot) -> None:
    everywhere = nets("0.0.0.0/0", "::/0")
    denied = tuple(
        evolve(binding, sources=everywhere, deny_sources=everywhere) for binding in state.bindings
    )
    assert isinstance(outcome(wanted, evolve(state, bindings=denied)), Denied)


@given(ASKS, SNAPSHOTS, st.randoms(use_true_random=False))
def test_the_order_of_bindings_never_matters(wanted: Ask, state: Snapshot, random: Any) -> None:
    shuffled = list(state.bindings)
    random.shuffle(shuffled)
    assert outcome(wanted, evolve(state, bindings=tuple(shuffled))) == outcome(wanted, state)


@settings(max_examples=300)
@given(ASKS, SNAPSHOTS)
def test_a_grant_is_what_one_clause_gives_and_nothing_more(wanted: Ask, state: Snapshot) -> None:
    grant = outcome(wanted, state)
    if isinstance(grant, Denied):
        return
    clauses = [clause for clause in state.roles[grant.role].allow if clause.terms == grant.terms]
    assert any(grant.account.name in clause.accounts for clause in clauses)
    binding = next(binding for binding in state.bindings if binding.name == grant.binding)
    user = state.users[wanted.user]
    assert not user.disabled
    assert user.name in binding.users or user.groups & binding.groups
    assert grant.terms.replication or not wanted.replication
    assert wanted.account in (None, grant.account.name)
    assert isinstance(renew(grant, state, NOW), Grant)


@given(ASKS, SNAPSHOTS, SNAPSHOTS)
def test_what_is_still_allowed_is_covered_by_a_right_of_today(
    wanted: Ask, then: Snapshot, today: Snapshot
) -> None:
    grant = outcome(wanted, then)
    if isinstance(grant, Denied):
        return
    named_ask = evolve(wanted, account=grant.account.name)
    enough = any(covers(terms, grant.terms) for _, terms in rights(named_ask, today))
    assert isinstance(renew(grant, today, NOW), Grant) is enough
