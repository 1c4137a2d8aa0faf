"""Reads recorded messages for people. Sans-IO.

What is read here was accepted or refused by PostgreSQL long ago, so nothing is judged: a
body that ends early gives what it has (PostgreSQL manual, 55.7 "Message Formats").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from attrs import frozen

from gateway.record.facts import coded, text

Json = str | int | float | bool | None | dict[str, str]


def frames(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message; stops where there is no whole one."""
    pos, end = 0, len(payload)
    while end - pos >= 5:
        length = int.from_bytes(payload[pos + 1 : pos + 5])
        after = pos + 1 + length
        if length < 4 or after > end:
            return
        yield payload[pos], payload[pos + 5 : after]
        pos = after


class Cursor:
    """Takes fields off a body; past its end strings are empty and numbers zero."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._pos = 0

    def string(self) -> bytes:
        end = self._body.find(b"\0", self._pos)
        end = len(self._body) if end < 0 else end
        value = self._body[self._pos : end]
        self._pos = end + 1
        return value

    def number(self, size: int) -> int:
        """An unsigned integer."""
        return int.from_bytes(self.take(size))

    def take(self, length: int) -> bytes:
        value = self._body[self._pos : self._pos + length]
        self._pos += length
        return value

    def numbers(self, size: int) -> tuple[int, ...]:
        """A 16-bit count, then that many integers of *size* bytes, as far as there are any."""
        count = min(self.number(2), self.left // size)
        return tuple(self.number(size) for _ in range(count))

    def values(self) -> tuple[bytes | None, ...]:
        """A 16-bit count, then values with a 32-bit length each; NULL is None."""
        found: list[bytes | None] = []
        for _ in range(self.number(2)):
            if self.left < 4:
                break
            length = self.number(4)
            found.append(None if length == 0xFFFFFFFF else self.take(length))
        return tuple(found)

    @property
    def left(self) -> int:
        return max(0, len(self._body) - self._pos)


@frozen
class Values:
    """Parameters as they were sent. ``formats``: none (all text), one for all, or one each."""

    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]

    @classmethod
    def read(cls, cursor: Cursor) -> Values:
        return cls(cursor.numbers(2), cursor.values())

    def shown(self, oids: tuple[int, ...] = ()) -> list[Json]:
        """Text as it is, binary by its type, what is neither in base 64."""
        return [
            show(value, self._binary(i), oids[i] if i < len(oids) else 0)
            for i, value in enumerate(self.values)
        ]

    def _binary(self, i: int) -> bool:
        if len(self.formats) == 1:
            return self.formats[0] == 1
        return i < len(self.formats) and self.formats[i] == 1


def words(data: bytes) -> str:
    """Text for people: what is not UTF-8 as ``\\xNN``, as in PostgreSQL's log."""
    return data.decode("utf-8", "backslashreplace")


def show(value: bytes | None, binary: bool, oid: int) -> Json:
    """One parameter; *oid* is its type, 0 if nobody said."""
    if value is None:
        return None
    if not binary:
        return text(value)
    try:
        return _by_type(value, oid)
    except (ValueError, OverflowError, struct.error):
        return coded(value)


def _by_type(value: bytes, oid: int) -> Json:
    """:raises ValueError, OverflowError, struct.error: it is not of that type"""
    if oid in _INTEGERS:
        if len(value) != _INTEGERS[oid]:
            raise ValueError
        return int.from_bytes(value, signed=oid != OID)
    if oid in _FLOATS:
        number: float = struct.unpack(_FLOATS[oid], value)[0]
        return number if abs(number) < float("inf") else str(number)  # JSON has no nan
    if oid in _TEXTS:
        return text(value)
    if oid == JSONB and value[:1] == b"\1":
        return text(value[1:])
    if oid == BOOL and value in (b"\0", b"\1"):
        return value == b"\1"
    if oid == BYTEA:
        return coded(value)
    if oid == UUID_TYPE:
        return str(UUID(bytes=value))
    return _moment(value, oid)


def _moment(value: bytes, oid: int) -> str:
    if oid == DATE:
        return str(date(2000, 1, 1) + timedelta(days=struct.unpack(">i", value)[0]))
    if oid not in (TIMESTAMP, TIMESTAMPTZ):
        raise ValueError
    since = timedelta(microseconds=struct.unpack(">q", value)[0])
    return str(datetime(2000, 1, 1, tzinfo=UTC if oid == TIMESTAMPTZ else None) + since)


def error(body: bytes) -> tuple[str, str]:
    """SQLSTATE and message of an ErrorResponse."""
    fields = {part[:1]: words(part[1:]) for part in body.split(b"\0") if part}
    return fields.get(b"C", ""), fields.get(b"M", "")


def rows(tag: str) -> int | None:
    """``INSERT 0 5`` and ``SELECT 5`` are five rows, ``BEGIN`` says nothing of rows."""
    last = tag.rpartition(" ")[2]
    plausible = (
        last.isascii() and last.isdigit() and len(last) <= 20
    )  # PostgreSQL counts in 64 bits
    return int(last) if plausible else None


# pg_type.dat
BOOL, BYTEA, OID, JSONB, UUID_TYPE = 16, 17, 26, 3802, 2950
DATE, TIMESTAMP, TIMESTAMPTZ = 1082, 1114, 1184
_INTEGERS = {21: 2, 23: 4, 20: 8, OID: 4}
_FLOATS = {700: ">f", 701: ">d"}
_TEXTS = frozenset({18, 19, 25, 114, 142, 705, 1042, 1043})
