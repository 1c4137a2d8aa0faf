"""Reaches a target and logs in there, for a grant that somebody holds.

The target is hostile until it has proved to know the account's secret: what it may ask
for, how long its messages are and how many, and how long it takes are all bounded, and
what goes wrong costs this log-in only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

from attrs import define, field, frozen

from gateway.certificates import check_name, client_context, tls_server_end_point
from gateway.contracts import CancelKey, Purpose
from gateway.errors import (
    BadParameter,
    NoSuchDatabase,
    ProtocolViolation,
    Refused,
    Unreachable,
)
from gateway.health import RefusedAccounts, Sightings, Spot
from gateway.identity.password import KeyCache
from gateway.model import Address, Grant, TargetKind, TlsMode
from gateway.pg import frames
from gateway.pg.target_login import TargetLogin, TargetRefused, WrongKind
from gateway.reach import FAILURES, connect, words
from gateway.wire import Wire

TOO_MANY, WRONG_PASSWORD = "53300", "28P01"
NO_DATABASE = "3D000"
BAD_PARAMETER = frozenset({"22023", "42704"})  # of an impossible value, or of no known name
NOT_NOW = frozenset({"57P01", "57P02", "57P03"})  # stopping, crashed, starting or recovering
CANCELLING = 5.0  # seconds for a cancel request to be delivered; it never gets an answer


@frozen
class Upstream:
    """A logged-in connection to a target.

    ``parameters``: the ParameterStatus messages, to pass on; ``key``: what cancels its
    queries, None if the target gave none; ``rest``: what it has said beyond the log-in;
    ``system``: whose data it has, "" where it does not say, or nobody wants to know.
    """

    wire: Wire
    target: Address
    key: CancelKey | None
    parameters: Mapping[str, str]
    rest: bytes = field(repr=False)
    release: Callable[[], None]
    system: str = ""

    @property
    def address(self) -> str:
        return str(self.target)

    def abort(self) -> None:
        self.wire.close()
        self.release()


@define(eq=False)
class _Attempt:
    """One target, tried for one session. ``login``: None before it could be begun."""

    grant: Grant
    target: Address
    wanted: TargetKind
    login: TargetLogin | None = None

    @property
    def spot(self) -> Spot:
        return Spot(self.grant.resource.name, self.target)

    @property
    def admitted(self) -> bool:
        return self.login is not None and self.login.admitted


class PostgresDialer:
    """:param timeout: seconds one target gets, from connecting to being logged in"""

    def __init__(
        self,
        sightings: Sightings,
        accounts: RefusedAccounts,
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._sightings = sightings
        self._accounts = accounts
        self._clock = clock
        self._timeout = timeout
        self._keys = KeyCache()

    async def dial(self, grant: Grant, parameters: frames.Parameters) -> Upstream:
        """Try the grant's targets in order until one takes the session.

        *parameters* is the start-up message for the target. Those that are down are not tried.

        :raises Unreachable: none did; the detail tells what each one said
        :raises NoSuchDatabase, BadParameter: none did, one of them for what the client itself
            named in its start-up message
        """
        wanted = grant.terms.targets
        prefers = wanted is TargetKind.PREFER_STANDBY
        rounds = (TargetKind.STANDBY, TargetKind.ANY) if prefers else (wanted,)
        failures: dict[Address, str] = {}
        public: type[Refused] = Unreachable
        for kind in rounds:
            for target in self._order(grant, kind, failures):
                attempt = _Attempt(grant, target, kind)
                try:
                    async with asyncio.timeout(self._timeout):
                        return await self._attempt(attempt, tuple(parameters))
                except FAILURES as failed:
                    self._blame(attempt, failed)
                    if isinstance(failed, TargetRefused):
                        public = _for_the_client(grant, failed) or public
                    if not isinstance(failed, WrongKind) or kind is rounds[-1]:
                        failures[target] = words(failed)
        said = (f"{target}: {why}" for target, why in failures.items())
        raise public("; ".join(said) or "no target is a standby or a primary that fits")

    def _order(
        self, grant: Grant, kind: TargetKind, failures: dict[Address, str]
    ) -> Iterator[Address]:
        """Those that are to be tried; why others are not goes into *failures*."""
        resource, lag = grant.resource, grant.terms.max_lag_seconds
        order = self._sightings.order(resource, kind, lag, secrets.randbits(32))
        sifted = self._accounts.sift(resource.name, grant.account, order, failures)
        return (target.address for target in sifted)

    async def _attempt(self, attempt: _Attempt, parameters: frames.Parameters) -> Upstream:
        target, began = attempt.target, self._clock()
        self._sightings.opened(target)
        release = partial(self._sightings.closed, target)
        try:
            wire = await connect(target, self._timeout)
            try:
                login = await self._log_in(attempt, wire, parameters)
                self._sightings.connected(attempt.spot, self._clock() - began)
                kind = await login.kind()
                if kind is not None:
                    self._sightings.found(attempt.spot, kind)
                await login.judge(kind, attempt.wanted)
                system = await self._system(attempt, login)
            except BaseException:
                wire.close()
                raise
        except BaseException:
            release()
            raise
        said = login.parameters, login.rest()
        return Upstream(wire, target, login.key, *said, release, system)

    async def _system(self, attempt: _Attempt, login: TargetLogin) -> str:
        """Whose data the target has. What it has told somebody holds while it is up; that it
        tells nothing may be due to this session's account or settings."""
        if not attempt.grant.resource.move_idle_sessions:
            return ""
        known = self._sightings.sight(attempt.spot).system
        if known is not None:
            return known
        told = await login.system()
        if told:
            self._sightings.identified(attempt.spot, told)
        return told

    async def _log_in(
        self, attempt: _Attempt, wire: Wire, parameters: frames.Parameters
    ) -> TargetLogin:
        grant = attempt.grant
        binding = await secure(wire, grant, attempt.target)
        attempt.login = login = TargetLogin(wire, grant, binding, self._keys)
        await login.run(parameters)
        self._accounts.worked(attempt.spot, grant.account)
        return login

    def _blame(self, attempt: _Attempt, failed: BaseException) -> None:
        """What a failure says of the target, and what only of this session.

        A person chooses settings of their own session, some of which make a log-in fail or
        take long: once the target has let the account in, nothing takes it from the others.
        """
        spot, why = attempt.spot, words(failed)
        if isinstance(failed, TargetRefused):
            state = failed.said.sqlstate
            if state in NOT_NOW:
                self._sightings.failed(spot, why)
            elif state == TOO_MANY:
                self._sightings.strained(spot, why)
            elif state == WRONG_PASSWORD:
                self._accounts.refused(spot, attempt.grant.account, why)
        elif isinstance(failed, WrongKind):
            pass
        elif attempt.admitted and isinstance(failed, TimeoutError):
            self._sightings.slow(spot, self._timeout)
        elif attempt.admitted or (attempt.login and isinstance(failed, ProtocolViolation)):
            self._sightings.strained(spot, why)
        else:
            self._sightings.failed(spot, why)

    async def visit(self, grant: Grant, target: Address, parameters: frames.Parameters) -> Upstream:
        """Log in at *target*, whatever is thought of it; any of :data:`FAILURES`."""
        async with asyncio.timeout(self._timeout):
            return await self._attempt(_Attempt(grant, target, TargetKind.ANY), tuple(parameters))

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
                    await secure(wire, grant, upstream.target)
                    await wire.send(frames.cancel_request(upstream.key))
                    await wire.receive()
                finally:
                    wire.close()


