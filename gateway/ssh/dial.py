"""Reaches an SSH target and logs in there, for a grant that somebody holds.

The target's host key is always checked against what the resource says. What goes wrong
costs this log-in only.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import asyncssh
from attrs import field, frozen

from gateway.contracts import Purpose
from gateway.errors import ProtocolViolation, Unreachable
from gateway.health import RefusedAccounts, Sightings, Spot
from gateway.model import Account, Address, Grant, Target, TargetKind
from gateway.reach import FAILURES, connect, words
from gateway.ssh.authority import SshAuthority
from gateway.ssh.legs import BY_APPLICATION
from gateway.ssh.peers import ALGORITHMS, ClientLeg

STRANGER = "gateway-health"  # a name that targets' logs explain by themselves
SOONER = 60  # seconds of silence before TCP asks whether the target is still there


@frozen
class SshUpstream:
    """A leg that is logged in at a target."""

    leg: ClientLeg
    target: Address
    release: Callable[[], None] = field(repr=False)

    @property
    def address(self) -> str:
        return str(self.target)

    def abort(self) -> None:
        self.leg.part(BY_APPLICATION, "")
        self.release()


class TargetSaidNo(Unreachable):
    """The target works, and refuses the account."""


class SshDialer:
    """:param timeout: seconds one target gets, from connecting to being logged in"""

    def __init__(
        self,
        authority: SshAuthority,
        sightings: Sightings,
        accounts: RefusedAccounts,
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._authority = authority
        self._sightings = sightings
        self._accounts = accounts
        self._clock = clock
        self._timeout = timeout

    async def dial(self, grant: Grant, session_id: str) -> SshUpstream:
        """Try the grant's targets in order until one takes the session.

        Those that are down are not tried.

        :raises Unreachable: none did; the detail tells what each one said
        """
        failures: dict[Address, str] = {}
        for target in self._order(grant, failures):
            spot = Spot(grant.resource.name, target.address)
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._attempt(grant, target, session_id)
            except TargetSaidNo as refused:
                self._accounts.refused(spot, grant.account, refused.detail)
                failures[target.address] = refused.detail
            except (*FAILURES, asyncssh.Error) as failed:
                self._sightings.failed(spot, words(failed))
                failures[target.address] = words(failed)
        said = (f"{address}: {why}" for address, why in failures.items())
        raise Unreachable("; ".join(said) or "the resource has no targets")

    def _order(self, grant: Grant, failures: dict[Address, str]) -> Iterator[Target]:
        """Those that are to be tried; why others are not goes into *failures*."""
        resource, seed = grant.resource, secrets.randbits(32)
        order = self._sightings.order(resource, TargetKind.ANY, None, seed)
        return self._accounts.sift(resource.name, grant.account, order, failures)

    async def _attempt(self, grant: Grant, target: Target, session_id: str) -> SshUpstream:
        address, began = target.address, self._clock()
        spot = Spot(grant.resource.name, address)
        self._sightings.opened(address)
        release = partial(self._sightings.closed, address)
        try:
            options = await asyncio.to_thread(self.options, grant, target, session_id)
            wire = await connect(address, self._timeout)
            sock, _ = wire.take()
            leg = await log_in(sock, options)
        except BaseException:
            release()
            raise
        self._accounts.worked(spot, grant.account)
        self._sightings.connected(spot, self._clock() - began)
        return SshUpstream(leg, address, release)

    def options(
        self, purpose: Purpose, target: Target, session_id: str
    ) -> asyncssh.SSHClientConnectionOptions:
        """Keys are read here, in a thread: an RSA key takes a while to be checked."""
        return _options(
            target,
            username=purpose.account.name,
            password=_password(purpose.account),
            client_keys=self._keys(purpose, session_id),
            preferred_auth=["publickey", "keyboard-interactive", "password"],
        )

    def _keys(self, purpose: Purpose, session_id: str) -> list[object] | None:
        """Never empty: asyncssh would take the daemon's own, out of its home directory."""
        account, rights = purpose.account, purpose.terms.ssh
        if account.minted:
            pair = self._authority.mint(account.name, session_id, rights, self._clock())
            key = asyncssh.import_private_key(pair.private_key)
            return [(key, asyncssh.import_certificate(pair.certificate))]
        if account.private_key is not None:
            return [asyncssh.import_private_key(account.private_key.reveal())]
        return None


def stranger(target: Target) -> asyncssh.SSHClientConnectionOptions:
    """For a connection on which nobody is to be let in: it shows whose host key that is."""
    return _options(
        target,
        username=STRANGER,
        password=None,
        client_keys=None,  # empty, it would be the daemon's own
        preferred_auth=["password"],
    )


def _options(target: Target, **who: Any) -> asyncssh.SSHClientConnectionOptions:
    """For *who* logs in. Nothing comes out of the daemon's home directory."""
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        host=target.address.host,
        port=target.address.port,
        known_hosts=_trusted(target),
        client_version="Gateway",
        agent_path=None,
        gss_host=None,
        host_based_auth=False,
        disable_trivial_auth=True,
        **who,
        **ALGORITHMS,
    )


def _password(account: Account) -> str | None:
    if account.password is None:
        return None
    return account.password.reveal().decode("utf-8", "surrogateescape")


def _trusted(target: Target) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[object]]:
    """Host keys, host CAs, revoked ones. Never None, which would trust anybody."""
    keys = [asyncssh.import_public_key(target.host_key)] if target.host_key else []
    authorities = [asyncssh.import_public_key(target.host_ca)] if target.host_ca else []
    return keys, authorities, []


class _Guest(asyncssh.SSHClient):
    """Whom asyncssh tells of the log-in, and of the connection's end."""

    def __init__(self, inside: asyncio.Future[None]) -> None:
        self._inside = inside
        self.leg: ClientLeg

    def auth_completed(self) -> None:
        if not self._inside.done():
            self._inside.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._inside.done():
            self._inside.set_exception(_reworded(exc))
        self.leg.over(exc)


async def log_in(sock: socket.socket, options: asyncssh.SSHClientConnectionOptions) -> ClientLeg:
    """A leg on *sock*, which it owns, logged in.

    :raises Unreachable: the target is not who it should be, or refuses
    """
    loop = asyncio.get_running_loop()
    inside: asyncio.Future[None] = loop.create_future()
    guest = _Guest(inside)
    guest.leg = leg = ClientLeg(loop, options, guest)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SOONER)
    await loop.create_connection(lambda: leg, sock=sock)
    try:
        await inside
    except BaseException:
        leg.abort()
        raise
    return leg


def _reworded(error: Exception | None) -> Exception:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return Unreachable(f"host key: {error.reason}")
    if isinstance(error, asyncssh.PermissionDenied) and error.reason.startswith("Trivial"):
        return Unreachable("lets in whoever comes: it may be after what is said then")
    if isinstance(error, asyncssh.PermissionDenied):
        return TargetSaidNo(f"refuses the account: {error.reason}")
    if isinstance(error, asyncssh.ProtocolError):
        return ProtocolViolation(error.reason)
    return Unreachable(str(error) if error is not None else "closed the connection")
