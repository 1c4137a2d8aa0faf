"""Startup parameters: what a client asks for by them, and what its target gets of them.

Refusals here are made before anything is looked up, so they tell nothing of what exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from attrs import frozen

from gateway.errors import NotAllowed, ProtocolViolation
from gateway.loginname import judged, resource_of, split
from gateway.model import Ask, Grant, IPAddress, Protocol, Terms

MAX_APPLICATION_NAME = 63  # bytes; PostgreSQL cuts at NAMEDATALEN - 1
MAX_TAGGED_USER = 32  # characters of the user in application_name, so that the rest keeps room
TAGGED_ID = 8  # characters of the session id in application_name: enough to find it by
MAX_TIMEOUT = 2**31 - 1  # ms; PostgreSQL keeps statement_timeout in an int

_HOW = "name a resource: dbname=RESOURCE, user=USER#RESOURCE, or the host RESOURCE.DOMAIN over TLS"

_OURS = frozenset({"user", "database", "replication"})
_APPLICATION = "application_name"

Parameters = Mapping[str, str]


# -- what is asked for ---------------------------------------------------------------------


def parse_login(
    parameters: Parameters, server_name: str | None, domain: str | None, source: IPAddress
) -> Ask:
    """The log-in forms: by ``dbname``, by ``user``, by TLS server name.

    :param server_name: of the TLS client hello, None without
    :param domain: under which server names are resources, None where there is none
    :raises ProtocolViolation: a malformed name
    :raises NotAllowed: no resource is named, or two different ones are
    """
    login = parameters.get("user", "")
    named = split(login)
    by_host = resource_of(server_name, domain)
    replication = is_replication(parameters.get("replication", "false"))
    dbname = parameters.get("database", "")
    resource, database = _what(dbname, login, named.resource, by_host)
    return Ask(
        Protocol.POSTGRESQL,
        user=named.user,
        resource=judged(resource, "resource"),
        source=source,
        account=named.account,
        database=judged(database, "database") if database else None,
        replication=replication,
    )


def _what(dbname: str, login: str, by_user: str | None, by_host: str | None) -> tuple[str, str]:
    """The resource, and the database or ""."""
    resource = _agreed(by_user, by_host)
    named, slash, database = dbname.partition("/")
    made_up = dbname == login  # as drivers do where no dbname is given
    if resource is None:
        # Without a slash it may be meant: the user "orders" of the resource "orders".
        if not named or (made_up and slash):
            raise NotAllowed("no resource was named", _HOW)
        resource = named
    elif made_up:
        return resource, ""
    elif not slash:
        return resource, dbname
    if named != resource:
        _disagree(named, resource)
    if slash:
        judged(database, "database")
    return resource, database


def _agreed(by_user: str | None, by_host: str | None) -> str | None:
    if by_user is None or by_host is None:
        return by_host if by_user is None else by_user
    if by_user.lower() != by_host:
        _disagree(by_user, by_host)
    return by_user


def _disagree(one: str, other: str) -> NoReturn:
    words = "two different resources are named"
    raise NotAllowed(f"{words}: {one!a} and {other!a}", words)


def is_replication(value: str) -> bool:
    """PostgreSQL's reading: a boolean, or ``database``.

    :raises ProtocolViolation: neither
    """
    if value == "database":
        return True
    word = value.strip().lower()
    for meaning, words in ((True, ("true", "yes", "1")), (False, ("false", "no", "0"))):
        if word and any(full.startswith(word) for full in words):
            return meaning
    if word in ("on", "of", "off"):
        return word == "on"
    raise ProtocolViolation('invalid value for parameter "replication"')


# -- what the target gets ------------------------------------------------------------------


def target_parameters(
    parameters: Parameters, grant: Grant, session_id: str
) -> tuple[tuple[str, str], ...]:
    """The startup parameters for the target, in order.

    All of the client's pass through except those that choose who and where. Ours come
    last, as PostgreSQL applies ``options`` first and then each parameter in turn.
    """
    ours = _settings(parameters, grant, session_id)
    taken = _OURS | ours.keys()
    passing = (
        (name, value)
        for name, value in parameters.items()
        if name.lower() not in taken and not name.startswith("_pq_.")
    )
    return (*_place(parameters, grant), *passing, *ours.items())


def _place(parameters: Parameters, grant: Grant) -> Iterator[tuple[str, str]]:
    yield "user", grant.account.name
    yield "database", grant.ask.database or grant.resource.database or grant.account.name
    if grant.ask.replication and grant.terms.replication:
        yield "replication", parameters["replication"]


def _settings(parameters: Parameters, grant: Grant, session_id: str) -> dict[str, str]:
    settings = _limits(grant.terms)
    if grant.resource.tag_application_name:
        given = (value for name, value in parameters.items() if name.lower() == _APPLICATION)
        tag = Tag(grant.identity.user, session_id)
        settings[_APPLICATION] = tag.appended_to(next(given, ""))
    return settings


def _limits(terms: Terms) -> dict[str, str]:
    limits = {"default_transaction_read_only": "on"} if terms.read_only else {}
    if terms.statement_timeout_seconds is not None:
        milliseconds = round(terms.statement_timeout_seconds * 1000)
        limits["statement_timeout"] = str(min(max(milliseconds, 1), MAX_TIMEOUT))  # 0: no limit
    return limits


@frozen
class Tag:
    """Who it is, for whoever reads pg_stat_activity: ``[alice 01ab23cd]``."""

    user: str
    session_id: str

    def __str__(self) -> str:
        return f"[{_clean(self.user)[:MAX_TAGGED_USER]} {self.session_id[:TAGGED_ID]}]"

    def appended_to(self, application: str) -> str:
        room = MAX_APPLICATION_NAME - len(str(self)) - 1
        return f"{_clean(application)[:room].rstrip()} {self}".lstrip()


def _clean(text: str) -> str:
    """As PostgreSQL cleans application_name, but before we cut it: ASCII, or ``?``."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