def _for_the_client(grant: Grant, refused: TargetRefused) -> type[Refused] | None:
    """What only the client can mend: trying again does not help."""
    sqlstate = refused.said.sqlstate
    if sqlstate == NO_DATABASE:
        return NoSuchDatabase if grant.ask.database else None
    return BadParameter if sqlstate in BAD_PARAMETER else None


async def secure(wire: Wire, purpose: Purpose, address: Address) -> bytes | None:
    """Start TLS as the resource has it; returns the channel binding, None without TLS."""
    resource = purpose.resource
    if resource.tls.mode is TlsMode.DISABLE:
        return None
    await wire.send(frames.ssl_request())
    answer = await wire.receive()
    if answer != b"S":  # more than one byte would be clear text behind the answer
        raise ProtocolViolation("the target does not speak TLS")
    context = client_context(resource.tls, purpose.account)
    await wire.start_tls(context, _server_name(address))
    assert wire.tls is not None
    if resource.tls.mode is TlsMode.VERIFY_FULL:
        check_name(wire.tls, address.host)
    certificate = wire.tls.get_peer_certificate(as_cryptography=True)
    return tls_server_end_point(certificate) if certificate is not None else None


def _server_name(address: Address) -> str | None:
    """SNI carries names only (RFC 6066, chapter 3)."""
    try:
        ip_address(address.host)
    except ValueError:
        return address.host
    return None
