"""Accounts that a target has refused: not tried again and again, which locks them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import frozen

from gateway.contracts import Clock
from gateway.health.sightings import Spot
from gateway.health.state import WORDS
from gateway.model import Account, Address, Target
from gateway.routing import Candidate

FIRST = 5.0  # seconds until the second try: an administrator mends a password in minutes
LONGEST = 300.0  # seconds between tries after that; whoever mends it here is heard at once
MOST = 10_000  # remembered: more than a company has; the oldest are forgotten first

Key = tuple[Spot, Account]
"""With its secret: an account that was mended is another one."""


@frozen
class _Refusal:
    why: str
    at: float
    wait: float


class RefusedAccounts:
    """:param told: of each refusal, for an administrator"""

    def __init__(self, clock: Clock, told: Callable[[Spot, str, str], None]) -> None:
        self._clock = clock
        self._told = told
        self._refusals: dict[Key, _Refusal] = {}

    def barred(self, spot: Spot, account: Account) -> str | None:
        """Why it is not to be tried now; None if it may be."""
        refusal = self._refusals.get((spot, account))
        if refusal is None:
            return None
        left = refusal.at + refusal.wait - self._clock()
        if left <= 0:
            return None
        return f"{refusal.why}; {account.name} is not tried again for {left:.0f} s"

    def refused(self, spot: Spot, account: Account, why: str) -> None:
        why, before = why[:WORDS], self._refusals.pop((spot, account), None)
        wait = FIRST if before is None else min(LONGEST, before.wait * 2)
        if len(self._refusals) >= MOST:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[spot, account] = _Refusal(why, self._clock(), wait)
        self._told(spot, account.name, why)

    def sift(
        self,
        resource: str,
        account: Account,
        candidates: Iterable[Candidate],
        passed: dict[Address, str],
    ) -> Iterator[Target]:
        """Those to be tried with *account*. Why others are not goes into *passed*, and what is
        there already has been tried."""
        for candidate in candidates:
            address = candidate.target.address
            why = candidate.closed or self.barred(Spot(resource, address), account)
            if why is not None:
                passed.setdefault(address, why)
            elif address not in passed:
                yield candidate.target

    def worked(self, spot: Spot, account: Account) -> None:
        self._refusals.pop((spot, account), None)
