"""Kinds of values that configuration and objects files share, each judged as it is read."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from gateway.model import Address, IPNetwork

MAX_NAME = 128  # characters: names stand in lists, log lines and log-in forms


def address(value: Any) -> Address:
    """:raises ValueError: in words without *value*: some write a URL here, password and all"""
    try:
        found = Address.parse(value)
        found.host.encode("idna")
    except (AttributeError, ValueError):
        raise ValueError("should be HOST:PORT or [IPv6]:PORT, the port up to 65535") from None
    if not found.host.isprintable() or any(mark in found.host for mark in " /@"):
        raise ValueError("does not begin with a host's name or address")
    return found


def _network(value: Any) -> IPNetwork:
    if not isinstance(value, str) or "%" in value:
        raise ValueError("should be text: an address, or a network like 10.0.0.0/8")
    return ip_network(value)


def name(text: str) -> str:
    """Log-in forms part names at ``/``, ``#`` and ``:``; lists and shells at spaces."""
    if not text.isprintable() or any(mark in text for mark in "/#: "):
        raise ValueError("may not hold spaces, control characters, or any of / # :")
    if not 1 <= len(text) <= MAX_NAME:
        raise ValueError(f"has to be 1 to {MAX_NAME} characters long")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may not hold control characters")
    return text


def _aware(moment: Any) -> datetime:
    if isinstance(moment, str):
        moment = _moment(moment)
    if not isinstance(moment, datetime):
        raise ValueError("should be a moment like 2027-01-01T00:00:00Z")
    if moment.tzinfo is None:
        raise ValueError("has to name its time zone: end it with Z, or with +01:00")
    return moment


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


AddressField = Annotated[
    Address,
    PlainValidator(address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "HOST:PORT or [IPv6]:PORT"}),
]
Network = Annotated[
    IPNetwork,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "description": "an address, or a network like 10.0.0.0/8"}),
]
Name = Annotated[str, AfterValidator(name)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
"""Words, or a file's name: all but secrets, which may hold anything."""

Moment = Annotated[
    datetime,
    BeforeValidator(_aware),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
