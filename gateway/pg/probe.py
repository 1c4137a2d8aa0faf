"""One look at a PostgreSQL target: may a session be opened there, and what is it?

With a monitoring account it logs in and asks; without one it goes as far as TLS, which takes
a server process to answer. What it may not know (privileges) it goes without.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from cryptography.x509 import ExtensionNotFound, SubjectAlternativeName

from gateway.errors import ProtocolViolation
from gateway.health import Findings, Looking, RefusedAccounts, Spot
from gateway.health.trail import Trail
from gateway.identity.password import KeyCache
from gateway.model import Account, Resource, Target, TargetTls, TlsMode
from gateway.pg import frames
from gateway.pg.dial import NOT_NOW, TOO_MANY, WRONG_PASSWORD, secure
from gateway.pg.target_login import LAG, TargetLogin, TargetRefused
from gateway.reach import FAILURES, connect_to, resolve, words
from gateway.routing import ServerKind
from gateway.wire import Wire

DATABASE = "postgres"  # where one may ask if the resource names none: it is there by default
NAME = "gateway health"
SHOWN = 500  # characters of what a certificate says
FOREVER = 1e9  # seconds: a lag of 30 years is none
GREETINGS = (b"G", b"N", b"E")  # of a server that may encrypt, of others, of one before 12

_ASK = (
    "SELECT pg_catalog.json_build_array(r,"  # noqa: S608 -- of constants
    f" CASE WHEN r THEN {LAG} END,"
    " CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn()"
    " END OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn,"
    " CASE WHEN r THEN NULL ELSE"
    " pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END)"
    " FROM pg_catalog.pg_is_in_recovery() AS r"
)
_CONTROL = (  # anybody may ask, unless an administrator took that away
    "SELECT pg_catalog.json_build_array("
    "(SELECT system_identifier FROM pg_catalog.pg_control_system()),"
    " (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()))"
)


class PostgresProbe:
    """A :data:`gateway.health.Probe`."""

    def __init__(self, accounts: RefusedAccounts) -> None:
        self._accounts = accounts
        self._keys = KeyCache()

    async def __call__(
        self, resource: Resource, target: Target, seconds: float, *, fresh: bool = True
    ) -> Findings:
        """Always anew: a standby may have become the primary."""
        named = resource.health.account if resource.health is not None else None
        account = resource.accounts.get(named) if named is not None else None
        return (await self._walk(resource, target, account, seconds)).findings()

    async def look(
        self, resource: Resource, target: Target, account: Account | None, seconds: float
    ) -> Findings:
        """Of a certificate that is not trusted, it is also told what it says.

        :param account: with which to log in, None to stop before that
        """
        trail = await self._walk(resource, target, account, seconds)
        if trail.failed == "TLS":
            trail.skip("shown", await _shown(resource, target, seconds))
        return trail.findings()

    async def _walk(
        self, resource: Resource, target: Target, account: Account | None, seconds: float
    ) -> Trail:
        trail = Trail(time.monotonic)
        try:
            async with asyncio.timeout(seconds):
                await self._look(trail, resource, target, account)
        except TargetRefused as refused:
            self._judge(trail, refused, Spot(resource.name, target.address), account)
        except FAILURES as failed:
            trail.down(failed)
        return trail

    async def _look(
        self, trail: Trail, resource: Resource, target: Target, account: Account | None
    ) -> None:
        with trail.step("name") as told:
            places = await resolve(target.address)
            told.append(", ".join(sorted({place[0] for _, place in places})))
        with trail.step("TCP"):
            wire = await connect_to(places)
        try:
            purpose = Looking(resource, account or Account(""))
            binding = await self._secure(trail, wire, purpose, target)
            if account is None:
                trail.skip("log-in", "no monitoring account: health.account names one")
            elif barred := self._accounts.barred(Spot(resource.name, target.address), account):
                trail.skip("log-in", barred)
                trail.strained(f"log-in: {barred}")
            else:
                await self._ask(trail, TargetLogin(wire, purpose, binding, self._keys), purpose)
        finally:
            wire.close()

    async def _secure(
        self, trail: Trail, wire: Wire, purpose: Looking, target: Target
    ) -> bytes | None:
        if purpose.resource.tls.mode is not TlsMode.DISABLE:
            with trail.step("TLS") as told:
                binding = await secure(wire, purpose, target.address)
                told.extend(_about(wire))
            return binding
        if purpose.account.name:
            trail.skip("TLS", "disabled for this resource")
            return None
        # A socket that accepts proves nothing: the kernel does it. Of what may be asked for, a
        # server does not log that this one is not gone on with.
        with trail.step("greeting"):
            await wire.send(frames.gssenc_request())
            if (await wire.receive())[:1] not in GREETINGS:
                raise ProtocolViolation("is no PostgreSQL")
        return None

    async def _ask(self, trail: Trail, login: TargetLogin, purpose: Looking) -> None:
        account, resource = purpose.account, purpose.resource
        health = resource.health
        database = (health.database if health else None) or resource.database or DATABASE
        with trail.step("log-in") as told:
            await login.run(
                (("user", account.name), ("database", database), ("application_name", NAME))
            )
            told.append(f"{account.name} in {database}")
        with trail.step("role") as told:
            kind, lag, position, timeline = _answer(await login.value(_ASK))
            told.append(kind)
            trail.found(kind=kind, lag_seconds=lag, position=position)
        _tell_lag(trail, kind, lag)
        try:
            system, checkpointed = _identity(await login.value(_CONTROL))
        except TargetRefused:
            system, checkpointed = None, None
        trail.found(system=system, timeline=timeline or checkpointed)

    def _judge(
        self, trail: Trail, refused: TargetRefused, spot: Spot, account: Account | None
    ) -> None:
        """Of what a target refuses, only that it takes nobody at all makes it down."""
        state = refused.said.sqlstate
        if state in NOT_NOW:
            trail.down(refused)
            return
        if state == WRONG_PASSWORD and account is not None:
            self._accounts.refused(spot, account, str(refused))
        trail.strained("out of connections" if state == TOO_MANY else f"log-in: {refused}")


def _about(wire: Wire) -> list[str]:
    """The TLS version, and until when the certificate is good."""
    assert wire.tls is not None
    version = wire.tls.get_protocol_version_name()
    certificate = wire.tls.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        return [version]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return [version, f"its certificate is good for {left.days} days"]


async def _shown(resource: Resource, target: Target, seconds: float) -> str:
    """What the target's certificate says, believed or not. Nothing else is asked or told."""
    anyone = evolve(resource, tls=TargetTls(TlsMode.REQUIRE))
    try:
        async with asyncio.timeout(seconds):
            wire = await connect_to(await resolve(target.address))
            try:
                await secure(wire, Looking(anyone, Account("")), target.address)
                return _certificate(wire)[:SHOWN]
            finally:
                wire.close()
    except FAILURES as failed:
        return f"no certificate: {words(failed)}"


