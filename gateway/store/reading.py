"""The session index for a command that finds no daemon: read-only, without an event loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Row, Select, create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.model import SessionInfo
from gateway.store.database import unusable
from gateway.store.tables import Filter, select_sessions, session_info, sessions


def read_sessions(
    path: Path,
    *,
    user: str | None = None,
    resource: str | None = None,
    since: float | None = None,
    limit: int = 1000,
) -> list[SessionInfo]:
    """The newest first, as the last daemon left them.

    :raises StoreUnusable: the file is not ours, or may not be read
    """
    query = select_sessions(Filter(user, resource, since, limit))
    return [session_info(row) for row in _rows(path, query)]


def read_digests(path: Path) -> dict[str, str]:
    """The digests (hex) of whole transcripts, as their sessions' ends noted them, by session.

    Sessions that still run, were lost or were not recorded have none.

    :raises StoreUnusable: the file is not ours, or may not be read
    """
    query = select(sessions.c.id, sessions.c.digest).where(sessions.c.digest != "")
    return {row.id: row.digest for row in _rows(path, query)}


def _rows(path: Path, query: Select[Any]) -> Sequence[Row[Any]]:
    if not path.exists():
        return ()
    url = URL.create(
        "sqlite",
        database=path.absolute().as_uri(),
        query={"mode": "ro", "uri": "true"},
    )
    engine = create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            return connection.execute(query).all()
    except SQLAlchemyError as failed:
        raise unusable(path, failed) from failed
    finally:
        engine.dispose()
