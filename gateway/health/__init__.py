"""How the targets are: what was seen of them, what that makes of them, and who looks.

``state`` and ``findings`` are pure; ``sightings`` remembers, for routing, and ``accounts`` which
accounts were refused; ``watch`` looks on its own clock. How one looks at a target is its
protocol's affair: ``pg.probe``, ``ssh.probe``.
"""

from __future__ import annotations

from gateway.health.accounts import RefusedAccounts
from gateway.health.findings import Findings, Looking, Step
from gateway.health.sightings import Row, Sightings, Spot
from gateway.health.watch import Probe, Watch

__all__ = [
    "Findings",
    "Looking",
    "Probe",
    "RefusedAccounts",
    "Row",
    "Sightings",
    "Spot",
    "Step",
    "Watch",
]
