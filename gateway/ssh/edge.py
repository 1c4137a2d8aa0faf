"""The client's side of an SSH connection, until it is a session."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import asyncssh
from attrs import frozen

from gateway.contracts import Credentials, Hops, Jump, SessionLog
from gateway.errors import (
    BadProof,
    Gone,
    LimitReached,
    NotAllowed,
    ProtocolViolation,
    Refused,
)
from gateway.identity.password import matches
from gateway.loginname import LoginName, judged, resource_of, split
from gateway.model import Ask, End, Grant, IPAddress, Protocol
from gateway.ssh import words
from gateway.ssh.authority import SshAuthority
from gateway.ssh.dial import SshDialer, SshUpstream
from gateway.ssh.legs import BY_APPLICATION, NO_MORE_METHODS, PROTOCOL_ERROR
from gateway.ssh.peers import ALGORITHMS, MAX_FAILURES, TOO_MANY, ServerLeg
from gateway.ssh.splice import Splice
from gateway.wire import Wire

MAX_HOPS = 64  # connections through one jump host connection at once
LINGER = 30.0  # seconds between looks whether a jump host connection is still of use
CERTIFIED = 3600  # seconds for which a host certificate is shown before it is made anew

Start = Callable[[ServerLeg], Awaitable[None]]
"""Gives a leg its transport."""


@frozen
class SshDoor:
    """What every SSH connection shares. ``names``: who the gateway itself is."""

    authority: SshAuthority
    dialer: SshDialer
    names: frozenset[str]
    domain: str | None
    clock: Callable[[], float]

    def options(self, names: frozenset[str]) -> asyncssh.SSHServerConnectionOptions:
        """To be the server of *names*; made anew each hour."""
        return _options(self.authority, names, int(self.clock() // CERTIFIED))


@lru_cache(maxsize=256)  # of names that somebody may reach; a millisecond and some KiB each
def _options(
    authority: SshAuthority, names: frozenset[str], hour: int
) -> asyncssh.SSHServerConnectionOptions:
    pairs = authority.host_pairs(names, hour * CERTIFIED)
    return asyncssh.SSHServerConnectionOptions(
        config=None,
        server_host_keys=[
            (
                asyncssh.import_private_key(pair.private_key),
                asyncssh.import_certificate(pair.certificate),
            )
            for pair in pairs
        ],
        server_version="Gateway",
        host_based_auth=False,
        gss_host=None,
        **ALGORITHMS,
    )


class SshEdge:
    """One client; implements :class:`gateway.contracts.Edge`."""

    def __init__(self, door: SshDoor, wire: Wire) -> None:
        self._door = door
        self._source = wire.source
        self._wire = wire
        self._doorman = Doorman(door)
        options = door.options(door.names)
        loop = asyncio.get_running_loop()
        self._leg = self._doorman.serve(loop, options)
        self._session_id = ""

    async def ask(self) -> Ask | Jump:
        """Read the client up to its log-in name.

        :raises ProtocolViolation: a malformed name
        """
        sock, _ = self._wire.take()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._leg, sock)
        self._leg.comes_from(self._source)
        return self._asked(await self._doorman.login())

    def _asked(self, name: LoginName) -> Ask | Jump:
        if name.resource is None:
            if name.account is not None:
                raise NotAllowed("an account is named, and no resource", words.NAME_ONE)
            return Jump(name.user, self._source, self._jump)
        return Ask(Protocol.SSH, name.user, name.resource, self._source, name.account)

    async def prove(self, credentials: Credentials) -> str:
        return await self._doorman.prove(credentials)

    async def refuse(self, refusal: Refused, quote: str) -> None:
        code = BY_APPLICATION
        if isinstance(refusal, ProtocolViolation):
            code = PROTOCOL_ERROR
        elif isinstance(refusal, BadProof):
            code = NO_MORE_METHODS
        self._leg.part(code, words.refusal(refusal, quote))
        await self._doorman.gone()

    def _jump(self, hops: Hops) -> None:
        """Let the client connect to resources through this connection."""
        self._doorman.jump(self._source, hops)
        self._leg.go_on()

    async def dial(self, grant: Grant, session_id: str) -> SshUpstream:
        self._session_id = session_id
        return await self._door.dialer.dial(grant, session_id)

    def splice(
        self, upstream: SshUpstream, grant: Grant, log: SessionLog, done: Callable[[End], None]
    ) -> Splice:
        def over(end: End) -> None:
            upstream.release()
            done(end)

        legs = (self._leg, upstream.leg)
        splice = Splice(self._session_id, log, grant.terms, legs, over)
        splice.begin()
        return splice

    def close(self) -> None:
        self._leg.abort()


class InnerEdge(SshEdge):
    """A client that came through a connection on which it has proved who it is.

    Its log-in name is the account.
    """

    def __init__(
        self, door: SshDoor, user: str, source: IPAddress, resource: str, host: str
    ) -> None:
        self._door = door
        self._source = source
        self._user = user
        self._resource = resource
        self._doorman = Doorman(door, trusted=True)
        options = door.options(frozenset({host}))
        self._leg = self._doorman.serve(asyncio.get_running_loop(), options)
        self._session_id = ""

    @property
    def leg(self) -> ServerLeg:
        return self._leg

    async def ask(self) -> Ask:
        account = judged(await self._doorman.account(), "account")
        return Ask(Protocol.SSH, self._user, self._resource, self._source, account)

    async def prove(self, credentials: Credentials) -> str:
        """Proved where it came from; what has changed since is in the *credentials*."""
        if not credentials.enabled:
            raise BadProof("the user may not log in any more")
        self._doorman.trust()
        await self._doorman.proved
        return "jump"


class Doorman(asyncssh.SSHServer):
    """Whom asyncssh asks about a client.

    :param trusted: the client needs no proof: it has given it elsewhere
    """

    def __init__(self, door: SshDoor, *, trusted: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._door = door
        self._trusted = trusted
        self._name: asyncio.Future[str] = loop.create_future()
        self._credentials: asyncio.Future[Credentials | None] = loop.create_future()
        self._gone = asyncio.Event()
        self._method = ""
        self._tried = False
        self._guesses = 0
        self._hops: Hops | None = None
        self._source: IPAddress
        self._inner: set[InnerEdge] = set()
        self._quiet = False
        self.proved: asyncio.Future[str] = loop.create_future()
        self.leg: ServerLeg

    def serve(
        self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHServerConnectionOptions
    ) -> ServerLeg:
        self.leg = ServerLeg(loop, options, self, self._user)
        return self.leg

    def _user(self) -> str:
        return split(self._name.result()).user

    # -- what the story waits for

    async def login(self) -> LoginName:
        """:raises Gone: the client is"""
        return split(await self._name)

    async def account(self) -> str:
        """:raises Gone: the client is"""
        return await self._name

    async def prove(self, credentials: Credentials) -> str:
        """How the client proved to be the user of *credentials*.

        :raises BadProof: it tried and could not
        """
        if not self._credentials.done():  # by a client that has gone
            self._credentials.set_result(credentials)
        try:
            return await self.proved
        except Gone:
            if self._tried:
                raise BadProof("no key and no password that it offered is the user's") from None
            raise

    def trust(self) -> None:
        if not self._credentials.done():
            self._credentials.set_result(None)

    async def gone(self) -> None:
        await self._gone.wait()

    # -- what asyncssh tells and asks

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self._name, self._credentials, self.proved):
            if not future.done():
                future.set_exception(Gone())
                future.exception()  # seen: nobody may be waiting
        self._gone.set()
        if self._hops is not None:
            self._hops.leave()
        self.leg.over(exc)

    async def begin_auth(self, username: str) -> bool:
        if self._name.done():
            raise asyncssh.DisconnectError(PROTOCOL_ERROR, "the user name may not change")
        self._name.set_result(username)
        try:
            await asyncio.shield(self._credentials)
        except Gone:
            raise asyncssh.ConnectionLost("gone") from None
        return not self._trusted

    def auth_completed(self) -> None:
        if not self.proved.done():
            self.proved.set_result(self._method)

    def public_key_auth_supported(self) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Offered, or used: asyncssh checks the signature itself."""
        self._tried = True
        credentials = self._credentials.result()
        assert credentials is not None
        if key.public_data in _blobs(credentials.ssh_keys):
            self._method = "publickey"
            return True
        return False

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._tried = True
        credentials = self._credentials.result()
        trusted = asyncssh.import_public_key(self._door.authority.user_ca_line())
        if credentials is None or not credentials.enabled or key.public_data != trusted.public_data:
            return False
        self._method = "certificate"
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """In a thread: it takes a millisecond, and more for verifiers that are harder.

        asyncssh counts nothing, and drops the answer if the next guess does not wait for it.
        """
        self._guesses += 1
        if self._guesses > MAX_FAILURES:
            raise asyncssh.DisconnectError(NO_MORE_METHODS, TOO_MANY)
        self._tried = True
        credentials = self._credentials.result()
        assert credentials is not None
        right = await asyncio.to_thread(matches, credentials.verifier, password)
        if right and credentials.enabled:
            self._method = "password"
            return True
        return False

    # -- jump host

    def jump(self, source: IPAddress, hops: Hops) -> None:
        """:raises Gone: the client is"""
        if self._gone.is_set():
            raise Gone
        self._source = source
        self._hops = hops
        self._linger()

    def _linger(self) -> None:
        """Hang up when nothing has gone through for a while: nobody is behind it."""
        if self._gone.is_set():
            return
        if all(edge.leg.is_closed() for edge in self._inner) and self._quiet:
            self.leg.part(BY_APPLICATION, "nothing goes through this connection")
            return
        self._quiet = all(edge.leg.is_closed() for edge in self._inner)
        asyncio.get_running_loop().call_later(LINGER, self._linger)

    def session_requested(self) -> bool:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, words.NAME_ONE)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Any:
        """The client wants to go to *dest_host*: we are it, and go on inside the channel."""
        resource = resource_of(dest_host, self._door.domain)
        resource = dest_host if resource is None else resource
        try:
            hops = self._way_to(resource)
        except Refused as refused:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, refused.public
            ) from None
        edge = InnerEdge(self._door, hops.user, self._source, resource, dest_host)
        self._inner.add(edge)
        self.leg.carry(edge.leg)
        hops.begin(edge)
        return edge.leg

    def _way_to(self, resource: str) -> Hops:
        """What may be opened towards *resource*.

        :raises Refused: it may not be opened, and why
        """
        judged(resource, "resource")
        self._inner = {edge for edge in self._inner if not edge.leg.is_closed()}
        if self._hops is None:
            raise NotAllowed("no jump")
        if len(self._inner) >= MAX_HOPS:
            raise LimitReached(f"{MAX_HOPS} sessions through one connection")
        self._hops.judge(resource)
        return self._hops


@lru_cache(maxsize=4096)  # of people who log in these days; a few hundred bytes each
def _blobs(lines: tuple[str, ...]) -> frozenset[bytes]:
    """The keys in public key lines. Kept, so that it does not show how many there are."""
    return frozenset(b64decode(line.split()[1]) for line in lines)
