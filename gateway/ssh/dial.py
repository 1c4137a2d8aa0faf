"""Reaches an SSH target and logs in there, for a grant that somebody holds.

The target's host key is always checked against what the resource says. What goes wrong
costs this log-in only.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from functools import partial

import asyncssh
from attrs import field, frozen

from gateway import routing
from gateway.errors import ProtocolViolation, Unreachable
from gateway.health import Sightings
from gateway.model import Account, Address, Grant, Target, TargetKind
from gateway.reach import FAILURES, connect, words
from gateway.ssh.authority import SshAuthority
from gateway.ssh.legs import BY_APPLICATION
from gateway.ssh.peers import ALGORITHMS, ClientLeg

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
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._authority = authority
        self._sightings = sightings
        self._clock = clock
        self._timeout = timeout

    async def dial(self, grant: Grant, session_id: str) -> SshUpstream:
        """Try the grant's targets in order until one takes the session.

        :raises Unreachable: none did; the detail tells what each one said
        """
        said = []
        for target in self._order(grant):
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._attempt(grant, target, session_id)
            except (*FAILURES, asyncssh.Error) as failed:
                if not isinstance(failed, TargetSaidNo):
                    self._sightings.failed(target.address)
                said.append(f"{target.address}: {words(failed)}")
        raise Unreachable("; ".join(said) or "the resource has no targets")

    def _order(self, grant: Grant) -> list[Target]:
        targets, seen = grant.resource.targets, self._sightings.seen()
        order = routing.order(targets, TargetKind.ANY, seen, self._clock(), secrets.randbits(32))
        return [candidate.target for candidate in order]

    async def _attempt(self, grant: Grant, target: Target, session_id: str) -> SshUpstream:
        began = self._clock()
        options = await asyncio.to_thread(self._options, grant, target, session_id)
        wire = await connect(target.address, self._timeout)
        sock, _ = wire.take()
        leg = await log_in(sock, options)
        self._sightings.connected(target.address, self._clock() - began)
        self._sightings.opened(target.address)
        return SshUpstream(leg, target.address, partial(self._sightings.closed, target.address))

    def _options(
        self, grant: Grant, target: Target, session_id: str
    ) -> asyncssh.SSHClientConnectionOptions:
        """Keys are read here, in a thread: an RSA key takes a while to be checked."""
        return asyncssh.SSHClientConnectionOptions(
            config=None,
            host=target.address.host,
            port=target.address.port,
            known_hosts=_trusted(target),
            client_version="Gateway",
            username=grant.account.name,
            password=_password(grant.account),
            client_keys=self._keys(grant, session_id),
            preferred_auth=["publickey", "keyboard-interactive", "password"],
            agent_path=None,
            gss_host=None,
            host_based_auth=False,
            disable_trivial_auth=True,
            **ALGORITHMS,
        )

    def _keys(self, grant: Grant, session_id: str) -> list[object] | None:
        """Never empty: asyncssh would take the daemon's own, out of its home directory."""
        account = grant.account
        if account.minted:
            pair = self._authority.mint(account.name, session_id, grant.terms.ssh, self._clock())
            key = asyncssh.import_private_key(pair.private_key)
            return [(key, asyncssh.import_certificate(pair.certificate))]
        if account.private_key is not None:
            return [asyncssh.import_private_key(account.private_key.reveal())]
        return None


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
