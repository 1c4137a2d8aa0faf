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
from gateway.catalog import Catalog
from gateway.contracts import Audit, Clock, Command
from gateway.errors import GatewayError
from gateway.explain import Explanation, explain, lines
from gateway.health import Sightings
from gateway.live import Live
from gateway.model import Ask, Grant, Identity, Protocol, SessionInfo
from gateway.store import Store

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
        await self.catalog.delete(arguments["kind"], arguments["name"], arguments["by"])
        return {}

    async def disable(self, arguments: Arguments) -> dict[str, Any]:
        await self.catalog.set_disabled(arguments["name"], True, arguments["by"])
        return {}

    async def enable(self, arguments: Arguments) -> dict[str, Any]:
        await self.catalog.set_disabled(arguments["name"], False, arguments["by"])
        return {}

    async def passwd(self, arguments: Arguments) -> dict[str, Any]:
        name, password = arguments["name"], arguments["password"]
        await self.catalog.set_password(name, password, arguments["by"])
        return {}

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
        return {"sessions": [row(info) for info in rows[:limit]]}

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
        targets, kind = grant.resource.targets, grant.terms.targets
        return routing.order(targets, kind, self.sightings.seen(), self.clock(), seed=0)

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


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
