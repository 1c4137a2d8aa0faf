"""One look at an SSH target: does it greet, and is it who it should be?

Servers that are up are left in peace for a while: a session that cannot be opened there makes
the next look a fresh one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import asyncssh
from attrs import frozen

from gateway.errors import ProtocolViolation
from gateway.health import Findings, Looking
from gateway.health.trail import Trail
from gateway.model import Account, Address, Resource, Target
from gateway.reach import FAILURES, connect_to, resolve
from gateway.ssh.dial import SshDialer, TargetSaidNo, log_in, stranger
from gateway.wire import Wire

REST = 10.0  # seconds between two looks at a server that is up: sshd logs each of them, and shuts
# out who often comes and does not log in (PerSourcePenalties), which would be the gateway
AGAIN = 60.0  # seconds until a host key is looked at again: each time sshd logs a failed log-in
MOST = 10_000  # targets remembered: more than a company has; the oldest are forgotten first
MAX_BANNER = 8192  # bytes before the version line, as OpenSSH's own client has it

Server = tuple[Address, str | None, str | None]
"""Where it is, its host key, and who signs its host key."""
Walk = Callable[[Trail, Wire, Target], Awaitable[None]]


@frozen
class _Proof:
    """``at``: when it was looked at last, ``proved``: when it showed its host key."""

    findings: Findings
    at: float
    proved: float


class SshProbe:
    """A :data:`gateway.health.Probe`. *dialer* makes what a log-in needs."""

    def __init__(self, dialer: SshDialer) -> None:
        self._dialer = dialer
        self._proofs: dict[Server, _Proof] = {}  # of servers, whatever resources have them

    async def __call__(
        self, resource: Resource, target: Target, seconds: float, *, fresh: bool = True
    ) -> Findings:
        """The host key is looked at now and then; in between the banner has to do."""
        server, now = (target.address, target.host_key, target.host_ca), time.monotonic()
        proof = self._proofs.pop(server, None)
        if proof is not None and not fresh and now - proof.at < REST:
            self._proofs[server] = proof
            return proof.findings
        again = proof is not None and now - proof.proved < AGAIN
        findings = await _walk(target, seconds, (_banner if again else _host_key,))
        if findings.down is None:
            proved = proof.proved if proof is not None and again else now
            self._remember(server, _Proof(findings, now, proved))
        return findings

    async def look(
        self, resource: Resource, target: Target, account: Account | None, seconds: float
    ) -> Findings:
        """:param account: with which to log in, None to stop before that"""

        async def log_in(trail: Trail, wire: Wire, target: Target) -> None:
            assert account is not None
            await self._log_in(trail, wire, target, Looking(resource, account))

        steps = (_banner, _host_key, *((log_in,) if account is not None else ()))
        return await _walk(target, seconds, steps)

    async def _log_in(self, trail: Trail, wire: Wire, target: Target, purpose: Looking) -> None:
        try:
            with trail.step("log-in") as told:
                await _knock(wire, lambda: self._dialer.options(purpose, target, "health"))
                told.append(purpose.account.name)
        except TargetSaidNo as refused:
            trail.strained(f"log-in: {refused.detail}")

    def _remember(self, server: Server, proof: _Proof) -> None:
        if len(self._proofs) >= MOST:
            del self._proofs[next(iter(self._proofs))]
        self._proofs[server] = proof


async def _walk(target: Target, seconds: float, steps: Sequence[Walk]) -> Findings:
    """Each of *steps* has a connection of its own, and closes it."""
    trail = Trail(time.monotonic)
    try:
        async with asyncio.timeout(seconds):
            with trail.step("name") as told:
                places = await resolve(target.address)
                told.append(", ".join(sorted({place[0] for _, place in places})))
            with trail.step("TCP"):
                wire = await connect_to(places)
            for number, step in enumerate(steps):
                if number:
                    wire = await connect_to(places)
                await step(trail, wire, target)
    except (*FAILURES, asyncssh.Error) as failed:
        trail.down(failed)
    return trail.findings()


async def _banner(trail: Trail, wire: Wire, target: Target) -> None:
    try:
        with trail.step("banner") as told:
            told.append(await _version(wire))
    finally:
        wire.close()


async def _host_key(trail: Trail, wire: Wire, target: Target) -> None:
    with trail.step("host key") as told:
        with suppress(TargetSaidNo):  # as it should: whose key that is was checked before
            await _knock(wire, lambda: stranger(target))
        told.append("is one that the resource trusts")


async def _knock(wire: Wire, options: Callable[[], asyncssh.SSHClientConnectionOptions]) -> None:
    """Log in on *wire*, which is used up, and leave."""
    try:
        made = await asyncio.to_thread(options)
    except BaseException:
        wire.close()
        raise
    sock, _ = wire.take()
    (await log_in(sock, made)).abort()


async def _version(wire: Wire) -> str:
    """The version line (RFC 4253, chapter 4.2); other lines may come before it."""
    heard = b""
    while len(heard) <= MAX_BANNER:
        heard += await wire.receive()
        for line in heard.split(b"\n")[:-1]:
            if line.startswith(b"SSH-2.0-"):
                return line.strip().decode("ascii", "backslashreplace")[:100]
    raise ProtocolViolation("is no SSH server")
