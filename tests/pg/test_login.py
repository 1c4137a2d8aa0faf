"""The log-in forms, each in a line; and what of them reaches the target."""

from __future__ import annotations

from ipaddress import ip_address
from types import MappingProxyType

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NotAllowed, ProtocolViolation, Refused
from gateway.model import Account, Ask, Grant, Identity, Protocol, Resource, Terms
from gateway.pg.login import is_replication, parse_login, target_parameters

SOURCE = ip_address("10.0.0.1")
DOMAIN = "gw.example.com"


def ask(user: str, database: str | None = None, host: str | None = None) -> Ask:
    parameters = {"user": user} if database is None else {"user": user, "database": database}
    return parse_login(parameters, host, DOMAIN, SOURCE)


@pytest.mark.parametrize(
    ("user", "database", "host", "expected"),
    [
        # by dbname
        ("alice", "orders", None, "alice - orders -"),
        ("alice", "orders/reports", None, "alice - orders reports"),
        ("alice/app_ro", "orders", None, "alice app_ro orders -"),
        ("alice/app_ro", "orders/reports", None, "alice app_ro orders reports"),
        ("orders", "orders", None, "orders - orders -"),  # a service named like its resource
        ("alice@example.com+x", "orders", None, "alice@example.com+x - orders -"),
        ("alice", "orders/a/b#c", None, "alice - orders a/b#c"),
        # by user
        ("alice#orders", None, None, "alice - orders -"),
        ("alice:orders", "", None, "alice - orders -"),
        ("alice#orders", "alice#orders", None, "alice - orders -"),  # libpq made it up
        ("alice/app_ro#orders", "alice/app_ro#orders", None, "alice app_ro orders -"),
        ("alice/app_ro:orders", "reports", None, "alice app_ro orders reports"),
        ("alice#orders", "reports", None, "alice - orders reports"),
        ("alice#orders", "orders", None, "alice - orders orders"),
        ("alice#orders", "orders/reports", None, "alice - orders reports"),  # they agree
        # by TLS server name
        ("alice", None, "orders.gw.example.com", "alice - orders -"),
        ("alice", "alice", "Orders.GW.example.com.", "alice - orders -"),
        ("alice", "reports", "orders.gw.example.com", "alice - orders reports"),
        ("alice/app_ro", "alice/app_ro", "orders.gw.example.com", "alice app_ro orders -"),
        ("alice#orders", "reports", "orders.gw.example.com", "alice - orders reports"),
        ("alice#Orders", "reports", "orders.gw.example.com", "alice - Orders reports"),
        ("alice", "orders", "gw.example.com", "alice - orders -"),
        ("alice", "orders", "elsewhere.example.com", "alice - orders -"),
        ("alice", "orders", "badgw.example.com", "alice - orders -"),
    ],
)
def test_forms(user: str, database: str | None, host: str | None, expected: str) -> None:
    asked = ask(user, database, host)
    told = (asked.user, asked.account or "-", asked.resource, asked.database or "-")
    assert " ".join(told) == expected
    assert (asked.protocol, asked.source) == (Protocol.POSTGRESQL, SOURCE)


@pytest.mark.parametrize(
    ("user", "database", "host", "words"),
    [
        ("alice", None, None, "name a resource"),
        ("alice", "", "gw.example.com", "name a resource"),
        ("alice/app_ro", "alice/app_ro", None, "name a resource"),  # libpq made it up
        ("alice", "/reports", None, "name a resource"),
        ("alice#orders", "web/reports", None, "two different"),
        ("alice#web", "reports", "orders.gw.example.com", "two different"),
        ("alice", "web/reports", "orders.gw.example.com", "two different"),
    ],
)
def test_no_or_two_resources(user: str, database: str | None, host: str | None, words: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        ask(user, database, host)
    assert words in refused.value.public
    assert "web" not in refused.value.public


@pytest.mark.parametrize(
    ("user", "database", "host"),
    [
        ("alice#", "orders", None),
        ("#orders", "orders", None),
        ("alice/", "orders", None),
        ("alice/a/b", "orders", None),
        ("/app_ro", "orders", None),
        ("alice#orders#web", None, None),
        ("alice#orders:web", None, None),
        ("alice:orders/reports", None, None),
        ("alice", "orders/", None),
        ("alice", "orders#x", None),
        ("alice#orders", "orders/", None),
        ("alice", "reports", ".gw.example.com"),
        ("ali\nce", "orders", None),
        ("ali\x1b[2Jce", "orders", None),
        ("ali\u202ece", "orders", None),
        ("ali\udce4ce", "orders", None),  # not UTF-8
        ("alice", "orders/rep\0orts", None),
        ("alice", "ord\x7fers", None),
        ("alice#orders", "rep\rorts", None),
        ("a" * 256, "orders", None),
        ("alice", "o" * 256, None),
    ],
)
def test_malformed_names(user: str, database: str | None, host: str | None) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        ask(user, database, host)


def test_without_a_domain_server_names_name_nothing() -> None:
    asked = parse_login({"user": "a", "database": "web"}, "orders.gw.example.com", None, SOURCE)
    assert asked.resource == "web"


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *((value, True) for value in ("true", "TRUE", "t", "1", "on", "yes", "y", "database")),
        *((value, False) for value in ("false", "f", "0", "off", "OF", "no", " no ")),
        *((value, None) for value in ("", "2", "o", "Database", "logical", "tru e")),
    ],
)
def test_replication_as_postgresql_reads_it(value: str, meaning: bool | None) -> None:
    if meaning is None:
        with pytest.raises(ProtocolViolation):
            is_replication(value)
    else:
        login = {"user": "a", "database": "orders", "replication": value}
        assert parse_login(login, None, None, SOURCE).replication is meaning


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_anything_is_parsed_or_refused(user: str, database: str, host: str) -> None:
    try:
        asked = ask(user, database, f"{host}.{DOMAIN}")
    except Refused:
        return
    for name in (asked.user, asked.resource, asked.account or "x"):
        assert name.isprintable()
        assert not set(name) & set("/#:")


