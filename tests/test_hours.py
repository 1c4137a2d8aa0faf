"""Hours: clocks on the wall, midnight, and the two odd nights of the year."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway import hours
from gateway.model import Hours

WORKDAYS = frozenset(range(5))
OFFICE = Hours(WORKDAYS, 8 * 60, 18 * 60, "Europe/Berlin")
NIGHT = Hours(frozenset({4}), 22 * 60, 6 * 60, "Europe/Berlin")  # Friday night
SUNDAY_2_TO_3 = Hours(frozenset({6}), 120, 180, "Europe/Berlin")


@pytest.mark.parametrize(
    ("given", "utc", "holds"),
    [
        (OFFICE, "2026-01-05T07:00", True),  # Monday, 08:00 in Berlin: the start is included
        (OFFICE, "2026-01-05T06:59", False),
        (OFFICE, "2026-01-05T16:59", True),
        (OFFICE, "2026-01-05T17:00", False),  # the end is not
        (OFFICE, "2026-07-06T06:00", True),  # 08:00 in summer
        (OFFICE, "2026-01-04T10:00", False),  # Sunday
        (NIGHT, "2026-01-09T21:00", True),  # Friday 22:00
        (NIGHT, "2026-01-10T04:59", True),  # Saturday 05:59 still belongs to Friday
        (NIGHT, "2026-01-10T05:00", False),
        (NIGHT, "2026-01-09T04:00", False),  # Friday 05:00 belongs to Thursday
        (NIGHT, "2026-01-10T21:30", False),  # Saturday night
        (Hours(frozenset({6}), 1320, 360, "UTC"), "2026-01-05T01:00", True),  # Sunday into Monday
        (Hours(frozenset({0}), 0, 1440, "UTC"), "2026-01-05T23:59", True),  # the whole day
        (Hours(frozenset({0}), 540, 540, "UTC"), "2026-01-06T08:59", True),  # 24 hours from 09:00
        (Hours(frozenset({0}), 540, 540, "UTC"), "2026-01-06T09:00", False),
        (SUNDAY_2_TO_3, "2026-03-29T01:00", False),  # skipped: it is 03:00 at once
        (SUNDAY_2_TO_3, "2026-10-25T00:30", True),  # repeated: holds twice
        (SUNDAY_2_TO_3, "2026-10-25T01:30", True),
        (Hours(WORKDAYS, 0, 1440, "Mars/Olympus"), "2026-01-05T10:00", False),
        (Hours(WORKDAYS, 0, 1440, "../etc/passwd"), "2026-01-05T10:00", False),
        (Hours(frozenset(), 0, 1440, "UTC"), "2026-01-05T10:00", False),
    ],
)
def test_contain(given: Hours, utc: str, holds: bool) -> None:
    assert hours.contain(given, datetime.fromisoformat(utc).replace(tzinfo=UTC)) is holds


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (OFFICE, "Mon-Fri 08:00-18:00 Europe/Berlin"),
        (NIGHT, "Fri 22:00-06:00 Europe/Berlin"),
        (Hours(frozenset({0, 1, 3, 5, 6}), 0, 1440, "UTC"), "Mon,Tue,Thu,Sat,Sun 00:00-24:00 UTC"),
    ],
)
def test_text(given: Hours, written: str) -> None:
    assert hours.text(given) == written
