"""Objects from the moment somebody wrote them to the snapshot that decides.

Every change goes one way: judged over the whole resulting state, noted in the audit log,
stored, and only then seen. What cannot be noted or stored does not happen.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attrs import frozen

from gateway import objects
from gateway.contracts import Audit, Body, Document, Vault
from gateway.errors import BadFile, GatewayError, Problem
from gateway.identity.password import SALT, format_verifier, make_verifier
from gateway.model import Snapshot
from gateway.objects import shown
from gateway.store import Bodies, Changes, Store, StoredObject

T = TypeVar("T")
Key = tuple[str, str]  # kind, name
Owned = Sequence[tuple[Document, str | None]]
"""Documents, each with the objects file that is to own it."""

BY_HAND_ONLY = ("password", "disabled")  # members of users that commands of their own change
BY_HAND = "gateway"  # the actor in the audit log where it is no objects file and nobody known


class NoSuchObject(GatewayError):
    """There is nothing of this kind and name."""


class StillNeeded(GatewayError):
    """Something else refers to it."""


class BadPassword(GatewayError):
    """It cannot be a password; the message says why, without it."""


@frozen
class Change:
    """``sign``: "+" made, "~" changed, "-" removed; ``paths`` is what differs in a "~"."""

    sign: str
    kind: str
    name: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"{self.sign} {self.kind} {self.name}"
        return f"{what} ({', '.join(self.paths)})" if self.paths else what


@frozen
class Plan:
    """What is stored, and what is to be other than that."""

    version: int
    stored: Bodies
    changes: Changes

    def after(self) -> dict[str, dict[str, Body]]:
        """Everything as it will be."""
        result = {
            kind: {name: found.body for name, found in named.items()}
            for kind, named in self.stored.items()
        }
        for (kind, name), new in self.changes.items():
            if new is None:
                del result[kind][name]
            else:
                result.setdefault(kind, {})[name] = new.body
        return result

    def listed(self) -> list[Change]:
        """For people: by kind and name."""
        return [
            _change(key, _find(self.stored, key), new) for key, new in sorted(self.changes.items())
        ]


class Catalog:
    """The objects, and the snapshot made of them.

    :param changed: told of each new snapshot, after it has become visible
    """

    def __init__(
        self, store: Store, vault: Vault, audit: Audit, changed: Callable[[Snapshot], None]
    ) -> None:
        self._store = store
        self._vault = vault
        self._audit = audit
        self._changed = changed
        self._lock = asyncio.Lock()
        self.snapshot = Snapshot()

    async def load(self) -> None:
        """Make the first snapshot.

        :raises GatewayError: what is stored cannot be used (by this vault)
        """
        version, stored = await self._store.bodies()
        self.snapshot = await self._snapshot(Plan(version, stored, {}).after(), version)

    async def apply(
        self,
        documents: Sequence[Document],
        *,
        owner: str | None,
        prune: bool = False,
        dry_run: bool = False,
        actor: str = BY_HAND,
    ) -> list[Change]:
        """Make the objects what *documents* say: all of it or nothing.

        :param owner: the objects file that owns what it names, and loses what it no longer
            names; None for a change by hand, which leaves objects with whom they are
        :param prune: remove everything that is not named, whoever owns it
        :param actor: who changes it by hand, for the audit log
        :raises BadFile: a secret cannot be read, or a reference leads nowhere
        """

        def goes(found: StoredObject) -> bool:
            return prune or (owner is not None and found.owner == owner)

        owned = [(document, owner) for document in documents]
        return await _whole(self._apply(owned, goes, owner or actor, dry_run))

    async def adopt(self, files: Mapping[str, Sequence[Document]]) -> list[Change]:
        """Make all that files own what *files* say, by owner: all of it or nothing.

        Objects of a file that is not among them go, too: it is no longer configured.

        :raises BadFile: as :meth:`apply`, or two files name one object
        """
        owned = [(document, owner) for owner, named in files.items() for document in named]
        problems = _claimed_twice(owned)
        if problems:
            raise BadFile(problems)

        def goes(found: StoredObject) -> bool:
            return found.owner is not None

        return await _whole(self._apply(owned, goes, ", ".join(files), dry_run=False))

    async def _apply(
        self, owned: Owned, goes: Callable[[StoredObject], bool], actor: str, dry_run: bool
    ) -> list[Change]:
        """:param goes: whether an object that is not named is removed"""
        async with self._lock:
            version, stored = await self._store.bodies()
            named = await asyncio.to_thread(self._settle, owned, stored)
            changes: dict[Key, StoredObject | None] = {
                key: new for key, new in named.items() if new != _find(stored, key)
            }
            changes |= dict.fromkeys(_unnamed(stored, named, goes))
            plan = Plan(version, stored, changes)
            problems = objects.dangling(plan.after(), [document for document, _ in owned])
            if problems:
                raise BadFile(problems)
            if not dry_run:
                await self._commit(plan, actor)
            return plan.listed()

    def _settle(self, owned: Owned, stored: Bodies) -> dict[Key, StoredObject]:
        """The documents with their secrets read and sealed; all mistakes at once."""
        settled: dict[Key, StoredObject] = {}
        problems: list[Problem] = []
        for document, owner in owned:
            key = (document.kind, document.name)
            before = _find(stored, key)
            try:
                body = objects.settle(document, before.body if before else None, self._vault)
            except BadFile as bad:
                problems.extend(bad.problems)
            else:
                kept = before.owner if before else None
                settled[key] = StoredObject(owner or kept, _kept(document, before, body))
        if problems:
            raise BadFile(tuple(problems))
        return settled

    async def get(self, kind: str, name: str | None = None) -> list[dict[str, Any]]:
        """Bodies of one kind by name, or the one of *name*; secrets show as "(set)".

        :raises NoSuchObject: there is none of that *name*
        """
        _, stored = await self._store.bodies()
        if name is not None:
            return [_shown(name, _known(stored, kind, name))]
        return [_shown(each, found) for each, found in sorted(stored.get(kind, {}).items())]

    async def delete(self, kind: str, name: str, actor: str = BY_HAND) -> str | None:
        """
        :return: the objects file that owned it, and names it still for all we know
        :raises NoSuchObject: there is nothing to delete
        :raises StillNeeded: something refers to it
        """

        def gone(_: StoredObject) -> None:
            return None

        return await _whole(self._edit((kind, name), gone, actor))

    async def set_disabled(self, user: str, disabled: bool, actor: str = BY_HAND) -> None:
        """:raises NoSuchObject: there is no such user"""

        def switched(found: StoredObject) -> StoredObject:
            return StoredObject(found.owner, {**found.body, "disabled": disabled})

        await _whole(self._edit(("users", user), switched, actor))

    async def set_draining(
        self, resource: str, address: str, draining: bool, actor: str = BY_HAND
    ) -> None:
        """:raises NoSuchObject: there is no such resource"""

        def switched(found: StoredObject) -> StoredObject:
            return _drained(found, address, draining)

        await _whole(self._edit(("resources", resource), switched, actor))

    async def set_password(self, user: str, password: str, actor: str = BY_HAND) -> str | None:
        """
        :return: the objects file that owns the user, and may name another one when it is read next
        :raises NoSuchObject: there is no such user
        :raises BadPassword: it is empty, or no Unicode text
        """
        try:
            salt = secrets.token_bytes(SALT)
            verifier = await asyncio.to_thread(make_verifier, password, salt)
        except ValueError as bad:
            raise BadPassword(str(bad)) from None
        kept = {"scram-sha-256": format_verifier(verifier)}

        def renewed(found: StoredObject) -> StoredObject:
            return StoredObject(found.owner, {**found.body, "password": kept})

        return await _whole(self._edit(("users", user), renewed, actor))

    async def _edit(
        self, key: Key, edit: Callable[[StoredObject], StoredObject | None], actor: str
    ) -> str | None:
        """One object, by hand; the objects file that owned it."""
        async with self._lock:
            version, stored = await self._store.bodies()
            found = _known(stored, *key)
            new = edit(found)
            if new == found:
                return found.owner
            plan = Plan(version, stored, {key: new})
            problems = objects.dangling(plan.after(), ())
            if problems:
                raise StillNeeded("; ".join(problem.message for problem in problems))
            await self._commit(plan, actor)
            return found.owner

    async def _commit(self, plan: Plan, actor: str) -> None:
        """The change happens here, or not at all."""
        if not plan.changes:
            return
        snapshot = await self._snapshot(plan.after(), plan.version + 1)
        listed = [str(change) for change in plan.listed()]
        noted = self._audit.write("objects.changed", actor=actor, changes=listed)
        try:
            await self._store.replace(plan.version, plan.changes)
        except Exception as failed:
            self._audit.write("objects.unchanged", after=noted, reason=str(failed))
            raise
        self.snapshot = snapshot
        self._changed(snapshot)

    async def _snapshot(self, bodies: Mapping[str, Mapping[str, Body]], version: int) -> Snapshot:
        return await asyncio.to_thread(objects.snapshot, bodies, self._vault, version)


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """A caller who goes away must not leave a change stored and not seen."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _kept(document: Document, before: StoredObject | None, body: Body) -> Body:
    """What a hand gave a user and the file is silent about: a password, being disabled; and
    which targets are being drained.

    Otherwise a file applied at each start would take back what ``gateway passwd``,
    ``gateway users disable`` and ``gateway targets drain`` did.
    """
    if before is None:
        return body
    if document.kind == "resources":
        return _still_draining(before.body, body)
    if document.kind != "users":
        return body
    silent = {name for name in BY_HAND_ONLY if name not in document.marks}
    return {**body, **{name: before.body[name] for name in silent & before.body.keys()}}


