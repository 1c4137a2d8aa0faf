"""Hours: how they are written, clocks on the wall, midnight, the two odd nights of the year."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import hours
from gateway.model import Hours

WORKDAYS = frozenset(range(5))
OFFICE = Hours(WORKDAYS, 8 * 60, 18 * 60, "Europe/Berlin")
NIGHT = Hours(frozenset({4}), 22 * 60, 6 * 60, "Europe/Berlin")  # Friday night
SUNDAY_2_TO_3 = Hours(frozenset({6}), 120, 180, "Europe/Berlin")


@pytest.mark.parametrize(
    ("during", "utc", "holds"),
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
def test_contain(during: Hours, utc: str, holds: bool) -> None:
    assert hours.contain(during, datetime.fromisoformat(utc).replace(tzinfo=UTC)) is holds


@pytest.mark.parametrize(
    ("meant", "written"),
    [
        (OFFICE, "Mon-Fri 08:00-18:00 Europe/Berlin"),
        (NIGHT, "Fri 22:00-06:00 Europe/Berlin"),
        (Hours(frozenset({0, 1, 3, 5, 6}), 0, 1440, "UTC"), "Mon,Tue,Thu,Sat,Sun 00:00-24:00 UTC"),
    ],
)
def test_text(meant: Hours, written: str) -> None:
    assert hours.text(meant) == written
    assert hours.parse(written) == meant


@given(
    st.builds(
        Hours,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 1439),
        st.integers(0, 1440),
        st.sampled_from(["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+12"]),
    )
)
def test_what_is_written_is_what_is_read(meant: Hours) -> None:
    assert hours.parse(hours.text(meant)) == meant


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("Mon", {0}),
        ("mon-FRI", {0, 1, 2, 3, 4}),
        ("Fri-Mon", {4, 5, 6, 0}),
        ("Sun-Sat", set(range(7))),
        ("Mon-Mon", {0}),
        ("Sat,Mon,Sat", {0, 5}),
        ("Sat-Sun,Wed", {2, 5, 6}),
    ],
)
def test_days(written: str, days: set[int]) -> None:
    assert hours.parse(f"{written} 09:00-24:00 UTC") == Hours(frozenset(days), 540, 1440, "UTC")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "should be like"),
        ("Mon-Fri 08:00-18:00", "should be like"),
        ("Mon, Tue 08:00-18:00 UTC", "should be like"),
        ("Mon-Fri 08:00-18:00 Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("Mon-Fri 08:00-18:00 ../../etc/passwd", "no time zone"),
        ("Mon-Fri 08:00-18:00 Europe", "no time zone"),
        ("Mon-Fri 08:00-18:00 a\0b", "no time zone"),
        ("Mon-Fri 8:00-18:00 UTC", "'8:00-18:00' should be like"),
        ("Mon-Fri 08:00 UTC", "'08:00' should be like"),
        ("Mon-Fri 08:00-18:00:00 UTC", "should be like"),
        ("Mon-Fri 08:60-18:00 UTC", "08:60 is no time"),
        ("Mon-Fri 08:00-24:01 UTC", "24:01 is no time"),
        ("Mon-Fri 24:00-24:00 UTC", "begins at 00:00"),
        ("Monday 08:00-18:00 UTC", "'Monday' is none of"),
        ("Mon- 08:00-18:00 UTC", "'' is none of"),
        ("Mon-Tue-Wed 08:00-18:00 UTC", "'Tue-Wed' is none of"),
        (",Mon 08:00-18:00 UTC", "'' is none of"),
    ],
)
def test_what_is_not_understood(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        hours.parse(written)


@given(st.text() | st.text("MonTueFri,- 0123456789:UTC/\0"))
def test_whatever_is_written(written: str) -> None:
    try:
        meant = hours.parse(written)
    except ValueError:
        return
    assert hours.parse(hours.text(meant)) == meant
