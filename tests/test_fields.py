"""Single values: what is taken, and what is refused without being repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.fields import MAX_NAME, AddressField, Moment, Name, Network, Text
from gateway.model import Address

ADDRESS, NETWORK, NAME, MOMENT, TEXT = map(TypeAdapter, (AddressField, Network, Name, Moment, Text))

GOOD: list[tuple[TypeAdapter[Any], object, object]] = [
    (ADDRESS, "10.0.0.11:5432", Address("10.0.0.11", 5432)),
    (ADDRESS, "db.example.com:5432", Address("db.example.com", 5432)),
    (ADDRESS, "[2001:db8::1]:22", Address("2001:db8::1", 22)),
    (ADDRESS, "[::]:0", Address("::", 0)),
    (NETWORK, "10.0.0.0/8", ip_network("10.0.0.0/8")),
    (NETWORK, "10.1.2.3", ip_network("10.1.2.3/32")),
    (NETWORK, "2001:db8::/32", ip_network("2001:db8::/32")),
    (NAME, "alice", "alice"),
    (NAME, "alice@example.com", "alice@example.com"),
    (NAME, "a+b", "a+b"),
    (NAME, "jürgen", "jürgen"),
    (NAME, "x" * MAX_NAME, "x" * MAX_NAME),
    (MOMENT, datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    (MOMENT, "2027-01-01T00:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
    (MOMENT, "2027-01-01T01:00:00+01:00", datetime(2027, 1, 1, tzinfo=UTC)),
    (TEXT, "Grüße aus /etc", "Grüße aus /etc"),
]
BAD: list[tuple[TypeAdapter[Any], object, str]] = [
    (ADDRESS, 5432, "HOST:PORT"),
    (ADDRESS, None, "HOST:PORT"),
    (ADDRESS, ":5432", "HOST:PORT"),
    (ADDRESS, "db", "HOST:PORT"),
    (ADDRESS, "db:", "HOST:PORT"),
    (ADDRESS, "db:x", "HOST:PORT"),
    (ADDRESS, "db:-1", "HOST:PORT"),
    (ADDRESS, "db:65536", "HOST:PORT"),
    (ADDRESS, "db:" + "9" * 5000, "HOST:PORT"),
    (ADDRESS, "db:٥", "HOST:PORT"),
    (ADDRESS, "2001:db8::1:22", "HOST:PORT"),
    (ADDRESS, "a..b:22", "HOST:PORT"),
    (ADDRESS, "x" * 64 + ":22", "HOST:PORT"),
    (ADDRESS, "a b:22", "host's name"),
    (ADDRESS, "a\0b:22", "host's name"),
    (ADDRESS, "postgres://bob:hunter2@db:5432", "HOST:PORT"),
    (ADDRESS, "bob@db:22", "host's name"),
    (NETWORK, "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
    (NETWORK, 10, "like 10.0.0.0/8"),
    (NETWORK, "fe80::1%eth0", "like 10.0.0.0/8"),
    (NETWORK, "example.com", "does not appear to be"),
    (NETWORK, "10.0.0.0/33", "does not appear to be"),
    (NAME, "", "1 to 128"),
    (NAME, "x" * (MAX_NAME + 1), "1 to 128"),
    (NAME, 5, "valid string"),
    *((NAME, bad, "control characters") for bad in ("a/b", "a#b", "a:b", "a b", "a\tb", "a\0b")),
    *((NAME, bad, "control characters") for bad in ("\x1b[2J", "a\u202eb", "a\u00a0b", "\u200b")),
    (MOMENT, datetime(2027, 1, 1), "time zone"),
    (MOMENT, "2027-01-01T00:00:00", "time zone"),
    (MOMENT, datetime(2027, 1, 1).date(), "like 2027-01-01T00:00:00Z"),
    (MOMENT, "tomorrow", "like 2027-01-01T00:00:00Z"),
    (MOMENT, 1_800_000_000, "like 2027-01-01T00:00:00Z"),
    (TEXT, "", "at least 1 character"),
    (TEXT, "a\nb", "control characters"),
    (TEXT, "a\0b", "control characters"),
]


@pytest.mark.parametrize(("kind", "given", "expected"), GOOD)
def test_what_is_taken(kind: TypeAdapter[Any], given: object, expected: object) -> None:
    assert kind.validate_python(given) == expected


@pytest.mark.parametrize(("kind", "given", "why"), BAD)
def test_what_is_not(kind: TypeAdapter[Any], given: object, why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.validate_python(given)
    (error,) = refused.value.errors()
    assert why in error["msg"]
    assert "hunter2" not in error["msg"]


@given(
    st.datetimes(
        timezones=st.integers(-1439, 1439).map(lambda each: timezone(timedelta(minutes=each)))
    )
)
def test_a_moment_is_written_as_it_is_read(moment: datetime) -> None:
    written = MOMENT.dump_python(moment, mode="json")
    assert MOMENT.validate_python(written) == moment


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_written_as_it_is_read(host: object, port: int) -> None:
    address = Address(str(host), port)
    assert ADDRESS.validate_python(ADDRESS.dump_python(address, mode="json")) == address


@pytest.mark.parametrize("kind", [ADDRESS, NETWORK, NAME, MOMENT, TEXT])
def test_the_schema_calls_them_text(kind: TypeAdapter[Any]) -> None:
    assert kind.json_schema()["type"] == "string"
