"""Reaches a target and logs in there, for a grant that somebody holds.

The target is hostile until it has proved to know the account's secret: what it may ask
for, how long its messages are and how many, and how long it takes are all bounded, and
what goes wrong costs this log-in only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

from attrs import field, frozen

from gateway import routing
from gateway.certificates import check_name, client_context, tls_server_end_point
from gateway.contracts import CancelKey
from gateway.errors import ProtocolViolation, Unreachable
from gateway.health import Sightings
from gateway.identity.password import KeyCache
from gateway.model import Address, Grant, TargetKind, TlsMode
from gateway.pg import frames
from gateway.pg.target_login import TargetLogin, TargetRefused, WrongKind
from gateway.reach import FAILURES, connect, words
from gateway.wire import Wire

CANCELLING = 5.0  # seconds for a cancel request to be delivered; it never gets an answer


@frozen
class Upstream:
    """A logged-in connection to a target.

    ``parameters``: the ParameterStatus messages, to pass on; ``key``: what cancels its
    queries, None if the target gave none; ``rest``: what it has said beyond the log-in.
    """

    wire: Wire
    target: Address
    key: CancelKey | None
    parameters: Mapping[str, str]
    rest: bytes = field(repr=False)
    release: Callable[[], None]

    @property
    def address(self) -> str:
        return str(self.target)

    def abort(self) -> None:
        self.wire.close()
        self.release()


class PostgresDialer:
    """:param timeout: seconds one target gets, from connecting to being logged in"""

    def __init__(
        self,
        sightings: Sightings,
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._sightings = sightings
        self._clock = clock
        self._timeout = timeout
        self._keys = KeyCache()

    async def dial(self, grant: Grant, parameters: frames.Parameters) -> Upstream:
        """Try the grant's targets in order until one takes the session.

        *parameters* is the start-up message for the target.

        :raises Unreachable: none did; the detail tells what each one said
        """
        wanted = grant.terms.targets
        prefers = wanted is TargetKind.PREFER_STANDBY
        rounds = (TargetKind.STANDBY, TargetKind.ANY) if prefers else (wanted,)
        failures: dict[Address, str] = {}
        for kind in rounds:
            for target in self._order(grant, kind, down=failures):
                try:
                    async with asyncio.timeout(self._timeout):
                        return await self._attempt(grant, target, kind, tuple(parameters))
                except FAILURES as failed:
                    if _is_down(failed):
                        self._sightings.failed(target)
                    if not isinstance(failed, WrongKind) or kind is rounds[-1]:
                        failures[target] = words(failed)
        said = (f"{target}: {why}" for target, why in failures.items())
        raise Unreachable("; ".join(said) or "no target is a standby or a primary that fits")

    def _order(
        self, grant: Grant, kind: TargetKind, down: Collection[Address]
    ) -> Iterator[Address]:
        targets = [target for target in grant.resource.targets if target.address not in down]
        seen = self._sightings.seen()
        order = routing.order(targets, kind, seen, self._clock(), secrets.randbits(32))
        return (candidate.target.address for candidate in order)

    async def _attempt(
        self, grant: Grant, target: Address, wanted: TargetKind, parameters: frames.Parameters
    ) -> Upstream:
        began = self._clock()
        wire = await connect(target, self._timeout)
        try:
            binding = await self._secure(wire, grant, target)
            login = TargetLogin(wire, grant, binding, self._keys)
            await login.run(parameters)
            self._sightings.connected(target, self._clock() - began)
            kind = await login.kind()
            if kind is not None:
                self._sightings.found(target, kind)
            await login.judge(kind, wanted)
        except BaseException:
            wire.close()
            raise
        self._sightings.opened(target)
        release = partial(self._sightings.closed, target)
        return Upstream(wire, target, login.key, login.parameters, login.rest(), release)

    async def _secure(self, wire: Wire, grant: Grant, address: Address) -> bytes | None:
        """Start TLS as the resource has it; returns the channel binding, None without TLS."""
        resource = grant.resource
        if resource.tls.mode is TlsMode.DISABLE:
            return None
        await wire.send(frames.ssl_request())
        answer = await wire.receive()
        if answer != b"S":  # more than one byte would be clear text behind the answer
            raise ProtocolViolation("the target does not speak TLS")
        context = client_context(resource.tls, grant.account)
        await wire.start_tls(context, _server_name(address))
        assert wire.tls is not None
        if resource.tls.mode is TlsMode.VERIFY_FULL:
            check_name(wire.tls, address.host)
        certificate = wire.tls.get_peer_certificate(as_cryptography=True)
        return tls_server_end_point(certificate) if certificate is not None else None

    async def cancel(self, grant: Grant, upstream: Upstream) -> None:
        """Ask the target to cancel what *upstream* runs; returns when it has been heard.

        Never fails: a cancel request is a wish, and PostgreSQL answers none either.
        """
        if upstream.key is None:
            return
        with suppress(*FAILURES):
            async with asyncio.timeout(CANCELLING):
                wire = await connect(upstream.target, CANCELLING)
                try:
                    await self._secure(wire, grant, upstream.target)
                    await wire.send(frames.cancel_request(upstream.key))
                    await wire.receive()
                finally:
                    wire.close()


def _server_name(address: Address) -> str | None:
    """SNI carries names only (RFC 6066, chapter 3)."""
    try:
        ip_address(address.host)
    except ValueError:
        return address.host
    return None


def _is_down(failed: BaseException) -> bool:
    """True unless the target works, and only would not have this session."""
    if isinstance(failed, TargetRefused):
        return failed.said.sqlstate.startswith("57P")  # starting, stopping, recovering
    return not isinstance(failed, WrongKind)
