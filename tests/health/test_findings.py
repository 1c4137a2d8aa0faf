"""What all looks at a resource's targets say together."""

from __future__ import annotations

from gateway.health.findings import Findings, deposed, lag_bytes, warnings
from gateway.model import Address

A, B, C = (Address(name, 5432) for name in "abc")


def primary(timeline: int | None, system: str | None = "7", position: int | None = None):
    return Findings(kind="primary", timeline=timeline, system=system, position=position)


def standby(position: int | None = None, system: str | None = "7") -> Findings:
    return Findings(kind="standby", timeline=1, system=system, position=position)


def test_the_older_of_two_primaries_is_deposed() -> None:
    looks = {A: primary(1), B: primary(2), C: standby()}
    words = "split brain: a primary on timeline 1, and there is one on timeline 2"
    assert deposed(looks) == warnings(looks) == {A: words}
    assert deposed({A: primary(10), B: primary(9)}).keys() == {B}


def test_nobody_is_deposed_by_what_is_not_known_to_be_a_rival() -> None:
    for looks in (
        {A: primary(1)},
        {A: primary(1), B: standby()},
        {A: primary(1), B: primary(None)},
        {A: primary(None), B: primary(2)},
        {A: primary(1, None), B: primary(2, None)},
        {A: primary(1, "7"), B: primary(2, "8")},
    ):
        assert deposed(looks) == {}


def test_two_primaries_on_one_timeline_are_told_of_and_neither_is_refused() -> None:
    looks = {A: primary(3), B: primary(3)}
    assert deposed(looks) == {}
    assert set(warnings(looks).values()) == {"split brain: two primaries on timeline 3"}
    assert warnings(looks).keys() == {A, B}


def test_other_data() -> None:
    looks = {A: standby(system="8"), B: primary(1), C: standby()}
    assert warnings(looks) == {A: "holds other data: its system identifier is 8, not 7"}
    assert warnings({A: primary(1, "7"), B: primary(1, "8")}).keys() == {B}  # the first is right
    assert warnings({A: primary(1, "7"), B: standby(system=None)}) == {}


def test_who_stands_apart_is_counted_by_nobody() -> None:
    assert deposed({A: primary(1), B: primary(2)}, {B}) == {}
    assert warnings({A: primary(3), B: primary(3)}, {B}).keys() == {B}  # of it, it is still told
    looks = {A: standby(system="8"), B: primary(1), C: standby(system="8")}
    assert warnings(looks, {A, C}).keys() == {A, C}
    assert warnings(looks).keys() == {B}


def test_lag_in_bytes() -> None:
    looks = {A: primary(1, position=500), B: standby(420), C: standby(501)}
    assert [lag_bytes(each, looks) for each in (A, B, C)] == [None, 80, 0]
    assert lag_bytes(B, {B: standby(1)}) is None
    assert lag_bytes(B, {A: primary(1, "8", 500), B: standby(1)}) is None
    assert lag_bytes(B, {A: primary(1, position=500), B: standby()}) is None
    assert lag_bytes(B, {}) is None
