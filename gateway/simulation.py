"""Hundreds of targets and 100,000 sessions with failures, in seconds: for planning, and tests.

The clock is virtual and the seed decides everything else; what routes and what judges the
targets is the gateway's own code (:mod:`gateway.routing`, :mod:`gateway.health`). Ask it::

    python -m gateway.simulation --targets 300 --sessions 100000 --failures 60

What it tells:

``refused``
    sessions for which no target was left. With one target in five that fails now and then,
    there should be none.
``spread``
    how far, at worst, the number of sessions on a target was from its resource's mean, in
    sessions, while all targets there were well and had been for a while. Sessions end when
    they please, so it is more than the one that routing allows itself.
``reroute``
    seconds from a failure until a session that it hit was open elsewhere: the median, the
    99th of a hundred, the longest. Who is killed is noticed at once; who is frozen, when the
    second probe has gone unanswered: after ``interval + 2 * timeout``, and a fifth of the
    interval more, at most; later where a session comes from one failure into the next.
``wasted``
    attempts to open a session on a target that was out of order, each of which costs somebody
    the time until it fails. Between a failure and the first signal of it there are some.

Read for planning: the failures that your targets have in an hour, the sessions that you
expect, and the ``health`` settings that you consider, against the reroutes that you can bear.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import click
from attrs import asdict, define, field, frozen

from gateway.health import Findings, Sightings, Spot
from gateway.health.sightings import Sight
from gateway.health.watch import pause
from gateway.model import Address, Protocol, Resource, Target, TargetKind
from gateway.routing import RAMP

REFUSES = 0.001  # seconds until a host that is up says that nothing listens
NOTICES = 0.001  # seconds until a session sees that its target is gone
SAMPLE = 5.0  # seconds between two looks at the spread
ALIVE, KILLED, FROZEN = "alive", "killed", "frozen"


@frozen
class Plan:
    """``each``: targets of a resource. ``stay``: seconds that a session lasts, on average.
    ``outage``: seconds for which a target is out of order; half of them freeze."""

    targets: int = 300
    each: int = 5
    sessions: int = 100_000
    seconds: float = 600.0
    stay: float = 30.0
    failures: int = 60
    outage: float = 30.0
    interval: float = 2.0
    timeout: float = 2.0
    latency: float = 0.01
    seed: int = 1


@frozen
class Report:
    sessions: int
    refused: int
    spread: float
    moved: int
    reroute_median: float
    reroute_p99: float
    reroute_max: float
    wasted: int

    @property
    def error_rate(self) -> float:
        return self.refused / self.sessions if self.sessions else 0.0


@define(eq=False)
class _Server:
    """One target as it really is; ``sessions`` are those that run there."""

    resource: Resource
    target: Target
    state: str = ALIVE
    since: float = -RAMP
    sessions: set[_Session] = field(factory=set)


@define(eq=False)
class _Session:
    """``hit``: when its target failed, None while all is well."""

    resource: Resource
    ends: float
    hit: float | None = None


class Simulation:
    """One run of a :class:`Plan`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)  # noqa: S311 -- it is to be the same each time
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._sightings = Sightings(lambda: self._now)
        self._sightings.changed = self._changed
        self._servers = {
            Spot(resource.name, target.address): _Server(resource, target)
            for resource in _resources(plan)
            for target in resource.targets
        }
        self._came = self._refused = self._wasted = 0
        self._reroutes: list[float] = []
        self._spread = 0.0

    def run(self) -> Report:
        self._prepare()
        while self._events:
            self._now, _, happens = heapq.heappop(self._events)
            happens()
        took = sorted(self._reroutes) or [0.0]
        return Report(
            self._came,
            self._refused,
            round(self._spread, 2),
            len(self._reroutes),
            statistics.median(took),
            took[int(len(took) * 0.99)],
            took[-1],
            self._wasted,
        )

    def _at(self, moment: float, happens: Callable[..., None], *what: Any) -> None:
        if moment <= self._plan.seconds:
            entry = (moment, next(self._number), lambda: happens(*what))
            heapq.heappush(self._events, entry)

    def _prepare(self) -> None:
        plan, random = self._plan, self._random
        servers = list(self._servers.values())
        resources = list({server.resource.name: server.resource for server in servers}.values())
        for server in servers:
            self._at(random.uniform(0, plan.interval), self._probe, server)
        for _ in range(plan.sessions):
            moment = random.uniform(plan.interval, plan.seconds)
            stays = random.expovariate(1 / plan.stay)
            self._at(moment, self._come, random.choice(resources), moment + stays)
        for number in range(plan.failures):
            moment = random.uniform(plan.interval * 2, plan.seconds * 0.9)
            how = FROZEN if number % 2 else KILLED
            self._at(moment, self._fail, random.choice(servers), how)
        self._at(SAMPLE, self._sample)

    # -- sessions

    def _come(self, resource: Resource, ends: float) -> None:
        self._came += 1
        self._seek(_Session(resource, ends))

    def _seek(self, session: _Session) -> None:
        seed = self._random.getrandbits(32)
        order = self._sightings.order(session.resource, TargetKind.ANY, None, seed)
        self._try(session, (each.target for each in order if each.closed is None))

    def _try(self, session: _Session, left: Iterator[Target]) -> None:
        target = next(left, None)
        if target is None:
            self._refused += 1
            return
        server = self._servers[Spot(session.resource.name, target.address)]
        self._sightings.opened(target.address)
        if server.state == ALIVE:
            latency = self._plan.latency * self._random.uniform(0.8, 1.2)
            self._at(self._now + latency, self._open, session, server, left, latency)
            return
        self._wasted += 1
        patience = REFUSES if server.state == KILLED else self._plan.timeout
        self._at(self._now + patience, self._miss, session, server, left)

    def _miss(self, session: _Session, server: _Server, left: Iterator[Target]) -> None:
        address = server.target.address
        self._sightings.closed(address)
        self._sightings.failed(Spot(session.resource.name, address), "no answer")
        self._try(session, left)

    def _open(
        self, session: _Session, server: _Server, left: Iterator[Target], latency: float
    ) -> None:
        if server.state != ALIVE:
            self._miss(session, server, left)
            return
        self._sightings.connected(Spot(session.resource.name, server.target.address), latency)
        server.sessions.add(session)
        if session.hit is not None:
            self._reroutes.append(self._now - session.hit)
            session.hit = None
        self._at(max(session.ends, self._now), self._end, session, server)

    def _end(self, session: _Session, server: _Server) -> None:
        if session in server.sessions:
            server.sessions.remove(session)
            self._sightings.closed(server.target.address)

    def _move(self, server: _Server) -> None:
        """All that run there go elsewhere."""
        sessions, server.sessions = server.sessions, set()
        for session in sorted(sessions, key=lambda each: each.ends):
            self._sightings.closed(server.target.address)
            session.hit = server.since
            self._seek(session)

    # -- targets

    def _fail(self, server: _Server, how: str) -> None:
        if server.state != ALIVE:
            return
        server.state, server.since = how, self._now
        if how == KILLED:
            self._at(self._now + NOTICES, self._move, server)
        self._at(self._now + self._plan.outage, self._mend, server)

    def _mend(self, server: _Server) -> None:
        server.state, server.since = ALIVE, self._now

    def _probe(self, server: _Server) -> None:
        plan = self._plan
        took = {ALIVE: plan.latency, KILLED: REFUSES, FROZEN: plan.timeout}[server.state]
        self._at(self._now + took, self._probed, server, server.state)

    def _probed(self, server: _Server, state: str) -> None:
        down = None if state == ALIVE else state
        findings = Findings(down=down, hard=state == KILLED)
        self._sightings.probed(server.resource, server.target.address, findings)
        spot = Spot(server.resource.name, server.target.address)
        intervals = pause(self._sightings.sight(spot).health, self._random)
        self._at(self._now + self._plan.interval * intervals, self._probe, server)

    def _changed(self, spot: Spot, before: Sight, after: Sight) -> None:
        if after.health.lost and not before.health.lost:
            server = self._servers[spot]
            if server.state != ALIVE:
                self._move(server)

    # -- what is measured

    def _sample(self) -> None:
        by_resource: dict[str, list[_Server]] = {}
        for server in self._servers.values():
            by_resource.setdefault(server.resource.name, []).append(server)
        settled = self._now - RAMP - 2 * self._plan.stay
        for servers in by_resource.values():
            if all(each.state == ALIVE and each.since < settled for each in servers):
                counts = [len(each.sessions) for each in servers]
                mean = sum(counts) / len(counts)
                self._spread = max(self._spread, *(abs(count - mean) for count in counts))
        self._at(self._now + SAMPLE, self._sample)


