"""Log-in names: ``user[/account][#resource]``, the same for every protocol. Pure.

Refusals here are made before anything is looked up, so they tell nothing of what exists.
"""

from __future__ import annotations

from attrs import frozen

from gateway.errors import ProtocolViolation

MAX_NAME = 255  # characters of any one name; PostgreSQL's own stop at 63, DNS names at 253

_MARKS = frozenset("/#:")  # they part a log-in into its names


@frozen
class LoginName:
    """``account`` and ``resource`` are None where they are not named."""

    user: str
    account: str | None
    resource: str | None


def split(login: str) -> LoginName:
    """``who[#resource]`` or ``who[:resource]``; *who* may hold an account.

    :raises ProtocolViolation: a malformed name
    """
    at = min((login.index(mark) for mark in "#:" if mark in login), default=None)
    resource = None if at is None else judged(login[at + 1 :], "resource")
    user, slash, account = login[:at].partition("/")
    return LoginName(judged(user, "user"), judged(account, "account") if slash else None, resource)


def resource_of(host: str | None, domain: str | None) -> str | None:
    """What stands before *domain* in *host*. DNS knows no case, so neither do we."""
    if not host or not domain:
        return None
    name, suffix = host.rstrip(".").lower(), "." + domain.strip(".").lower()
    return name.removesuffix(suffix) if name.endswith(suffix) else None


def judged(text: str, what: str) -> str:
    """Printable text: a name ends in logs, lists and terminals.

    :raises ProtocolViolation: it is none
    """
    fits = 1 <= len(text) <= MAX_NAME and text.isprintable()
    if not fits or (what != "database" and not _MARKS.isdisjoint(text)):
        raise ProtocolViolation(f"malformed {what} name")
    return text
