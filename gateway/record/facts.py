"""What every protocol's transcript has: how it began, notes of the gateway, how it ended."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from gateway.record.format import HEADER, NOTE, Record

Event = dict[str, Any]
Text = str | dict[str, str]


def text(data: bytes) -> Text:
    """Bytes as JSON has them: text where they are UTF-8, else :func:`coded`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return coded(data)


def coded(data: bytes) -> dict[str, str]:
    """``{"base64": ...}``, for what is no text."""
    return {"base64": base64.b64encode(data).decode()}


def octets(told: str | Mapping[str, Any]) -> bytes:
    """The bytes that :func:`text` or :func:`coded` told of.

    :raises KeyError, TypeError, ValueError: they told of none
    """
    if isinstance(told, str):
        return told.encode("utf-8", "surrogatepass")
    return base64.b64decode(told["base64"])


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
