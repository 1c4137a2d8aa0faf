"""The order of targets: a table, and what holds for all of them."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Address, Target, TargetKind
from gateway.routing import FORGET, RAMP, Candidate, Seen, State, Wanted, order, peak, share

NOW = 1000.0
A, B, C = (Target(Address(name, 5432)) for name in "abc")
PRIMARY, STANDBY = Seen("primary"), Seen("standby")
UP, ODD, DOWN, DRAINING = State.UP, State.DEGRADED, State.DOWN, State.DRAINING


def ordered(
    seen: dict[Target, Seen], wanted: Wanted, seed: int = 0, targets=(A, B, C)
) -> tuple[Candidate, ...]:
    by_address = {target.address: known for target, known in seen.items()}
    return order(targets, wanted, by_address, NOW, seed)


def names(seen: dict[Target, Seen], kind: TargetKind, seed: int = 0, **wanted) -> str:
    """Those that are to be tried; others in brackets."""
    return "".join(
        f"({c.target.address.host})" if c.closed else c.target.address.host
        for c in ordered(seen, Wanted(kind, **wanted), seed)
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("kind", "a", "b", "c", "expected"),
    [
        (TargetKind.PRIMARY, STANDBY, Seen(), PRIMARY, "cba"),
        (TargetKind.PRIMARY, Seen("primary", ODD), STANDBY, Seen(), "cab"),
        (TargetKind.PRIMARY, Seen("primary", DOWN), STANDBY, Seen(), "cb(a)"),
        (TargetKind.PRIMARY, Seen("primary", deposed="old"), Seen("primary", ODD), STANDBY,
         "bc(a)"),
        (TargetKind.ANY, Seen("primary", deposed="old"), Seen(open_sessions=9), Seen(state=ODD),
         "bc(a)"),
        (TargetKind.STANDBY, PRIMARY, Seen("standby", open_sessions=1), Seen(), "cba"),
        (TargetKind.STANDBY, PRIMARY, Seen("standby", ODD), STANDBY, "cba"),
        (TargetKind.STANDBY, PRIMARY, Seen("standby", DOWN), Seen("standby", DRAINING), "a(b)(c)"),
        (TargetKind.PREFER_STANDBY, PRIMARY, Seen("standby", open_sessions=9), STANDBY, "cba"),
        (TargetKind.PREFER_STANDBY, PRIMARY, Seen("standby", ODD), STANDBY, "cab"),
        (TargetKind.ANY, Seen("primary", open_sessions=2), STANDBY, Seen(open_sessions=1), "bca"),
        (TargetKind.ANY, Seen(state=ODD), Seen(state=UP, open_sessions=9), STANDBY, "cba"),
        (TargetKind.ANY, Seen(latency=0.9, measured=NOW), Seen(latency=0.02, measured=NOW),
         Seen(latency=0.1, measured=NOW), "bca"),
        (TargetKind.ANY, Seen(latency=0.9, measured=NOW), Seen(open_sessions=1), Seen(), "cab"),
        (TargetKind.ANY, Seen(latency=0.9, measured=NOW - 10 * FORGET), Seen(open_sessions=1),
         Seen(latency=0.1, measured=NOW), "acb"),
        (TargetKind.ANY, Seen(risen=NOW), Seen(open_sessions=8), Seen(open_sessions=10), "bac"),
        (TargetKind.ANY, Seen(risen=NOW - RAMP), Seen(open_sessions=8), Seen(open_sessions=10),
         "abc"),
        (TargetKind.ANY, *[Seen(state=DOWN)] * 3, "(a)(b)(c)"),
    ],
)  # fmt: skip
def test_order(kind: TargetKind, a: Seen, b: Seen, c: Seen, expected: str, seed: int) -> None:
    told = names({A: a, B: b, C: c}, kind, seed)
    if expected == "(a)(b)(c)":
        assert told.count("(") == 3
    else:
        assert told in (expected, expected.replace("(b)(c)", "(c)(b)"))


@pytest.mark.parametrize(
    ("lag", "most", "expected"),
    [(None, 5, "ab"), (4.0, 5, "ab"), (5.0, 5, "ab"), (5.1, 5, "ba"), (float("nan"), 5, "ba"),
     (900.0, None, "ab"), (0.1, 0, "ba")],
)  # fmt: skip
def test_who_lags_too_far_behind_comes_after_the_rest(
    lag: float | None, most: float | None, expected: str
) -> None:
    seen = {A: Seen("standby", lag_seconds=lag), B: Seen("standby", open_sessions=1), C: PRIMARY}
    assert names(seen, TargetKind.STANDBY, max_lag_seconds=most)[:2] == expected


def test_one_that_is_drained_is_not_tried() -> None:
    drained = evolve(A, draining=True)
    told = ordered({}, Wanted(), targets=(drained, B))
    assert [c.closed for c in told] == [None, "is being drained"]


def test_weights() -> None:
    heavy = evolve(A, weight=3.0)
    placed = place_all((heavy, B), 400)
    assert placed == {heavy.address: 300, B.address: 100}


def test_the_own_zone_is_preferred_and_has_its_limits() -> None:
    near, far = evolve(A, zone="here"), evolve(B, zone="there")
    placed = place_all((near, far, C), 500, zone="here")
    assert placed == {near.address: 200, far.address: 100, C.address: 200}
    assert ordered({}, Wanted(zone="there"), targets=(near, far))[0].target == far


def place_all(targets: tuple[Target, ...], sessions: int, **wanted) -> Counter[Address]:
    """So many sessions come, and none goes."""
    placed: Counter[Address] = Counter()
    for seed in range(sessions):
        seen = {t.address: Seen(state=UP, open_sessions=placed[t.address]) for t in targets}
        first, *_ = order(targets, Wanted(**wanted), seen, NOW, seed)
        placed[first.target.address] += 1
    return placed


def test_equals_are_spread_by_the_seed() -> None:
    firsts = Counter(names({}, TargetKind.ANY, seed)[0] for seed in range(300))
    assert min(firsts[name] for name in "abc") > 50
    assert names({}, TargetKind.ANY, 7) == names({}, TargetKind.ANY, 7)


def test_of_two_that_are_drawn_the_faster_one_leads() -> None:
    """Differences that are too small to order all of them by."""
    seen = {
        target: Seen(latency=latency, measured=NOW)
        for target, latency in ((A, 0.0100), (B, 0.0101), (C, 0.0102))
    }
    firsts = Counter(names(seen, TargetKind.ANY, seed)[0] for seed in range(600))
    assert firsts["a"] > firsts["b"] > 50
    assert not firsts["c"]  # the slower one of whichever two


def test_a_slow_answer_counts_at_once_and_is_forgotten_slowly() -> None:
    known = Seen(latency=0.01, measured=NOW)
    assert peak(known, 2.0, NOW + 1) == 2.0
    slow = Seen(latency=2.0, measured=NOW)
    assert 1.0 < peak(slow, 0.01, NOW + 1) < 2.0
    assert peak(slow, 0.01, NOW + 10 * FORGET) == pytest.approx(0.01, rel=0.1)
    assert peak(Seen(), 0.5, NOW) == 0.5


def test_why() -> None:
    seen = {
        A: Seen("standby", open_sessions=2, latency=0.0015, lag_seconds=0.25),
        B: Seen("primary", DOWN, "Connection refused"),
        C: Seen("primary", ODD, "out of connections", risen=NOW - 3),
    }
    whys = {c.target.address.host: c.why for c in ordered(seen, Wanted(TargetKind.PRIMARY))}
    assert whys == {
        "a": "standby, not the primary that is wanted, unless that has changed, 2 open sessions, "
        "lags 0.2 s, connects in 1.5 ms",
        "b": "primary, is down: Connection refused, 0 open sessions",
        "c": "primary, degraded: out of connections, 0 open sessions, back for 3 s, so with a "
        "smaller share",
    }
    weighty = evolve(A, weight=2.5, zone="x")
    told = ordered({}, Wanted(zone="y"), targets=(weighty,))
    assert told[0].why == "kind not known yet, 0 open sessions, weight 2.5, in zone x"


TARGETS = st.builds(
    Target,
    st.builds(Address, st.sampled_from("abcdefgh"), st.just(1)),
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    zone=st.sampled_from([None, "x", "y"]),
    draining=st.booleans(),
)
SEEN = st.builds(
    Seen,
    kind=st.sampled_from([None, "primary", "standby"]),
    state=st.sampled_from(State),
    open_sessions=st.integers(0, 3),
    latency=st.none() | st.floats(0, 10),
    measured=st.floats(0, NOW),
    risen=st.none() | st.floats(0, NOW),
    lag_seconds=st.none() | st.floats(0, 100),
    deposed=st.none() | st.just("there is another one"),
)
WANTED = st.builds(
    Wanted, st.sampled_from(TargetKind), st.none() | st.floats(0, 100), st.none() | st.just("x")
)
MANY = st.lists(TARGETS, unique_by=lambda target: target.address)
SEEN_OF_MANY = st.dictionaries(st.builds(Address, st.sampled_from("abcdefgh"), st.just(1)), SEEN)


@given(MANY, SEEN_OF_MANY, WANTED, st.integers(), st.randoms(use_true_random=False))
def test_whatever_is_seen(
    targets: list[Target],
    seen: dict[Address, Seen],
    wanted: Wanted,
    seed: int,
    random: Random,
) -> None:
    told = order(targets, wanted, seen, NOW, seed)
    assert sorted(c.target.address for c in told) == sorted(t.address for t in targets)
    open_ones = [c.closed is None for c in told]
    assert open_ones == sorted(open_ones, reverse=True), "what is closed is last"
    for candidate in told:
        known = seen.get(candidate.target.address, Seen())
        if candidate.target.draining or known.state in (DOWN, DRAINING) or known.deposed:
            assert candidate.closed is not None
    shuffled = list(targets)
    random.shuffle(shuffled)
    assert order(shuffled, wanted, seen, NOW, seed) == told, "how they are listed says nothing"


@given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 2**32))
def test_the_spread_over_equals(count: int, sessions: int, first_seed: int) -> None:
    targets = tuple(Target(Address(f"t{n}", 1)) for n in range(count))
    placed: Counter[Address] = Counter({target.address: 0 for target in targets})
    for seed in range(first_seed, first_seed + sessions):
        seen = {address: Seen(open_sessions=n) for address, n in placed.items()}
        placed[order(targets, Wanted(), seen, NOW, seed)[0].target.address] += 1
        assert max(placed.values()) - min(placed.values()) <= 1


@given(st.floats(0, 2 * RAMP), st.floats(0, 2 * RAMP))
def test_the_share_of_one_that_came_back_grows(one: float, other: float) -> None:
    early, late = sorted((one, other))
    known = Seen(risen=NOW)
    shares = [share(A, known, None, NOW + after) for after in (early, late)]
    assert 0 < shares[0] <= shares[1] <= 1.0
    assert share(A, known, None, NOW + RAMP) == 1.0
