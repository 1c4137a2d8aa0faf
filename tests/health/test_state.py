"""The states of a target: what takes it out, and what brings it back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.health.state import (
    FALL,
    MOST,
    STEADY,
    Health,
    answered,
    failed,
    strained,
    unanswered,
    worked,
)
from gateway.routing import State

NOW = 1000.0


def after(*signals: str, health: Health | None = None, now: float = NOW) -> Health:
    """What comes of signals, a second apart."""
    told = health or Health()
    for second, signal in enumerate(signals):
        told = SIGNALS[signal](told, now + second)
    return told


SIGNALS = {
    "ok": lambda was, now: answered(was, None, now),
    "odd": lambda was, now: answered(was, "lags", now),
    "silent": lambda was, now: unanswered(was, "no answer in time", False, now),
    "refused": lambda was, now: unanswered(was, "Connection refused", True, now),
    "dial": lambda was, now: failed(was, "no answer in time", now),
    "full": lambda was, now: strained(was, "out of connections", now),
    "session": worked,
}


@pytest.mark.parametrize(
    ("signals", "state", "lost"),
    [
        ([], State.UNKNOWN, False),
        (["ok"], State.UP, False),
        (["session"], State.UP, False),
        (["odd"], State.DEGRADED, False),
        (["odd", "ok"], State.UP, False),
        (["ok", "full"], State.DEGRADED, False),
        (["ok", "full", "session"], State.DEGRADED, False),
        (["ok", "full", "ok"], State.UP, False),
        (["ok", "silent"], State.DEGRADED, False),
        (["ok", "silent", "ok", "silent"], State.DEGRADED, False),
        (["ok", "silent", "silent"], State.DOWN, True),
        (["ok", "refused"], State.DOWN, True),
        (["refused"], State.DOWN, True),
        (["ok", "dial"], State.DOWN, False),  # out at once, and no session has to leave yet
        (["ok", "dial", "silent"], State.DOWN, True),
        (["ok", "dial", "session"], State.DOWN, False),
        (["ok", "dial", "full"], State.DOWN, False),
        (["ok", "dial", "ok"], State.UP, False),
        (["ok", "dial", "odd"], State.DEGRADED, False),
        (["ok", "refused", "ok", "dial", "ok"], State.DOWN, False),  # once more, so twice as many
        (["ok", "refused", "ok", "dial", "ok", "ok"], State.UP, False),
        (["ok", "refused", "ok", "refused", "ok", "refused", "ok"], State.DOWN, False),
    ],
)
def test_states(signals: list[str], state: State, lost: bool) -> None:
    told = after(*signals)
    assert (told.state, told.lost) == (state, lost)


def test_hearsay_is_looked_into_soon() -> None:
    assert after("ok", "dial").doubtful
    assert after("ok", "refused", "ok", "dial", "ok").doubtful
    assert not after("ok", "dial", "silent").doubtful
    assert not after("ok", "refused", "dial").doubtful
    assert not after("ok", "dial", "ok").doubtful
    assert after("ok", "silent").doubtful


def test_since_and_why() -> None:
    up = after("ok", "ok", "ok")
    assert (up.since, up.why, up.risen) == (NOW, "answers", None)
    odd = after("odd", "odd", health=up, now=NOW + 10)
    assert (odd.since, odd.why) == (NOW + 10, "lags")
    down = after("refused", "silent", health=odd, now=NOW + 20)
    assert (down.since, down.why) == (NOW + 20, "no answer in time")
    back = after("ok", health=down, now=NOW + 30)
    assert (back.since, back.why, back.risen) == (NOW + 30, "answers", NOW + 30)


def test_one_that_flaps_has_to_prove_itself_longer_each_time() -> None:
    told, needed = after("ok"), []
    for _ in range(7):
        told = after("refused", health=told)
        needed.append(told.needed)
        while told.state is State.DOWN:
            told = after("ok", health=told)
    assert needed == [1, 2, 4, MOST, MOST, MOST, MOST]
    assert after("refused", health=told, now=NOW + STEADY).needed == 1


@given(st.lists(st.sampled_from(sorted(SIGNALS))))
def test_whatever_comes(signals: list[str]) -> None:
    told = after(*signals)
    assert (told.since is None) == (told.state is State.UNKNOWN)
    assert told.state is State.DOWN or not told.lost
    if signals[-FALL:] == ["silent"] * FALL or signals[-1:] in (["refused"], ["dial"]):
        assert told.state is State.DOWN
    healed = after(*["ok"] * MOST, health=told, now=NOW + 1000)
    assert healed.state is State.UP
