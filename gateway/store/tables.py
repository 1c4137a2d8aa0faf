"""The tables, and how a row becomes a value. The schema's history is in ``migrations``."""

from __future__ import annotations

from typing import Any

from attrs import asdict, fields, frozen
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    select,
)

from gateway.contracts import Body
from gateway.model import SessionInfo

metadata = MetaData()

objects = Table(
    "objects",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("owner", String),
    Column("body", JSON, nullable=False),
    Column("changed", Float, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("user", String, nullable=False),
    Column("resource", String, nullable=False),
    Column("account", String, nullable=False),
    Column("target", String, nullable=False),
    Column("protocol", String, nullable=False),
    Column("source", String, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("statements", BigInteger, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Index("sessions_started", "started"),
    Index("sessions_user", "user", "started"),
    Index("sessions_resource", "resource", "started"),
    Index("sessions_status", "status"),
)


@frozen
class StoredObject:
    """``owner``: the objects file that made it, or None for one made by hand."""

    owner: str | None
    body: Body


@frozen
class Filter:
    """Which sessions: all that is not None must match; ``since`` seconds since the epoch."""

    user: str | None = None
    resource: str | None = None
    since: float | None = None
    limit: int = 1000


def session_row(info: SessionInfo, digest: str) -> dict[str, Any]:
    """A target's words in ``reason`` may not be Unicode: one such row must not stop the others."""
    return {
        name: _text(value) if isinstance(value, str) else value
        for name, value in {**asdict(info), "digest": digest}.items()
    }


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def session_info(row: Row[Any]) -> SessionInfo:
    """:param row: has SessionInfo's columns, and maybe more"""
    return SessionInfo(*(row._mapping[attribute.name] for attribute in fields(SessionInfo)))


def select_sessions(wanted: Filter) -> Select[Any]:
    """The newest first."""
    query = select(sessions).order_by(sessions.c.started.desc(), sessions.c.id)
    if wanted.user is not None:
        query = query.where(sessions.c.user == wanted.user)
    if wanted.resource is not None:
        query = query.where(sessions.c.resource == wanted.resource)
    if wanted.since is not None:
        query = query.where(sessions.c.started >= wanted.since)
    return query.limit(wanted.limit)
