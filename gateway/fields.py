"""Kinds of values that configuration and objects files share, each judged as it is read."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from gateway.model import Address, IPNetwork

MAX_NAME = 128  # characters: names stand in lists, log lines and log-in forms


def _address(value: Any) -> Address:
    if not isinstance(value, str):
        raise ValueError("should be text: HOST:PORT")
    return Address.parse(value)


def _network(value: Any) -> IPNetwork:
    if not isinstance(value, str):
        raise ValueError("should be text: an address, or a network like 10.0.0.0/8")
    try:
        return ip_network(value)
    except ValueError as wrong:
        raise ValueError(str(wrong)) from None


def _name(text: str) -> str:
    """Log-in forms part names at ``/``, ``#`` and ``:``; lists and shells at spaces."""
    if not text.isprintable() or any(mark in text for mark in "/#: "):
        raise ValueError("may not hold spaces, control characters, or any of / # :")
    if not 1 <= len(text) <= MAX_NAME:
        raise ValueError(f"has to be 1 to {MAX_NAME} characters long")
    return text


def _aware(moment: Any) -> datetime:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        raise ValueError("should be a moment like 2027-01-01T00:00:00Z")
    if moment.tzinfo is None:
        raise ValueError("has to name its time zone: end it with Z, or with +01:00")
    return moment


AddressField = Annotated[
    Address,
    PlainValidator(_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "HOST:PORT or [IPv6]:PORT"}),
]
Network = Annotated[
    IPNetwork,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "an address, or a network like 10.0.0.0/8"}),
]
Name = Annotated[str, AfterValidator(_name)]
Moment = Annotated[
    datetime,
    BeforeValidator(_aware),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
