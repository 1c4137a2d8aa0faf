"""May this be? The one place where a :class:`~gateway.model.Grant` is minted. Pure.

Each clause of a role, through each binding that holds, is a complete option: fields of
two clauses are never merged, which would make rights that neither gives. Bindings only
ever add options, so removing one never adds access; ``deny_sources`` wins inside its own
binding for the same reason.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from ipaddress import IPv4Network

from attrs import evolve, frozen

from gateway import hours
from gateway.model import (
    Account,
    Allow,
    Ask,
    Binding,
    Denied,
    Grant,
    Identity,
    IPAddress,
    IPNetwork,
    Resource,
    Selector,
    Snapshot,
    Terms,
    User,
    unmapped,
)
from gateway.terms import Rank, covers, rank

_TOLD = 8  # near misses named in one denial: the audit log keeps lines, not essays


class Verdict(enum.Enum):
    """What became of one thing that was considered."""

    CHOSEN = "chosen"
    ALLOWS = "allows"
    NO = "no"


@frozen
class Option:
    """One clause, through one binding, for one account: a right complete in itself."""

    binding: Binding
    role: str
    clause: int
    account: Account
    terms: Terms

    @property
    def timed(self) -> bool:
        return self.binding.hours is not None or self.binding.expires is not None


@frozen
class Considered:
    """One step: a binding (``clause`` is None: it was not looked into) or one of its clauses.

    ``near``: the binding is meant for this user, so that it is worth telling of.
    """

    binding: str
    role: str
    clause: int | None
    verdict: Verdict
    why: str
    near: bool = True
    options: tuple[Option, ...] = ()


@frozen
class Evaluation:
    """A decision and all that led to it; ``steps`` by the names of the bindings."""

    outcome: Grant | Denied
    steps: tuple[Considered, ...] = ()


def decide(ask: Ask, identity: Identity, snapshot: Snapshot, now: datetime) -> Grant | Denied:
    """*now* is aware. Of several options the most permissive by :func:`gateway.terms.rank`
    is taken; among equals one that time cannot take away, then the first by name."""
    return evaluate(ask, identity, snapshot, now).outcome


def renew(grant: Grant, snapshot: Snapshot, now: datetime) -> Grant | Denied:
    """The grant with which a live session may go on.

    Targets and credentials are free to change, and are today's from now on; what was granted
    has to be covered by a single option of today. The session keeps its terms; ``binding``,
    ``role`` and ``timed`` say what it rests upon now, untimed if there is a choice.
    """
    ask = evolve(grant.ask, account=grant.account.name)
    evaluation = evaluate(ask, grant.identity, snapshot, now)
    if isinstance(evaluation.outcome, Denied):
        return evaluation.outcome
    options = [option for step in evaluation.steps for option in step.options]
    enough = [option for option in options if covers(option.terms, grant.terms)]
    if not enough:
        return Denied("what is allowed now is less than what the session was given")
    holds = min(enough, key=lambda option: option.timed)
    return evolve(
        grant,
        resource=snapshot.resources[ask.resource],
        account=holds.account,
        binding=holds.binding.name,
        role=holds.role,
        timed=holds.timed,
    )


def evaluate(
    ask: Ask, identity: Identity, snapshot: Snapshot, now: datetime, *, bystanders: bool = False
) -> Evaluation:
    """:func:`decide` with its reasoning; *now* is aware.

    *bystanders*: have a step, too, for each binding that is not meant for this user.
    """
    user = snapshot.users.get(identity.user)
    resource = snapshot.resources.get(ask.resource)
    if ask.user != identity.user:
        return Evaluation(Denied(f"{identity.user} proved to be, {ask.user} asked for"))
    if user is None:
        return Evaluation(Denied(f"there is no user {identity.user}"))
    if user.disabled:
        return Evaluation(Denied(f"user {user.name} is disabled"))
    if resource is None:
        return Evaluation(Denied(f"there is no resource {ask.resource}"))
    if resource.protocol is not ask.protocol:
        speaks = f"{resource.name} speaks {resource.protocol.value}, not {ask.protocol.value}"
        return Evaluation(Denied(speaks))
    if ask.account is not None and ask.account not in resource.accounts:
        return Evaluation(Denied(f"{resource.name} has no account {ask.account}"))
    steps = tuple(_consider(_Question(ask, user, resource, now), snapshot, bystanders))
    return _settle(ask, identity, resource, steps)


def _settle(
    ask: Ask, identity: Identity, resource: Resource, steps: tuple[Considered, ...]
) -> Evaluation:
    options = [option for step in steps for option in step.options]
    accounts = sorted({option.account.name for option in options})
    if not options:
        return Evaluation(Denied(_misses(steps)), steps)
    if len(accounts) > 1:
        choices = " or ".join(f"{ask.user}/{name}" for name in accounts)
        public = f"name an account: {choices}"
        return Evaluation(Denied(f"no account named, {len(accounts)} allowed", public), steps)
    best = max(options, key=_preference)
    grant = Grant(
        ask,
        identity,
        resource,
        best.account,
        best.terms,
        best.binding.name,
        best.role,
        timed=best.timed,
    )
    return Evaluation(grant, tuple(_marked(steps, best)))


def _preference(option: Option) -> tuple[Rank, bool]:
    """Options come by binding name and clause, and max() keeps the first of equals."""
    return rank(option.terms), not option.timed


def _marked(steps: Sequence[Considered], best: Option) -> Iterator[Considered]:
    for step in steps:
        chosen = any(option is best for option in step.options)
        yield evolve(step, verdict=Verdict.CHOSEN) if chosen else step


def _misses(steps: Iterable[Considered]) -> str:
    near = [step for step in steps if step.near]
    if not near:
        return "no binding is for this user"
    told = [f"{step.binding}: {step.why}" for step in near[:_TOLD]]
    if len(near) > _TOLD:
        told.append(f"and {len(near) - _TOLD} more")
    return "; ".join(told)


@frozen
class _Question:
    ask: Ask
    user: User
    resource: Resource
    now: datetime


def _consider(question: _Question, snapshot: Snapshot, bystanders: bool) -> Iterator[Considered]:
    for binding in sorted(snapshot.bindings, key=lambda binding: binding.name):
        role = snapshot.roles.get(binding.role)
        if not _subject(binding, question.user):
            if bystanders:
                yield _no(binding, None, f"is not for {question.user.name}", near=False)
        elif held := _held(binding, question):
            yield _no(binding, None, held)
        elif role is None:
            yield _no(binding, None, f"there is no role {binding.role}")
        elif not role.allow:
            yield _no(binding, None, f"role {role.name} allows nothing")
        else:
            for index, clause in enumerate(role.allow):
                yield _clause(binding, index, clause, question)


def _no(binding: Binding, clause: int | None, why: str, *, near: bool = True) -> Considered:
    return Considered(binding.name, binding.role, clause, Verdict.NO, why, near)


def _subject(binding: Binding, user: User) -> bool:
    return user.name in binding.users or not binding.groups.isdisjoint(user.groups)


def _held(binding: Binding, question: _Question) -> str | None:
    """Why the conditions of *binding* do not hold; None if they do."""
    source = unmapped(question.ask.source)
    if _within(source, binding.deny_sources):
        return f"{source} is in its deny_sources"
    if binding.sources and not _within(source, binding.sources):
        return f"{source} is not in its sources"
    if binding.hours is not None and not hours.contain(binding.hours, question.now):
        return f"it is outside its hours ({hours.text(binding.hours)})"
    if binding.expires is not None and question.now >= binding.expires:
        return f"it expired at {binding.expires.isoformat()}"
    return None


def _clause(binding: Binding, index: int, clause: Allow, question: _Question) -> Considered:
    resource, asked = question.resource, question.ask.account
    if missed := _selected(clause.resources, resource):
        return _no(binding, index, missed)
    names = sorted(clause.accounts & resource.accounts.keys())
    if not names:
        return _no(binding, index, f"{resource.name} has none of its accounts")
    if asked is not None and asked not in names:
        return _no(binding, index, f"allows {' and '.join(names)}, not {asked}")
    if question.ask.replication and not clause.terms.replication:
        return _no(binding, index, "does not allow replication")
    names = names if asked is None else [asked]
    options = tuple(
        Option(binding, binding.role, index, resource.accounts[name], clause.terms)
        for name in names
    )
    why = f"allows {' and '.join(names)}"
    return Considered(binding.name, binding.role, index, Verdict.ALLOWS, why, options=options)


def _selected(selector: Selector, resource: Resource) -> str | None:
    """Why *selector* does not match; None if it does."""
    if selector.names is not None and resource.name not in selector.names:
        return f"does not name {resource.name}"
    for key, values in sorted(selector.labels.items()):
        if resource.labels.get(key) not in values:
            has = f"{key}={resource.labels[key]}" if key in resource.labels else f"no {key}"
            return f"wants {key}={'|'.join(sorted(values))}, {resource.name} has {has}"
    return None


def _within(source: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(source in _unmapped_network(network) for network in networks)


def _unmapped_network(network: IPNetwork) -> IPNetwork:
    first = unmapped(network.network_address)
    if first.version == network.version:
        return network
    return IPv4Network((int(first), network.prefixlen - 96))  # no wider one begins in ::ffff:0:0/96
