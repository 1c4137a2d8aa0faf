"""What was last seen of each target. So far only from the sessions that went there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import evolve

from gateway.contracts import Clock
from gateway.model import Address
from gateway.routing import Seen, ServerKind


class Sightings:
    """Remembers by address. *clock* is the one that :func:`gateway.routing.order` is given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[Address, Seen] = {}

    def seen(self) -> Mapping[Address, Seen]:
        return MappingProxyType(self._seen)

    def connected(self, address: Address, latency: float) -> None:
        """A connection and log-in worked; *latency* in seconds."""
        self._change(address, lambda was: evolve(was, failed_at=None, latency=latency))

    def failed(self, address: Address) -> None:
        now = self._clock()
        self._change(address, lambda was: evolve(was, failed_at=now))

    def found(self, address: Address, kind: ServerKind) -> None:
        """The target said which it is."""
        self._change(address, lambda was: evolve(was, kind=kind))

    def opened(self, address: Address) -> None:
        """A session runs there; each is to be followed by one :meth:`closed`."""
        self._change(address, lambda was: evolve(was, open_sessions=was.open_sessions + 1))

    def closed(self, address: Address) -> None:
        self._change(address, lambda was: evolve(was, open_sessions=was.open_sessions - 1))

    def keep(self, addresses: frozenset[Address]) -> None:
        """Forget targets that no resource has any more and no session uses."""
        for address, seen in list(self._seen.items()):
            if address not in addresses and not seen.open_sessions:
                del self._seen[address]

    def _change(self, address: Address, change: Callable[[Seen], Seen]) -> None:
        self._seen[address] = change(self._seen.get(address, Seen()))
