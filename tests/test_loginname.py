"""Log-in names: what they say, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.loginname import MAX_NAME, LoginName, judged, resource_of, split


@pytest.mark.parametrize(
    ("login", "user", "account", "resource"),
    [
        ("alice", "alice", None, None),
        ("alice#web", "alice", None, "web"),
        ("alice:web", "alice", None, "web"),
        ("alice/deploy", "alice", "deploy", None),
        ("alice/deploy#web", "alice", "deploy", "web"),
        ("alice/deploy:web", "alice", "deploy", "web"),
        ("alice@example.com+x/d-e_p.l#w.e-b_", "alice@example.com+x", "d-e_p.l", "w.e-b_"),
        ("älice#wéb", "älice", None, "wéb"),
        ("a b", "a b", None, None),
        ("a" * MAX_NAME + "#" + "b" * MAX_NAME, "a" * MAX_NAME, None, "b" * MAX_NAME),
    ],
)
def test_names(login: str, user: str, account: str | None, resource: str | None) -> None:
    assert split(login) == LoginName(user, account, resource)


@pytest.mark.parametrize(
    "login",
    ["", "#web", ":web", "/deploy", "alice#", "alice:", "alice/", "alice/#web", "/#", "#",
     "alice#web#db", "alice:web:db", "alice#web:db", "alice:web#db", "alice#web/deploy",
     "alice/deploy/root", "alice/deploy/root#web", "alice//web",
     "ali\0ce", "alice\n", "alice#web\n", "alice/de\tploy", "\x1b[2Jalice", "alice\x7f", "a\x9bb",
     "a\u200bb", "a\u202eb", "a\u2028b", "a\ufeff", "a\xa0b", "a\udcffb", "alice#\udcff",
     "a" * (MAX_NAME + 1), "alice#" + "b" * (MAX_NAME + 1), "alice/" + "b" * (MAX_NAME + 1)],
)  # fmt: skip
def test_what_is_none(login: str) -> None:
    with pytest.raises(ProtocolViolation, match=r"^malformed (user|account|resource) name$"):
        split(login)


def test_refusals_do_not_repeat_what_was_said() -> None:
    with pytest.raises(ProtocolViolation) as refused:
        split("\x1b[2J/secret")
    assert refused.value.detail == refused.value.public == "malformed user name"


def test_only_databases_may_hold_marks() -> None:
    assert judged("a/b#c:d", "database") == "a/b#c:d"
    for mark in "/#:":
        with pytest.raises(ProtocolViolation):
            judged(mark, "resource")
    for text in ("", "a\0", "a" * (MAX_NAME + 1)):
        with pytest.raises(ProtocolViolation):
            judged(text, "database")


@pytest.mark.parametrize(
    ("host", "domain", "resource"),
    [
        ("web.gw.example.com", "gw.example.com", "web"),
        ("WEB.Gw.Example.COM.", "gw.example.com", "web"),
        ("web.gw.example.com", "GW.example.com", "web"),
        ("web.gw.example.com", ".gw.example.com.", "web"),
        ("a.b.gw.example.com", "gw.example.com", "a.b"),
        ("gw.example.com", "gw.example.com", None),
        (".gw.example.com", "gw.example.com", ""),  # malformed, rather than unnamed
        ("webgw.example.com", "gw.example.com", None),
        ("web.gw.example.com.evil.net", "gw.example.com", None),
        ("web.example.com", "gw.example.com", None),
        ("web", "gw.example.com", None),
        ("web.gw.example.com", None, None),
        ("web.gw.example.com", "", None),
        ("", "gw.example.com", None),
        (None, "gw.example.com", None),
        (".", ".", None),
        ("web.", ".", None),
    ],
)
def test_resources_by_host(host: str | None, domain: str | None, resource: str | None) -> None:
    assert resource_of(host, domain) == resource


@given(st.text() | st.text("ab/#:\n", max_size=8))
@example("/#:")
def test_anything_is_split_or_refused(login: str) -> None:
    try:
        name = split(login)
    except ProtocolViolation:
        return
    parts = [name.user, name.account, name.resource]
    assert all(part is None or (part.isprintable() and part) for part in parts)
    account = "" if name.account is None else "/" + name.account
    assert login.startswith(name.user + account)
    assert len(login) == len(name.user + account) + (len(name.resource or "-") + 1) * (
        name.resource is not None
    )
