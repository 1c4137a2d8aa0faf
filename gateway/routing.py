"""Where a session goes: targets in the order in which they are to be tried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

from attrs import frozen

from gateway.model import Address, Target, TargetKind

HOLD_OFF = 10.0  # seconds for which a failure counts: restarts take that long, people wait less

ServerKind = Literal["primary", "standby"]


@frozen
class Seen:
    """What is known of a target. ``failed_at`` is on the caller's clock; None after a
    success. ``latency``: seconds to connect. ``kind`` None: nobody has asked it yet."""

    kind: ServerKind | None = None
    failed_at: float | None = None
    open_sessions: int = 0
    latency: float | None = None


@frozen
class Candidate:
    """A target in its place, and what put it there."""

    target: Target
    why: str


_UNSEEN = Seen()
_FITS = {
    TargetKind.PRIMARY: frozenset({"primary", None}),
    TargetKind.STANDBY: frozenset({"standby", None}),
}


def order(
    targets: Sequence[Target],
    kind: TargetKind,
    seen: Mapping[Address, Seen],
    now: float,
    seed: int,
) -> tuple[Candidate, ...]:
    """All *targets*, the best first.

    Those known to be of the wrong kind are last rather than gone: they may have changed
    since. Then those that failed within :data:`HOLD_OFF` come after healthy ones; then the
    preferred kind; then the fewest open sessions; *seed* decides what is left.
    """
    random = Random(seed)  # noqa: S311 -- spreads load, guards nothing

    def place(target: Target) -> tuple[bool, bool, bool, int, float]:
        known = seen.get(target.address, _UNSEEN)
        return (
            _wrong(kind, known),
            _failed(known, now),
            _lesser(kind, known),
            known.open_sessions,
            random.random(),
        )

    return tuple(
        Candidate(target, _why(kind, seen.get(target.address, _UNSEEN), now))
        for target in sorted(targets, key=place)
    )


def _wrong(kind: TargetKind, known: Seen) -> bool:
    return kind in _FITS and known.kind not in _FITS[kind]


def _failed(known: Seen, now: float) -> bool:
    return known.failed_at is not None and now - known.failed_at < HOLD_OFF


def _lesser(kind: TargetKind, known: Seen) -> bool:
    """A resource has one primary, so beside a known one the unknown are likely standbys;
    of standbys it has many, and an unknown one may be as good as the rest."""
    if kind is TargetKind.PRIMARY:
        return known.kind is None
    return kind is TargetKind.PREFER_STANDBY and known.kind == "primary"


def _why(kind: TargetKind, known: Seen, now: float) -> str:
    said: list[str] = [known.kind or "kind not known yet"]
    if _wrong(kind, known):
        said.append(f"not the {kind.value} that is wanted, unless that has changed")
    if known.failed_at is not None and _failed(known, now):
        said.append(f"failed {max(0.0, now - known.failed_at):.0f} s ago")
    if kind is TargetKind.PREFER_STANDBY and known.kind is not None:
        said.append("preferred" if known.kind == "standby" else "only if no standby is left")
    said.append(f"{known.open_sessions} open sessions")
    if known.latency is not None:
        said.append(f"connects in {known.latency * 1000:.1f} ms")
    return ", ".join(said)