GRANT = Grant(
    ask=ask("alice", "orders"),
    identity=Identity("alice", "password"),
    resource=Resource("orders", Protocol.POSTGRESQL, (), tag_application_name=False),
    account=Account("app_ro"),
    terms=Terms(),
    binding="b",
    role="r",
)
TAGGED = evolve(GRANT, resource=evolve(GRANT.resource, tag_application_name=True))
SESSION = "01ab23cd45ef"


def test_everything_passes_but_who_and_where() -> None:
    parameters = {
        "user": "alice#orders",
        "TimeZone": "UTC",
        "options": "-c geqo=off",
        "_pq_.x": "1",
        "database": "alice#orders",
        "replication": "on",
        "application_name": "naïve",
    }
    assert target_parameters(parameters, GRANT, SESSION) == (
        ("user", "app_ro"),
        ("database", "app_ro"),
        ("TimeZone", "UTC"),
        ("options", "-c geqo=off"),
        ("application_name", "naïve"),
    )


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [("reports", "shop", "reports"), (None, "shop", "shop"), (None, None, "app_ro")],
)
def test_database(asked: str | None, default: str | None, expected: str) -> None:
    grant = evolve(
        GRANT,
        ask=evolve(GRANT.ask, database=asked),
        resource=evolve(GRANT.resource, database=default),
    )
    assert dict(target_parameters({}, grant, SESSION))["database"] == expected


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms(read_only=True), {"default_transaction_read_only": "on", "Statement_Timeout": "0"}),
        (
            Terms(statement_timeout_seconds=1.5),
            {"DEFAULT_transaction_read_only": "off", "statement_timeout": "1500"},
        ),
        (
            Terms(read_only=True, statement_timeout_seconds=0.0001),  # 0 would mean no limit
            {"default_transaction_read_only": "on", "statement_timeout": "1"},
        ),
        (
            Terms(statement_timeout_seconds=1e12),
            {"DEFAULT_transaction_read_only": "off", "statement_timeout": "2147483647"},
        ),
    ],
)
def test_terms_replace_the_clients_own(terms: Terms, expected: dict[str, str]) -> None:
    parameters = {"DEFAULT_transaction_read_only": "off", "Statement_Timeout": "0", "options": "-c"}
    sent = target_parameters(parameters, evolve(GRANT, terms=terms), SESSION)
    place, settings = sent[:2], dict(sent[2:])
    assert dict(place) == {"user": "app_ro", "database": "app_ro"}
    assert settings.pop("options") == "-c"
    assert settings == expected
    assert sent.index(("options", "-c")) < len(sent) - 1  # ours come later, and so win


@pytest.mark.parametrize(
    ("asked", "allowed", "sent"),
    [(True, True, "database"), (True, False, None), (False, True, None)],
)
def test_replication_needs_its_term(asked: bool, allowed: bool, sent: str | None) -> None:
    grant = evolve(
        GRANT, ask=evolve(GRANT.ask, replication=asked), terms=Terms(replication=allowed)
    )
    parameters = {"replication": "database"}
    assert dict(target_parameters(parameters, grant, SESSION)).get("replication") == sent


@pytest.mark.parametrize(
    ("given_name", "user", "expected"),
    [
        ({}, "alice", "[alice 01ab23cd]"),
        ({"application_name": ""}, "alice", "[alice 01ab23cd]"),
        ({"Application_Name": "psql"}, "alice", "psql [alice 01ab23cd]"),
        ({"application_name": "naïve\n"}, "zoë", "na?ve? [zo? 01ab23cd]"),
        ({"application_name": "x" * 80}, "alice", "x" * 46 + " [alice 01ab23cd]"),
        ({"application_name": "x" * 80}, "u" * 255, "x" * 19 + f" [{'u' * 32} 01ab23cd]"),
    ],
)
def test_application_name(given_name: dict[str, str], user: str, expected: str) -> None:
    grant = evolve(TAGGED, identity=Identity(user, "password"))
    sent = list(target_parameters(given_name, grant, SESSION)[2:])
    assert sent == [("application_name", expected)]


@given(st.text(), st.text())
def test_the_tag_survives(application: str, user: str) -> None:
    grant = evolve(TAGGED, identity=Identity(user, "password"))
    parameters = MappingProxyType({"application_name": application})
    name = dict(target_parameters(parameters, grant, SESSION))["application_name"]
    assert len(name.encode("ascii")) <= 63
    assert name.isprintable()
    assert name.endswith(" 01ab23cd]")
