"""The order of targets: a table, and that nothing is ever lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Address, Target, TargetKind
from gateway.routing import HOLD_OFF, Seen, order

NOW = 1000.0
FRESH = NOW - 1
A, B, C = (Target(Address(name, 5432)) for name in "abc")
PRIMARY, STANDBY = Seen("primary"), Seen("standby")


def names(seen: dict[Target, Seen], kind: TargetKind, seed: int = 0) -> str:
    by_address = {target.address: known for target, known in seen.items()}
    return "".join(c.target.address.host for c in order([A, B, C], kind, by_address, NOW, seed))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("kind", "a", "b", "c", "expected"),
    [
        (TargetKind.PRIMARY, STANDBY, Seen(), PRIMARY, "cba"),
        (TargetKind.PRIMARY, Seen("primary", FRESH), STANDBY, Seen(), "cab"),
        (TargetKind.STANDBY, PRIMARY, Seen("standby", open_sessions=1), Seen(), "cba"),
        (TargetKind.STANDBY, PRIMARY, Seen("standby", FRESH), STANDBY, "cba"),
        (TargetKind.PREFER_STANDBY, PRIMARY, Seen("standby", open_sessions=9), STANDBY, "cba"),
        (TargetKind.PREFER_STANDBY, PRIMARY, Seen("standby", FRESH), STANDBY, "cab"),
        (TargetKind.ANY, Seen("primary", open_sessions=2), STANDBY, Seen(open_sessions=1), "bca"),
        (TargetKind.ANY, Seen(failed_at=FRESH), Seen(failed_at=NOW - HOLD_OFF, open_sessions=1),
         STANDBY, "cba"),
    ],
)  # fmt: skip
def test_order(kind: TargetKind, a: Seen, b: Seen, c: Seen, expected: str, seed: int) -> None:
    assert names({A: a, B: b, C: c}, kind, seed) == expected


def test_equals_are_spread_by_the_seed() -> None:
    firsts = Counter(names({}, TargetKind.ANY, seed)[0] for seed in range(300))
    assert min(firsts[name] for name in "abc") > 50
    assert names({}, TargetKind.ANY, 7) == names({}, TargetKind.ANY, 7)


def test_why() -> None:
    seen = {
        A.address: Seen("standby", open_sessions=2, latency=0.0015),
        B.address: Seen("primary", failed_at=NOW - 3),
    }
    whys = [c.why for c in order([A, B, C], TargetKind.PRIMARY, seen, NOW, 0)]
    assert whys == [
        "kind not known yet, 0 open sessions",
        "primary, failed 3 s ago, 0 open sessions",
        "standby, not the primary that is wanted, unless that has changed, 2 open sessions, "
        "connects in 1.5 ms",
    ]


SEEN = st.builds(
    Seen,
    kind=st.sampled_from([None, "primary", "standby"]),
    failed_at=st.none() | st.floats(0, NOW),
    open_sessions=st.integers(0, 3),
)


@given(
    st.dictionaries(st.sampled_from([A, B, C]), SEEN), st.sampled_from(TargetKind), st.integers()
)
def test_every_target_is_tried_once(seen: dict[Target, Seen], kind: TargetKind, seed: int) -> None:
    assert sorted(names(seen, kind, seed)) == ["a", "b", "c"]
