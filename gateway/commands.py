"""What the ``gateway`` command can ask of the running daemon."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from attrs import asdict, frozen

from gateway import __version__, objects, routing
from gateway import doctor as doctors
from gateway.catalog import Catalog
from gateway.contracts import Audit, Clock, Command
from gateway.errors import GatewayError
from gateway.explain import Explanation, explain, lines
from gateway.health import Row, Sightings
from gateway.live import Live
from gateway.model import Ask, Grant, Identity, Protocol, Resource, SessionInfo
from gateway.store import Store
from gateway.targets import Targets

READING = ("transcript.read", "audit.read")  # events of which only the command line knows

Arguments = Mapping[str, Any]


@frozen
class Commands:
    """The table of commands; each takes a JSON object and gives a JSON value."""

    catalog: Catalog
    store: Store
    live: Live
    audit: Audit
    sightings: Sightings
    targets: Targets
    clock: Clock
    reload_all: Callable[[], Awaitable[None]]
    started: float

    def table(self) -> Mapping[str, Command]:
        return {
            "apply": self.apply,
            "get": self.get,
            "delete": self.delete,
            "disable": self.disable,
            "enable": self.enable,
            "passwd": self.passwd,
            "sessions": self.sessions,
            "kill": self.kill,
            "explain": self.explain,
            "targets": self.list_targets,
            "drain": self.drain,
            "doctor": self.doctor,
            "status": self.status,
            "reload": self.reload,
            "note": self.note,
        }

    async def apply(self, arguments: Arguments) -> dict[str, Any]:
        text, file = arguments["text"], arguments["file"]
        documents = await asyncio.to_thread(objects.parse, text, file)  # 20,000 users take 8 s
        changes = await self.catalog.apply(
            documents,
            owner=None,
            prune=bool(arguments.get("prune")),
            dry_run=bool(arguments.get("dry_run")),
            actor=arguments["by"],
        )
        return {"changes": [asdict(change) for change in changes]}

    async def get(self, arguments: Arguments) -> dict[str, Any]:
        found = await self.catalog.get(arguments["kind"], arguments.get("name"))
        return {"objects": found}

    async def delete(self, arguments: Arguments) -> dict[str, Any]:
        kind, name = arguments["kind"], arguments["name"]
        return {"owner": await self.catalog.delete(kind, name, arguments["by"])}

    async def disable(self, arguments: Arguments) -> dict[str, Any]:
        await self.catalog.set_disabled(arguments["name"], True, arguments["by"])
        return {}

    async def enable(self, arguments: Arguments) -> dict[str, Any]:
        await self.catalog.set_disabled(arguments["name"], False, arguments["by"])
        return {}

    async def passwd(self, arguments: Arguments) -> dict[str, Any]:
        name, password = arguments["name"], arguments["password"]
        return {"owner": await self.catalog.set_password(name, password, arguments["by"])}

    async def sessions(self, arguments: Arguments) -> dict[str, Any]:
        """Newest first; running ones with their counters as they stand."""
        user, resource = arguments.get("user"), arguments.get("resource")
        since, limit = arguments.get("since"), arguments.get("limit") or 1000
        running = [
            info
            for info in self.live.infos()
            if user in (None, info.user)
            and resource in (None, info.resource)
            and (since is None or info.started >= since)
        ]
        ended: list[SessionInfo] = []
        if not arguments.get("live"):
            await self.store.flush()
            ids = {info.id for info in running}
            found = await self.store.sessions(
                user=user, resource=resource, since=since, limit=limit
            )
            ended = [info for info in found if info.id not in ids]
        rows = sorted((*running, *ended), key=lambda info: info.started, reverse=True)
        return {"sessions": [{**row(info), **self._pinned(info)} for info in rows[:limit]]}

    def _pinned(self, info: SessionInfo) -> dict[str, str]:
        """What keeps a running session at its target, where something does."""
        session = self.live.find(info.id)
        return {"pinned": session.pinned} if session is not None and session.pinned else {}

    async def kill(self, arguments: Arguments) -> dict[str, Any]:
        prefix = arguments["id"]
        found = [info.id for info in self.live.infos() if prefix and info.id.startswith(prefix)]
        if len(found) != 1:
            raise GatewayError(f"{len(found) or 'no'} running sessions match {prefix!r}")
        if not self.live.kill(found[0], arguments.get("reason") or "", arguments["by"]):
            raise GatewayError(f"session {found[0]} has just ended")
        return {"id": found[0]}

    async def explain(self, arguments: Arguments) -> dict[str, Any]:
        explanation = self._explanation(arguments)
        return {**explanation.as_json(), "lines": lines(explanation)}

    def _explanation(self, arguments: Arguments) -> Explanation:
        snapshot, user = self.catalog.snapshot, arguments["user"]
        resource = snapshot.resources.get(arguments["resource"])
        ask = Ask(
            protocol=resource.protocol if resource else Protocol.POSTGRESQL,
            user=user,
            resource=arguments["resource"],
            source=ip_address(arguments.get("source") or "127.0.0.1"),
            account=arguments.get("account"),
        )
        at = arguments.get("at")
        moment = self.clock() if at is None else float(at)
        now = datetime.fromtimestamp(moment, UTC)
        return explain(ask, Identity(user, "explained"), snapshot, now, self._order)

    def _order(self, grant: Grant) -> tuple[routing.Candidate, ...]:
        terms = grant.terms
        return self.sightings.order(grant.resource, terms.targets, terms.max_lag_seconds, seed=0)

    async def list_targets(self, arguments: Arguments) -> dict[str, Any]:
        return {"targets": [_target(row) for row in self.targets.rows()]}

    async def drain(self, arguments: Arguments) -> dict[str, Any]:
        """Of a target, or with ``draining`` false no longer; which ones that were."""
        found, draining = self._named(arguments["name"]), bool(arguments["draining"])
        for resource, address in found:
            await self.catalog.set_draining(resource, address, draining, arguments["by"])
        rows = [_target(row) for row in self.targets.rows()]
        return {
            "targets": [row for row in rows if (row["resource"], row["address"]) in found],
        }

    def _named(self, name: str) -> list[tuple[str, str]]:
        """``ADDRESS``, of whatever resource; ``RESOURCE/ADDRESS``; ``RESOURCE`` if it has one."""
        spots = [
            (resource.name, str(target.address))
            for resource in self.catalog.snapshot.resources.values()
            for target in resource.targets
        ]
        found = [spot for spot in spots if name in (spot[1], "/".join(spot))]
        found = found or [spot for spot in spots if spot[0] == name]
        if not found:
            raise GatewayError(f"there is no target {name!r}")
        if name in {resource for resource, _ in found} and len(found) > 1:
            raise GatewayError(
                f"{name} has {len(found)} targets: {', '.join(address for _, address in found)}"
            )
        return found

    async def doctor(self, arguments: Arguments) -> dict[str, Any]:
        resource = self._resource(arguments["resource"])
        watch = self.targets.watch
        if watch is None:
            raise GatewayError("nobody looks at targets yet")
        rows = self.targets.rows(resource.name)
        examined = await doctors.examine(resource, rows, watch.look)
        return {
            "resource": resource.name,
            "well": all(each.well for each in examined),
            "targets": [each.as_json() for each in examined],
        }

    def _resource(self, name: str) -> Resource:
        found = self.catalog.snapshot.resources.get(name)
        if found is None:
            raise GatewayError(f"there is no resource {name!r}")
        return found

    async def status(self, arguments: Arguments) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": stamp(self.started),
            "sessions": len(self.live),
            "time": time.time(),
        }

    async def reload(self, arguments: Arguments) -> dict[str, Any]:
        self.audit.write("gateway.reload", by=arguments["by"])
        await self.reload_all()
        return {}

    async def note(self, arguments: Arguments) -> dict[str, Any]:
        """Somebody reads a transcript, or the audit log, which is to know."""
        facts = dict(arguments)
        event = facts.pop("event")
        if event not in READING:
            raise GatewayError(f"{event!r} is not for the command line to note")
        self.audit.write(event, **facts)
        return {}


def row(info: SessionInfo) -> dict[str, Any]:
    """A session as listings show it: times are ISO 8601 in UTC."""
    ended = None if info.ended is None else stamp(info.ended)
    return {**asdict(info), "started": stamp(info.started), "ended": ended}


def _target(row: Row) -> dict[str, Any]:
    return {**asdict(row), "since": None if row.since is None else stamp(row.since)}


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
