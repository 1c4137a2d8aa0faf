"""What is wrong on the way to a resource's targets, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve, frozen

from gateway.health import Findings, Row, Step
from gateway.health.findings import drained, warnings
from gateway.model import Account, Resource, Target

Look = Callable[[Resource, Target, Account | None], Awaitable[Findings]]

ADVICE = {
    "name": "check the address in the resource, and the resolver of the gateway's machine",
    "TCP": "check that the server runs and listens there, and what filters in between",
    "TLS": "check tls.mode and tls.ca of the resource, and the target's certificate",
    "greeting": "check that it is a PostgreSQL that listens there",
    "banner": "check that it is an SSH server that listens there",
    "host key": "compare host_key or host_ca of the resource with ssh-keyscan on a trusted way",
    "log-in": "check the account's credential in the resource, and the target's own rules"
    " (pg_hba.conf, sshd_config)",
    "role": "check that the account may run SELECT in that database",
    "lag": "check that the standby is connected to its primary",
    "siblings": "targets of a resource replicate from one primary: drain or remove what does not",
}


@frozen
class Examined:
    """One target. ``others``: steps of other accounts, and what is wrong beside its siblings."""

    row: Row
    findings: Findings
    others: tuple[Step, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*self.findings.steps, *self.others)

    @property
    def well(self) -> bool:
        return self.row.state not in ("down", "degraded") and not any(
            step.ok is False for step in self.steps
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "address": self.row.address,
            "state": self.row.state,
            "why": self.row.why,
            "kind": self.findings.kind or self.row.kind,
            "lag_seconds": self.findings.lag_seconds,
            "lag_bytes": self.row.lag_bytes,
            "timeline": self.findings.timeline,
            "system": self.findings.system,
            "well": self.well,
            "steps": [_step(step) for step in self.steps],
        }


async def examine(resource: Resource, rows: list[Row], look: Look) -> list[Examined]:
    """All targets at once. *rows* are what is known of them, in the order of the resource.

    Where no monitoring account is named, the first account is asked with: a person wants to
    know. Of the others it is seen whether they may log in.
    """
    found = await asyncio.gather(
        *(
            _examine(resource, target, row, look)
            for target, row in zip(resource.targets, rows, strict=True)
        )
    )
    addresses = [target.address for target in resource.targets]
    looks = dict(zip(addresses, (each.findings for each in found), strict=True))
    wrong = warnings(looks, drained(resource))
    return [
        _beside(each, wrong.get(address)) for address, each in zip(addresses, found, strict=True)
    ]


def _beside(examined: Examined, wrong: str | None) -> Examined:
    """Also what is *wrong* with a target only beside the others."""
    if wrong is None:
        return examined
    return evolve(examined, others=(*examined.others, Step("siblings", False, wrong)))


async def _examine(resource: Resource, target: Target, row: Row, look: Look) -> Examined:
    first = resource.health.account if resource.health is not None else None
    accounts = sorted(resource.accounts.values(), key=lambda account: account.name != first)
    findings = await look(resource, target, accounts[0] if accounts else None)
    if findings.down is not None:
        return Examined(row, findings, ())
    others = [await look(resource, target, account) for account in accounts[1:]]
    return Examined(row, findings, tuple(s for each in others for s in _log_ins(each)))


def _log_ins(findings: Findings) -> list[Step]:
    """What another account brought: whether it may log in, or what went wrong before."""
    return [step for step in findings.steps if step.name == "log-in" or step.ok is False]


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "ok": step.ok,
        "said": step.said,
        "ms": round(step.seconds * 1000, 1),
        "advice": ADVICE.get(step.name) if step.ok is False else None,
    }
