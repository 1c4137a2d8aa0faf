"""From signals to a state, with hysteresis. Pure: the time is passed in.

A dial that failed takes a target out at once, since the next client would pay for it too. A
probe that was refused does so as well; one that was not answered needs a second. Back it comes
after good probes only: one, and each time that it fell again soon after, twice as many. They follow
one another quickly where no probe has failed, so that an innocent target is not missed for long.
"""

from __future__ import annotations

from attrs import evolve, frozen

from gateway.routing import State

FALL = 2  # unanswered probes that make it down: one may be lost, or late on a busy machine
STEADY = 60.0  # seconds after which a fall is the first one again
WORDS = 300  # characters of a reason: an error message of a target may have 30,000
MOST = 8  # good probes that may be demanded: a quarter of a minute at the usual interval


@frozen
class Health:
    """``since``: when ``state`` began, None before the first signal. ``needed``: good probes
    that bring it back, of which there were ``good``. ``risen``: when it came back. ``lost``:
    a probe has confirmed that it is down, so that sessions there have nothing to hope for;
    ``hearsay``: no probe has, and only a session was not to be opened.
    """

    state: State = State.UNKNOWN
    why: str = "not looked at yet"
    since: float | None = None
    failures: int = 0
    good: int = 0
    needed: int = 1
    risen: float | None = None
    lost: bool = False
    hearsay: bool = False

    @property
    def doubtful(self) -> bool:
        """What was heard last goes against what is thought, and probes are to decide soon."""
        return self.hearsay if self.state is State.DOWN else self.failures > 0


def answered(was: Health, warning: str | None, now: float) -> Health:
    """A probe went well. *warning*: what is wrong with the target all the same."""
    if was.state is State.DOWN:
        if was.good + 1 < was.needed:
            why = f"answers again: {was.good + 1} of {was.needed} good probes"
            return evolve(was, good=was.good + 1, failures=0, why=why, lost=False)
        was = evolve(was, risen=now)
    state = State.UP if warning is None else State.DEGRADED
    why = warning or "answers"
    return evolve(_enter(was, state, why, now), failures=0, good=0, lost=False, hearsay=False)


def unanswered(was: Health, why: str, hard: bool, now: float) -> Health:
    """A probe failed. *hard*: the target said so itself, by refusing or hanging up."""
    failures = was.failures + 1
    if was.state is State.DOWN:
        was = evolve(was, failures=failures, good=0, lost=True, hearsay=False)
        return _enter(was, State.DOWN, why, now)
    if hard or failures >= FALL:
        return evolve(_fallen(was, why, now), failures=failures, lost=True)
    return evolve(_enter(was, State.DEGRADED, why, now), failures=failures)


def failed(was: Health, why: str, now: float) -> Health:
    """A session could not be opened there."""
    if was.state is State.DOWN:
        return evolve(was, good=0)
    return evolve(_fallen(was, why, now), hearsay=True)


def strained(was: Health, why: str, now: float) -> Health:
    """It works, and would not have this session."""
    return was if was.state is State.DOWN else _enter(was, State.DEGRADED, why, now)


def worked(was: Health, now: float) -> Health:
    """A session was opened there. Who is down comes back by probes alone."""
    return _enter(was, State.UP, "answers", now) if was.state is State.UNKNOWN else was


def _fallen(was: Health, why: str, now: float) -> Health:
    again = was.risen is not None and now - was.risen < STEADY
    needed = min(MOST, was.needed * 2) if again else 1
    return evolve(_enter(was, State.DOWN, why, now), needed=needed, good=0)


def _enter(was: Health, state: State, why: str, now: float) -> Health:
    since = was.since if state is was.state else now
    return evolve(was, state=state, why=why[:WORDS], since=since)
