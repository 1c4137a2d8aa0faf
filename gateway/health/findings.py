"""What one look at a target brought, and what all looks together say. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from attrs import frozen

from gateway.model import Account, Address, Resource, TargetKind, Terms
from gateway.routing import ServerKind

_TELLING = Terms(TargetKind.PRIMARY)


@frozen
class Looking:
    """For what a probe logs in: a :class:`gateway.contracts.Purpose`. Its terms make a
    PostgreSQL target tell what it is."""

    resource: Resource
    account: Account
    terms: Terms = _TELLING


@frozen
class Step:
    """One thing that was tried. ``ok`` None: it was not, and ``said`` tells why."""

    name: str
    ok: bool | None
    said: str
    seconds: float = 0.0


@frozen
class Findings:
    """``down``: why no session can be opened, None if one can; ``hard``: the target said so by
    refusing or hanging up, rather than by silence. ``strained``: it works, and something is
    wrong all the same. ``position``: bytes of WAL, written by a primary, replayed by a
    standby. ``system``: what a primary and its standbys have in common.
    """

    steps: tuple[Step, ...] = ()
    down: str | None = None
    hard: bool = False
    strained: str | None = None
    kind: ServerKind | None = None
    lag_seconds: float | None = None
    position: int | None = None
    timeline: int | None = None
    system: str | None = None


Looks = Mapping[Address, Findings]
"""The last look at each target of a resource that answered."""


def drained(resource: Resource) -> frozenset[Address]:
    """Targets that an administrator has set apart."""
    return frozenset(target.address for target in resource.targets if target.draining)


def deposed(looks: Looks, apart: Collection[Address] = ()) -> dict[Address, str]:
    """Primaries that another one of the same system has overtaken, and the words for it.

    One that stands *apart*, drained, overtakes nobody: an administrator has chosen.
    """
    said, counted = {}, _counted(looks, apart)
    for address, mine in looks.items():
        newest = max(_rivals(mine, counted), default=None)
        if newest is not None and mine.timeline is not None and newest > mine.timeline:
            said[address] = (
                f"split brain: a primary on timeline {mine.timeline}, "
                f"and there is one on timeline {newest}"
            )
    return said


def warnings(looks: Looks, apart: Collection[Address] = ()) -> dict[Address, str]:
    """What is wrong with targets only beside one another."""
    said, counted = dict(deposed(looks, apart)), _counted(looks, apart)
    usual = _usual(counted or looks)
    for address, mine in looks.items():
        if mine.system is not None and mine.system != usual:
            said[address] = f"holds other data: its system identifier is {mine.system}, not {usual}"
        elif address not in said and mine.timeline in set(_rivals(mine, counted)):
            said[address] = f"split brain: two primaries on timeline {mine.timeline}"
    return said


def lag_bytes(address: Address, looks: Looks) -> int | None:
    """Bytes of WAL that a standby has yet to replay; None if nobody can know."""
    mine = looks.get(address)
    if mine is None or mine.kind != "standby" or mine.position is None:
        return None
    ahead = [
        each.position
        for each in looks.values()
        if each.system == mine.system and each.kind == "primary" and each.position is not None
    ]
    return max(0, max(ahead) - mine.position) if ahead else None


def _counted(looks: Looks, apart: Collection[Address]) -> Looks:
    return {address: look for address, look in looks.items() if address not in apart}


def _rivals(mine: Findings, looks: Looks) -> list[int]:
    """Timelines of the other primaries of the same system."""
    if mine.kind != "primary" or mine.system is None:
        return []
    return [
        each.timeline
        for each in looks.values()
        if each is not mine
        and (each.kind, each.system) == ("primary", mine.system)
        and each.timeline is not None
    ]


def _usual(looks: Looks) -> str | None:
    """The system that most have; of several, the one that was named first."""
    counted = Counter(each.system for each in looks.values() if each.system is not None)
    return counted.most_common(1)[0][0] if counted else None
