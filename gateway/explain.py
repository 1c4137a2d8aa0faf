"""Why a decision came out as it did: words for :func:`gateway.policy.evaluate`. Pure.

The evaluation is the very one that decides; nothing is judged a second time here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen

from gateway import terms
from gateway.model import Ask, Grant, Identity, Snapshot, User, unmapped
from gateway.policy import Considered, Evaluation, evaluate
from gateway.routing import Candidate


@frozen
class Explanation:
    """One question, its answer, and the way there. ``at`` is aware."""

    ask: Ask
    user: User | None
    at: datetime
    evaluation: Evaluation
    targets: tuple[Candidate, ...]

    @property
    def allowed(self) -> bool:
        return isinstance(self.evaluation.outcome, Grant)

    def as_json(self) -> dict[str, Any]:
        """JSON-able; ``targets`` are in the order in which they would be tried."""
        ask = self.ask
        return {
            "user": ask.user,
            "groups": sorted(self.user.groups) if self.user else None,
            "resource": ask.resource,
            "protocol": ask.protocol.value,
            "account": ask.account,
            "source": str(unmapped(ask.source)),
            "at": self.at.isoformat(),
            "allowed": self.allowed,
            **_outcome(self.evaluation),
            "steps": [_step(step) for step in self.evaluation.steps],
            "targets": [{"address": str(c.target.address), "why": c.why} for c in self.targets],
        }


def explain(
    ask: Ask,
    identity: Identity,
    snapshot: Snapshot,
    now: datetime,
    targets: Callable[[Grant], Sequence[Candidate]],
) -> Explanation:
    """*targets* orders a grant's targets, as :func:`gateway.routing.order` does."""
    evaluation = evaluate(ask, identity, snapshot, now, bystanders=True)
    outcome = evaluation.outcome
    ordered = tuple(targets(outcome)) if isinstance(outcome, Grant) else ()
    return Explanation(ask, snapshot.users.get(identity.user), now, evaluation, ordered)


def lines(explanation: Explanation) -> list[str]:
    """For a terminal; names come from judged objects and are printed as they are."""
    ask, outcome = explanation.ask, explanation.evaluation.outcome
    account = f" as {ask.account}" if ask.account else ""
    return [
        f"{ask.user} -> {ask.resource}{account}, from {unmapped(ask.source)}, "
        f"at {explanation.at.isoformat()}",
        f"user: {_person(explanation.user)}",
        *(["bindings:"] if explanation.evaluation.steps else []),
        *(f"  {_told(step)}" for step in explanation.evaluation.steps),
        *(["targets, in the order of trying:"] if explanation.targets else []),
        *(
            f"  {place}. {candidate.target.address}: {candidate.why}"
            for place, candidate in enumerate(explanation.targets, start=1)
        ),
        f"ALLOWED as {outcome.account.name} by {outcome.binding}: {_words(outcome)}"
        if isinstance(outcome, Grant)
        else f"DENIED: {outcome.public or outcome.reason}",
    ]


def _outcome(evaluation: Evaluation) -> dict[str, Any]:
    outcome = evaluation.outcome
    if not isinstance(outcome, Grant):
        return {"reason": outcome.reason, "public": outcome.public}
    return {
        "grant": {
            "account": outcome.account.name,
            "binding": outcome.binding,
            "role": outcome.role,
            "terms": _words(outcome),
            "timed": outcome.timed,
        }
    }


def _words(grant: Grant) -> str:
    return terms.words(grant.terms, grant.resource.protocol)


def _step(step: Considered) -> dict[str, Any]:
    return {
        "binding": step.binding,
        "role": step.role,
        "clause": step.clause,
        "verdict": step.verdict.value,
        "why": step.why,
    }


def _told(step: Considered) -> str:
    clause = "" if step.clause is None else f", clause {step.clause + 1}"
    return f"{step.verdict.value:<6}  {step.binding} ({step.role}{clause}): {step.why}"


def _person(user: User | None) -> str:
    if user is None:
        return "there is none of this name"
    groups = ", ".join(sorted(user.groups)) or "none"
    return f"{user.name}, groups: {groups}{', disabled' if user.disabled else ''}"