def _still_draining(before: Body, body: Body) -> Body:
    said = {target["address"]: target.get("draining") for target in before["targets"]}
    targets = [
        {**target, "draining": kept}
        if "draining" not in target and (kept := said.get(target["address"])) is not None
        else target
        for target in body["targets"]
    ]
    return {**body, "targets": targets}


def _drained(found: StoredObject, address: str, draining: bool) -> StoredObject:
    """Not being drained is nothing to remember."""
    targets = []
    for target in found.body["targets"]:
        other = {name: value for name, value in target.items() if name != "draining"}
        chosen = target["address"] == address
        targets.append(({**other, "draining": True} if draining else other) if chosen else target)
    return StoredObject(found.owner, {**found.body, "targets": targets})


def _find(stored: Bodies, key: Key) -> StoredObject | None:
    kind, name = key
    return stored.get(kind, {}).get(name)


def _known(stored: Bodies, kind: str, name: str) -> StoredObject:
    found = _find(stored, (kind, name))
    if found is None:
        raise NoSuchObject(f"there is no {kind.removesuffix('s')} {name!r}")
    return found


def _unnamed(
    stored: Bodies, named: Mapping[Key, StoredObject], goes: Callable[[StoredObject], bool]
) -> Iterator[Key]:
    """What goes because it was not named."""
    for kind, found in stored.items():
        for name, each in found.items():
            if goes(each) and (kind, name) not in named:
                yield kind, name


def _claimed_twice(owned: Owned) -> tuple[Problem, ...]:
    owners: dict[Key, str | None] = {}
    problems = []
    for document, owner in owned:
        key = (document.kind, document.name)
        if key in owners:
            line, column = document.marks.get("name", document.marks.get("", (1, 1)))
            message = f"is in {owners[key]} already"
            problems.append(Problem(document.file, line, column, ".".join(key), message))
        owners.setdefault(key, owner)
    return tuple(problems)


def _change(key: Key, before: StoredObject | None, after: StoredObject | None) -> Change:
    if before is None or after is None:
        return Change("-" if after is None else "+", *key)
    moved = () if before.owner == after.owner else ("owner",)
    return Change("~", *key, (*shown.differences(before.body, after.body), *moved))


def _shown(name: str, found: StoredObject) -> dict[str, Any]:
    """An object as anybody may see it."""
    told = {"name": name, **shown.masked(found.body)}
    return told if found.owner is None else {**told, "owner": found.owner}
