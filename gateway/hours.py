"""When a binding holds: hours of the week on the clocks of one time zone."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.model import Hours

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@lru_cache(maxsize=64)  # a company has few zones; each costs a file to read
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return None


def contain(hours: Hours, now: datetime) -> bool:
    """Whether *now* (aware) falls into *hours*; never, where the zone is unknown.

    What counts is the clock on the wall: an hour that daylight saving repeats holds
    twice, one that it skips does not come.
    """
    zone = _zone(hours.zone)
    if zone is None:
        return False
    local = now.astimezone(zone)
    minute = local.hour * 60 + local.minute
    today, yesterday = local.weekday(), (local.weekday() - 1) % 7
    if hours.start < hours.end:
        return today in hours.days and hours.start <= minute < hours.end
    late = today in hours.days and minute >= hours.start
    early = yesterday in hours.days and minute < hours.end
    return late or early


def parse(written: str) -> Hours:
    """What :func:`text` writes; days in any case, one, a list, or ranges that may wrap.

    :raises ValueError: in words fit to show to whoever wrote it
    """
    match written.split():
        case (days, span, zone):
            pass
        case _:
            raise ValueError("should be like: Mon-Fri 08:00-18:00 Europe/Berlin")
    if _zone(zone) is None:
        raise ValueError(f"there is no time zone {zone!r}")
    found = re.fullmatch(r"(\d\d:\d\d)-(\d\d:\d\d)", span)
    if found is None:
        raise ValueError(f"{span!r} should be like 08:00-18:00")
    start, end = map(_minute, found.groups())
    if start == 1440:
        raise ValueError("a day begins at 00:00")
    return Hours(_weekdays(days), start, end, zone)


def _minute(clock: str) -> int:
    hour, minute = int(clock[:2]), int(clock[3:])
    if minute > 59 or hour * 60 + minute > 1440:
        raise ValueError(f"{clock} is no time of a day")
    return hour * 60 + minute


def _weekdays(written: str) -> frozenset[int]:
    days: set[int] = set()
    for part in written.split(","):
        first, dash, last = part.partition("-")
        start, end = _weekday(first), _weekday(last if dash else first)
        days |= {day % 7 for day in range(start, end + 1 if start <= end else end + 8)}
    return frozenset(days)


def _weekday(name: str) -> int:
    try:
        return DAYS.index(name.capitalize())
    except ValueError:
        raise ValueError(f"{name!r} is none of {', '.join(DAYS)}") from None


def text(hours: Hours) -> str:
    """The form in which objects files write them: ``Mon-Fri 08:00-18:00 Europe/Berlin``."""
    return f"{_days(hours.days)} {_clock(hours.start)}-{_clock(hours.end)} {hours.zone}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days(days: frozenset[int]) -> str:
    """Runs of three and more as ``first-last``, all by commas."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(_run([DAYS[day] for day in run]) for run in runs)


def _run(names: list[str]) -> str:
    return f"{names[0]}-{names[-1]}" if len(names) > 2 else ",".join(names)
