"""``gateway explain`` says what a real log-in does, case by case."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.real.conftest import Start
from tests.real.raw import Refusal, log_in
from tests.real.servers import PASSWORDS, GatewayProcess, PostgresServer

NOW = datetime.now(UTC)
PAST, FUTURE = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
OPEN = f"Mon-Sun {NOW - timedelta(hours=2):%H:%M}-{NOW + timedelta(hours=2):%H:%M} UTC"
SHUT = f"Mon-Sun {NOW + timedelta(hours=2):%H:%M}-{NOW + timedelta(hours=4):%H:%M} UTC"

RESOURCES = {
    "orders": "{env: prod, team: shop}",
    "ledger": "{env: prod, team: books}",
    "sandbox": "{env: test, team: shop}",
    "bare": "{}",
}
# Clauses of a role, by its name.
ROLES = {
    "named": "{resources: {names: [orders]}, accounts: [app_ro]}",
    "labelled": "{resources: {labels: {env: prod}}, accounts: [app_ro]}",
    "both": "{resources: {names: [orders, sandbox], labels: {env: prod}}, accounts: [app_ro]}",
    "listed": "{resources: {labels: {team: [shop, books], env: [test]}}, accounts: [app_rw]}",
    "everything": "{resources: {}, accounts: [app_ro, app_rw]}",
    "writer": "{resources: {names: [orders]}, accounts: [app_rw]}",
    "elsewhere": "{resources: {names: [orders, bare]}, accounts: [only_there]}",
    "nothing": "",
    "standby": "{resources: {names: [orders]}, accounts: [app_ro], targets: standby}",
    "primary": "{resources: {names: [orders]}, accounts: [app_ro], targets: primary}",
    "prefer": "{resources: {names: [orders]}, accounts: [app_ro], targets: prefer-standby}",
    "clauses": "{resources: {names: [orders]}, accounts: [app_ro], read_only: true},"
    " {resources: {names: [ledger]}, accounts: [app_rw]}",
}
# Who has which roles, under which conditions.
BINDINGS = {
    "named": [("named", "")],
    "labelled": [("labelled", "")],
    "both": [("both", "")],
    "listed": [("listed", "")],
    "everything": [("everything", "")],
    "elsewhere": [("elsewhere", "")],
    "nothing": [("nothing", "")],
    "two": [("named", ""), ("writer", "")],
    "clauses": [("clauses", "")],
    "standby": [("standby", "")],
    "primary": [("primary", "")],
    "prefer": [("prefer", "")],
    "from": [("named", "sources: [127.5.0.0/16]")],
    "not-from": [("named", "deny_sources: [127.5.9.0/24]")],
    "partly": [("named", "sources: [127.5.0.0/16], deny_sources: [127.5.9.0/24]")],
    "either": [("named", "sources: [127.5.0.0/16]"), ("writer", "sources: [127.6.0.0/16]")],
    "open": [("named", f'hours: "{OPEN}"')],
    "shut": [("named", f'hours: "{SHUT}"')],
    "expired": [("named", f"expires: {PAST.isoformat()}")],
    "lasting": [("named", f"expires: {FUTURE.isoformat()}")],
    "renewed": [("named", f"expires: {PAST.isoformat()}"), ("named", f'hours: "{OPEN}"')],
    "disabled": [("everything", "")],
    "lonely": [],
}

DENIED, UNKNOWN, DOWN = "28000", "28P01", "57P03"

CASES = [
    # user, account, resource, source, and what comes of it: an account or an SQLSTATE
    ("named", None, "orders", "127.0.0.1", "app_ro"),
    ("named", "app_ro", "orders", "127.0.0.1", "app_ro"),
    ("named", "app_rw", "orders", "127.0.0.1", DENIED),
    ("named", "no_such_account", "orders", "127.0.0.1", DENIED),
    ("named", None, "ledger", "127.0.0.1", DENIED),
    ("named", None, "absent", "127.0.0.1", DENIED),
    ("labelled", None, "orders", "127.0.0.1", "app_ro"),
    ("labelled", None, "ledger", "127.0.0.1", "app_ro"),
    ("labelled", None, "sandbox", "127.0.0.1", DENIED),
    ("labelled", None, "bare", "127.0.0.1", DENIED),
    ("both", None, "orders", "127.0.0.1", "app_ro"),
    ("both", None, "sandbox", "127.0.0.1", DENIED),
    ("both", None, "ledger", "127.0.0.1", DENIED),
    ("listed", None, "sandbox", "127.0.0.1", "app_rw"),
    ("listed", None, "orders", "127.0.0.1", DENIED),
    ("everything", None, "bare", "127.0.0.1", DENIED),  # has to choose
    ("everything", "app_rw", "bare", "127.0.0.1", "app_rw"),
    ("everything", "app_ro", "ledger", "127.0.0.1", "app_ro"),
    ("everything", "app_ro", "absent", "127.0.0.1", DENIED),
    ("elsewhere", None, "orders", "127.0.0.1", DENIED),
    ("nothing", None, "orders", "127.0.0.1", DENIED),
    ("two", None, "orders", "127.0.0.1", DENIED),  # has to choose
    ("two", "app_rw", "orders", "127.0.0.1", "app_rw"),
    ("clauses", None, "orders", "127.0.0.1", "app_ro"),
    ("clauses", None, "ledger", "127.0.0.1", "app_rw"),
    ("clauses", "app_rw", "orders", "127.0.0.1", DENIED),
    ("standby", None, "orders", "127.0.0.1", DOWN),  # there is none
    ("primary", None, "orders", "127.0.0.1", "app_ro"),
    ("prefer", None, "orders", "127.0.0.1", "app_ro"),
    ("from", None, "orders", "127.5.9.1", "app_ro"),
    ("from", None, "orders", "127.6.0.1", DENIED),
    ("not-from", None, "orders", "127.5.9.1", DENIED),
    ("not-from", None, "orders", "127.5.8.1", "app_ro"),
    ("partly", None, "orders", "127.5.8.1", "app_ro"),
    ("partly", None, "orders", "127.5.9.1", DENIED),
    ("partly", None, "orders", "127.0.0.1", DENIED),
    ("either", None, "orders", "127.5.0.1", "app_ro"),
    ("either", None, "orders", "127.6.0.1", "app_rw"),
    ("either", "app_rw", "orders", "127.5.0.1", DENIED),
    ("open", None, "orders", "127.0.0.1", "app_ro"),
    ("shut", None, "orders", "127.0.0.1", DENIED),
    ("expired", None, "orders", "127.0.0.1", DENIED),
    ("lasting", None, "orders", "127.0.0.1", "app_ro"),
    ("renewed", None, "orders", "127.0.0.1", "app_ro"),
    ("disabled", "app_ro", "orders", "127.0.0.1", UNKNOWN),
    ("unheard-of", None, "orders", "127.0.0.1", UNKNOWN),
    ("lonely", None, "orders", "127.0.0.1", DENIED),
]


@pytest.fixture(scope="module")
def gateway(start: Start, postgres: PostgresServer) -> GatewayProcess:
    return start(objects="".join(objects(postgres)))


def objects(postgres: PostgresServer) -> list[str]:
    def accounts(resource: str) -> str:
        held = PASSWORDS | ({"only_there": "secret"} if resource == "bare" else {})
        return ", ".join(
            f'{{name: {name}, password: {{value: "{password}"}}}}'
            for name, password in held.items()
        )

    resources = [
        f"  - {{name: {name}, protocol: postgresql, labels: {labels}, database: orders,\n"
        f'     targets: [{{address: "localhost:{postgres.port}"}}], accounts: [{accounts(name)}],\n'
        f"     tls: {{mode: verify-full, ca: {{file: {postgres.ca_file}}}}}}}\n"
        for name, labels in RESOURCES.items()
    ]
    users = [
        f"  - {{name: {name}, password: {{plain: secret}}, disabled: {name == 'disabled'}}}\n"
        for name in BINDINGS
    ]
    roles = [f"  - {{name: {name}, allow: [{clauses}]}}\n" for name, clauses in ROLES.items()]
    bindings = [
        f"  - {{name: {name}-{place}, role: {role}, subjects: [user:{name}], {conditions}}}\n"
        for name, bound in BINDINGS.items()
        for place, (role, conditions) in enumerate(bound)
    ]
    sections = {"resources": resources, "users": users, "roles": roles, "bindings": bindings}
    return [line for kind, lines in sections.items() for line in (f"{kind}:\n", *lines)]


@pytest.mark.parametrize(("user", "account", "resource", "source", "outcome"), CASES)
def test_it_agrees_with_a_log_in(
    gateway: GatewayProcess,
    user: str,
    account: str | None,
    resource: str,
    source: str,
    outcome: str,
) -> None:
    told = gateway.call("explain", user=user, resource=resource, account=account, source=source)
    assert told["allowed"] == (outcome in (*PASSWORDS, DOWN))
    found = outcome_of(gateway, user if account is None else f"{user}/{account}", resource, source)
    if outcome in PASSWORDS:
        assert (found, told["grant"]["account"]) == (outcome, outcome)
        assert [target["address"] for target in told["targets"]]
    else:
        assert isinstance(found, Refusal)
        words = {UNKNOWN: "authentication failed", DOWN: "no target can take this session now"}
        wanted = words.get(outcome) or told["public"] or "access denied"
        assert (found.sqlstate, found.words) == (outcome, wanted)


def outcome_of(gateway: GatewayProcess, login: str, resource: str, source: str) -> str | Refusal:
    try:
        return log_in(gateway, login, "secret", resource, source)
    except Refusal as refused:
        return refused


def test_it_says_why(gateway: GatewayProcess) -> None:
    def why(user: str, **over: Any) -> str:
        return "\n".join(gateway.call("explain", user=user, resource="orders", **over)["lines"])

    assert "127.6.0.1 is not in its sources" in why("from", source="127.6.0.1")
    assert "127.5.9.1 is in its deny_sources" in why("partly", source="127.5.9.1")
    assert "it is outside its hours" in why("shut")
    assert "it expired at" in why("expired")
    assert "DENIED: user disabled is disabled" in why("disabled")
    assert "DENIED: name an account: two/app_ro or two/app_rw" in why("two")
    assert "ALLOWED as app_rw by two-1" in why("two", account="app_rw")


def test_it_knows_what_kind_a_target_turned_out_to_be(
    gateway: GatewayProcess, postgres: PostgresServer
) -> None:
    with pytest.raises(Refusal):
        log_in(gateway, "standby", "secret")
    (target,) = gateway.call("explain", user="standby", resource="orders")["targets"]
    assert target["address"] == f"localhost:{postgres.port}"
    assert "primary, not the standby that is wanted" in target["why"]


def test_other_times(gateway: GatewayProcess) -> None:
    def allowed(user: str, moment: datetime) -> bool:
        at = moment.timestamp()
        told = gateway.call("explain", user=user, resource="orders", at=at)
        return bool(told["allowed"])

    assert allowed("expired", PAST - timedelta(minutes=1))
    assert not allowed("lasting", FUTURE)
    assert allowed("shut", NOW + timedelta(hours=3))
    assert not allowed("open", NOW + timedelta(hours=3))


def test_the_command(gateway: GatewayProcess) -> None:
    done = gateway.cli("explain", "from", "orders", "--source", "127.5.0.1", "--format", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["allowed"], told["grant"]["binding"]) == (0, True, "from-0")
    done = gateway.cli("explain", "from", "orders", "--at", "2026-01-01T12:00")
    assert done.returncode == 77
    assert "127.0.0.1 is not in its sources" in done.stdout