def _resources(plan: Plan) -> Iterator[Resource]:
    addresses = [Address(f"target-{number}", 5432) for number in range(plan.targets)]
    for number, begin in enumerate(range(0, plan.targets, plan.each)):
        targets = tuple(Target(address) for address in addresses[begin : begin + plan.each])
        yield Resource(f"resource-{number}", Protocol.POSTGRESQL, targets)


@click.command()
@click.option("--targets", default=Plan().targets, show_default=True)
@click.option("--each", default=Plan().each, show_default=True, help="Targets of a resource.")
@click.option("--sessions", default=Plan().sessions, show_default=True)
@click.option("--seconds", default=Plan().seconds, show_default=True, help="In which they come.")
@click.option("--stay", default=Plan().stay, show_default=True, help="Of a session, on average.")
@click.option("--failures", default=Plan().failures, show_default=True)
@click.option("--outage", default=Plan().outage, show_default=True, help="Of a failed target.")
@click.option("--interval", default=Plan().interval, show_default=True)
@click.option("--timeout", default=Plan().timeout, show_default=True)
@click.option("--latency", default=Plan().latency, show_default=True, help="Of a log-in.")
@click.option("--seed", default=Plan().seed, show_default=True)
def main(**wanted: Any) -> None:
    """Simulate targets that fail; times are in seconds."""
    plan = Plan(**wanted)
    report = Simulation(plan).run()
    for name, value in asdict(report).items():
        click.echo(f"{name:<16}{value:>12g}")
    click.echo(f"{'error_rate':<16}{report.error_rate:>12.4%}")


if __name__ == "__main__":
    main()
