"""Where a session goes: targets in the order in which they are to be tried. Pure.

Who may serve comes first, then who is least loaded for its weight, then who answers fastest.
While sessions only come, the numbers of any two equal targets differ by one at most.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from random import Random
from typing import Literal

from attrs import frozen

from gateway.model import Address, Target, TargetKind

RAMP = 10.0  # seconds until a target that came back has its full share: caches are cold
LEAST = 0.1  # of its share that it has at once
FAR = 0.5  # of its weight that a target in another zone has
FORGET = 10.0  # seconds in which a slow answer weighs a third: then it is worth another try
NOISE = 0.002  # seconds: what is faster than this is equally fast

ServerKind = Literal["primary", "standby"]


class State(enum.Enum):
    """How a target is: the words are the ones that people read."""

    UNKNOWN = "unknown"
    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINING = "draining"


@frozen
class Seen:
    """What is known of a target; times are on the caller's clock.

    ``kind`` None: nobody has asked it yet. ``open_sessions``: also those that are being
    opened. ``latency``: seconds to connect and log in, as they were at ``measured``.
    ``risen``: when it came back. ``lag_seconds`` None: not known, or a primary.
    ``deposed``: why it is not to be used, though it says that it is a primary.
    """

    kind: ServerKind | None = None
    state: State = State.UNKNOWN
    why: str = ""
    since: float | None = None
    open_sessions: int = 0
    latency: float | None = None
    measured: float = 0.0
    risen: float | None = None
    lag_seconds: float | None = None
    deposed: str | None = None


@frozen
class Wanted:
    """What a session needs, and where it is: ``zone`` is the gateway's own, None for none."""

    kind: TargetKind = TargetKind.ANY
    max_lag_seconds: float | None = None
    zone: str | None = None


@frozen
class Candidate:
    """A target in its place, and what put it there. ``closed``: why it is not to be tried."""

    target: Target
    why: str
    closed: str | None = None


_UNSEEN = Seen()
_FITS = {
    TargetKind.PRIMARY: frozenset({"primary", None}),
    TargetKind.STANDBY: frozenset({"standby", None}),
}

Place = tuple[bool, bool, bool, bool, float, int]
"""What is compared: closed, misfit, degraded, of the lesser kind, load, slowness."""


def order(
    targets: Iterable[Target],
    wanted: Wanted,
    seen: Mapping[Address, Seen],
    now: float,
    seed: int,
) -> tuple[Candidate, ...]:
    """All *targets*, the best first; those that are not to be tried are last, and closed.

    Those known to be of the wrong kind, or too far behind, come after all that fit: they may
    have changed since. Among equals *seed* decides, with the power of two choices.
    """
    places = {target: _place(target, wanted, _known(target, seen), now) for target in targets}
    ranked = sorted(places, key=lambda target: (places[target], target.address))
    random = Random(seed)  # noqa: S311 -- spreads load, guards nothing
    return tuple(
        _candidate(target, wanted, _known(target, seen), now)
        for _, equals in groupby(ranked, key=places.__getitem__)
        for target in _drawn(list(equals), seen, random, now)
    )


def share(target: Target, known: Seen, zone: str | None, now: float) -> float:
    """Its weight, as far as it counts now and from here."""
    far = zone is not None and target.zone is not None and target.zone != zone
    risen = RAMP if known.risen is None else now - known.risen
    return target.weight * (FAR if far else 1.0) * min(1.0, max(LEAST, risen / RAMP))


def slowness(known: Seen, now: float) -> float:
    """Seconds to connect and log in; the older the measurement, the less it says."""
    if known.latency is None:
        return 0.0
    return known.latency * math.exp(-max(0.0, now - known.measured) / FORGET)


def peak(known: Seen, latency: float, now: float) -> float:
    """The smoothed latency after one more measurement: up at once, down slowly."""
    before = slowness(known, now)
    if known.latency is None or latency >= before:
        return latency
    new = 1.0 - math.exp(-max(0.0, now - known.measured) / FORGET)
    return before + (latency - before) * max(new, 0.1)


def _known(target: Target, seen: Mapping[Address, Seen]) -> Seen:
    return seen.get(target.address, _UNSEEN)


def _place(target: Target, wanted: Wanted, known: Seen, now: float) -> Place:
    return (
        _closed(target, known) is not None,
        _misfit(wanted, known) is not None,
        known.state is State.DEGRADED,
        _lesser(wanted.kind, known),
        (known.open_sessions + 1) / share(target, known, wanted.zone, now),
        round(math.log2(max(slowness(known, now), NOISE))),
    )


def _drawn(
    equals: list[Target], seen: Mapping[Address, Seen], random: Random, now: float
) -> Sequence[Target]:
    """In a random order, but of the first two the faster one leads."""
    random.shuffle(equals)
    equals[:2] = sorted(equals[:2], key=lambda target: slowness(_known(target, seen), now))
    return equals


def _closed(target: Target, known: Seen) -> str | None:
    if target.draining or known.state is State.DRAINING:
        return "is being drained"
    if known.state is State.DOWN:
        return f"is down: {known.why}"
    return known.deposed


def _misfit(wanted: Wanted, known: Seen) -> str | None:
    if wanted.kind in _FITS and known.kind not in _FITS[wanted.kind]:
        return f"not the {wanted.kind.value} that is wanted, unless that has changed"
    most = wanted.max_lag_seconds
    if None not in (most, known.lag_seconds) and known.kind == "standby":
        assert most is not None
        assert known.lag_seconds is not None
        if not known.lag_seconds <= most:
            return f"may lag {most:g} s at most, unless that has changed"
    return None


def _lesser(kind: TargetKind, known: Seen) -> bool:
    """A resource has one primary, so beside a known one the unknown are likely standbys;
    of standbys it has many, and an unknown one may be as good as the rest."""
    if kind is TargetKind.PRIMARY:
        return known.kind is None
    return kind is TargetKind.PREFER_STANDBY and known.kind == "primary"


def _candidate(target: Target, wanted: Wanted, known: Seen, now: float) -> Candidate:
    closed = _closed(target, known)
    said = (closed, _misfit(wanted, known), *_said(target, wanted, known, now))
    words = ", ".join(part for part in (known.kind or "kind not known yet", *said) if part)
    return Candidate(target, words, closed)


def _said(target: Target, wanted: Wanted, known: Seen, now: float) -> Iterator[str]:
    if known.state is State.DEGRADED and known.deposed is None:  # which says the same
        yield f"degraded: {known.why}"
    if wanted.kind is TargetKind.PREFER_STANDBY and known.kind is not None:
        yield "preferred" if known.kind == "standby" else "only if no standby is left"
    yield f"{known.open_sessions} open session{'' if known.open_sessions == 1 else 's'}"
    if target.weight != 1:
        yield f"weight {target.weight:g}"
    if target.zone is not None and wanted.zone is not None:
        yield "in this zone" if target.zone == wanted.zone else f"in zone {target.zone}"
    if known.risen is not None and now - known.risen < RAMP:
        yield f"back for {max(0.0, now - known.risen):.0f} s, so with a smaller share"
    if known.lag_seconds is not None:
        yield f"lags {known.lag_seconds:.1f} s"
    if known.latency is not None:
        yield f"connects in {known.latency * 1000:.1f} ms"
