"""What every protocol's transcript has: how it began, notes of the gateway, how it ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from gateway.record.format import HEADER, NOTE, Record

Event = dict[str, Any]


def event(record: Record) -> Event:
    """A HEADER, NOTE or END record as an event: ``at`` in seconds, ``kind``, and its facts."""
    told = facts(record.payload)
    kind = "end"
    if record.kind == HEADER:
        kind = "start"
        told.pop("format", None)
        told["started"] = _iso(told.get("started"))
    elif record.kind == NOTE:
        kind = str(told.get("kind", "note"))
    rest = {name: value for name, value in told.items() if name not in ("at", "kind")}
    return {"at": seconds(record.at), "kind": kind, **rest}


def facts(payload: bytes) -> Event:
    """The JSON object in *payload*; empty where there is none."""
    try:
        value = json.loads(payload, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _finite(number: str) -> float:
    """JSON has no others, and nobody could be sent them."""
    value = float(number)
    if not isfinite(value):
        raise ValueError(f"{number} is no number of JSON")
    return value


def seconds(at: int) -> float:
    """From a record's nanoseconds."""
    return round(at / 1e9, 6)


def _iso(started: object) -> object:
    try:
        if isinstance(started, int | float):
            return datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        pass
    return started