def _certificate(wire: Wire) -> str:
    assert wire.tls is not None
    found = wire.tls.get_peer_certificate(as_cryptography=True)
    if found is None:
        return "no certificate"
    try:
        names = found.extensions.get_extension_for_class(SubjectAlternativeName).value
        told = ", ".join(str(name.value) for name in names)
    except (ExtensionNotFound, ValueError):
        told = "no name"
    ends = found.not_valid_after_utc
    until = f"{'expired' if ends < datetime.now(UTC) else 'good until'} {ends:%Y-%m-%d %H:%M} UTC"
    return f"{until}, for {told}, issued by {found.issuer.rfc4514_string()}"


def _tell_lag(trail: Trail, kind: ServerKind, lag: float | None) -> None:
    if kind == "standby":
        with trail.step("lag") as told:
            told.append("not known" if lag is None else f"{lag:.1f} s behind")


def _answer(text: str | None) -> tuple[ServerKind, float | None, int | None, int | None]:
    """Kind, lag in seconds, position in bytes, timeline."""
    match _array(text):
        case [bool(recovering), lag, position, file]:
            kind: ServerKind = "standby" if recovering else "primary"
            return kind, _number(lag), _whole(position), _timeline(file)
        case _:
            raise ProtocolViolation("the target answers something else than what was asked")


def _identity(text: str | None) -> tuple[str | None, int | None]:
    match _array(text):
        case [int(system), timeline]:
            return str(system), _whole(timeline)
        case _:
            return None, None


def _array(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    """NaN and infinity are numbers to JSON in Python only."""
    good = isinstance(value, int | float) and abs(value) < FOREVER
    return max(0.0, float(value)) if good else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 64 else None


def _timeline(file: Any) -> int | None:
    """The name of a WAL file begins with it, in hexadecimal."""
    try:
        return int(file[:8], 16) if isinstance(file, str) else None
    except ValueError:
        return None
