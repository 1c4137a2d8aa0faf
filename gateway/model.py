"""The values everything else talks about. Frozen; imports nothing of ours."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import MappingProxyType

from attrs import field, frozen

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def unmapped(address: IPAddress) -> IPAddress:
    """IPv4 where IPv6 only wraps it: rules about IPv4 networks must not be dodged."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


class Protocol(enum.Enum):
    """What a resource speaks."""

    POSTGRESQL = "postgresql"
    SSH = "ssh"


class TlsMode(enum.Enum):
    """How a target's TLS is judged; the words are libpq's ``sslmode``."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TargetKind(enum.Enum):
    """Which of a resource's targets a role may use."""

    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"
    ANY = "any"


@frozen
class Secret:
    """Bytes that never show themselves: not in a repr, a log or a traceback."""

    _value: bytes = field(repr=False)

    def reveal(self) -> bytes:
        return self._value

    def __str__(self) -> str:
        return "Secret()"


@frozen(order=True)
class Address:
    """A host (name or IP literal) and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``host:port`` or ``[v6]:port``.

        :raises ValueError: in words fit to show to whoever wrote *text*
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address as [address]:port")
        if not colon or not host:
            raise ValueError(f"{text!r} is not HOST:PORT")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError(f"{text!r}: the port must be a number up to 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class ScramVerifier:
    """What the gateway keeps of a user's password (RFC 5803, as PostgreSQL writes it)."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@frozen
class Target:
    """One real server behind a resource; never named to clients.

    ``host_key`` / ``host_ca`` (SSH) are OpenSSH public key lines. ``weight``: its share of
    the sessions, beside the others'. ``zone``: where it is. ``draining``: no new sessions.
    """

    address: Address
    host_key: str | None = None
    host_ca: str | None = None
    weight: float = 1.0
    zone: str | None = None
    draining: bool = False


@frozen
class Monitoring:
    """How a PostgreSQL target is asked how it is: by which account, in which database."""

    account: str
    database: str | None = None


@frozen
class TargetTls:
    """``ca`` is PEM, or None for the system's trust store."""

    mode: TlsMode = TlsMode.VERIFY_FULL
    ca: bytes | None = None


@frozen
class ServerTls:
    """What the configuration says; without ``certificate`` and ``key`` the gateway's own CA
    makes them. ``minimum`` is "1.2" or "1.3"; ``client_ca`` makes client certificates count.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    minimum: str = "1.2"


@frozen
class Account:
    """A log-in on the targets of one resource, and its credential.

    PostgreSQL: ``password`` and/or ``certificate`` (PEM chain) with ``private_key`` (PEM).
    SSH: ``password``, ``private_key`` (OpenSSH or PEM), or ``minted`` (a short-lived
    certificate signed by the gateway's user CA).
    """

    name: str
    password: Secret | None = None
    certificate: bytes | None = None
    private_key: Secret | None = None
    minted: bool = False


@frozen
class Resource:
    """What people ask for by name.

    ``authentication``: what the gateway answers a target with; subset of
    {"scram-sha-256", "certificate", "md5", "password", "trust"}.
    ``tag_application_name``: add user and session to the target's application_name.
    ``health``: None: targets are looked at without logging in. ``move_idle_sessions``: let
    PostgreSQL sessions outlive their target.
    """

    name: str
    protocol: Protocol
    targets: tuple[Target, ...]
    accounts: Mapping[str, Account] = field(factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(factory=lambda: MappingProxyType({}))
    database: str | None = None
    tls: TargetTls = TargetTls()
    authentication: frozenset[str] = frozenset({"scram-sha-256", "certificate"})
    tag_application_name: bool = True
    health: Monitoring | None = None
    move_idle_sessions: bool = True


@frozen
class User:
    """A person or a machine identity. ``ssh_keys`` are OpenSSH public key lines."""

    name: str
    groups: frozenset[str] = frozenset()
    password: ScramVerifier | None = None
    ssh_keys: tuple[str, ...] = ()
    admin: bool = False
    disabled: bool = False


@frozen
class SshRights:
    """What an SSH session may do. ``forward``: patterns ``HOST:PORT`` with ``*``, or ``/PATH``.

    ``record_input``: record what is typed at terminals, as far as they show it.
    """

    shell: bool = True
    exec: bool = True
    sftp: bool = True
    forward: tuple[str, ...] = ()
    agent: bool = False
    x11: bool = False
    record_input: bool = False


@frozen
class Terms:
    """The constraints under which a session runs. None: not limited."""

    targets: TargetKind = TargetKind.ANY
    max_lag_seconds: float | None = None
    read_only: bool = False
    statement_timeout_seconds: float | None = None
    max_session_seconds: float | None = None
    idle_seconds: float | None = None
    replication: bool = False
    ssh: SshRights = SshRights()

    def overrun(self, age: float, idle: float) -> End | None:
        """The end of a session of *age* seconds, *idle* of them by now; None: it runs on."""
        if self.max_session_seconds is not None and age >= self.max_session_seconds:
            return End(EndReason.TIME_LIMIT, f"{self.max_session_seconds:g} s")
        if self.idle_seconds is not None and idle >= self.idle_seconds:
            return End(EndReason.IDLE, f"{self.idle_seconds:g} s")
        return None


@frozen
class Selector:
    """Resources by name and by label; both must match, None matches every resource.

    ``labels``: each key's value must be one of the listed values.
    """

    names: frozenset[str] | None = None
    labels: Mapping[str, frozenset[str]] = field(factory=lambda: MappingProxyType({}))


@frozen
class Allow:
    """One clause of a role: these resources, as these accounts, under these terms."""

    resources: Selector
    accounts: frozenset[str]
    terms: Terms = Terms()


@frozen
class Role:
    name: str
    allow: tuple[Allow, ...] = ()


@frozen
class Hours:
    """When a binding holds: weekdays (Monday is 0) and minutes of the day in ``zone``.

    ``start`` is included, ``end`` is not; ``end <= start`` runs past midnight and
    belongs to the day on which it starts.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: str


@frozen
class Binding:
    """Gives a role to users and groups, under conditions.

    Empty ``sources`` means from anywhere; ``deny_sources`` wins, within this binding.
    """

    name: str
    role: str
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    sources: tuple[IPNetwork, ...] = ()
    deny_sources: tuple[IPNetwork, ...] = ()
    hours: Hours | None = None
    expires: datetime | None = None


@frozen
class Snapshot:
    """All that policy needs to know, at one moment. ``version`` grows with each change."""

    version: int = 0
    resources: Mapping[str, Resource] = field(factory=lambda: MappingProxyType({}))
    users: Mapping[str, User] = field(factory=lambda: MappingProxyType({}))
    roles: Mapping[str, Role] = field(factory=lambda: MappingProxyType({}))
    bindings: tuple[Binding, ...] = ()


@frozen
class Ask:
    """What a client wants, before anything of it is believed.

    ``account`` and ``database`` are None where the client left the choice to us.
    """

    protocol: Protocol
    user: str
    resource: str
    source: IPAddress
    account: str | None = None
    database: str | None = None
    replication: bool = False


@frozen
class Identity:
    """A user who has proved to be one. ``method``: "password", "certificate", "publickey", or
    "jump": on the connection through which this one came."""

    user: str
    method: str


@frozen
class Grant:
    """Permission to open one session; minted by :mod:`gateway.policy` and nowhere else.

    ``timed``: the binding has hours or an expiry, so time alone can take it away.
    """

    ask: Ask
    identity: Identity
    resource: Resource
    account: Account
    terms: Terms
    binding: str
    role: str
    timed: bool = False


@frozen
class Denied:
    """No. ``reason`` is for the audit log; ``public`` is set only where a person who is
    let in all the same has to choose (which account), and may be told."""

    reason: str
    public: str | None = None


class EndReason(enum.Enum):
    """Why a session ended."""

    CLIENT = "client closed"
    TARGET = "target closed"
    KILLED = "killed"
    REVOKED = "access revoked"
    IDLE = "idle too long"
    TIME_LIMIT = "time limit reached"
    SHUTDOWN = "gateway shutting down"
    NOT_RECORDED = "recording failed"
    PROTOCOL = "protocol violation"
    FAILED = "internal error"


@frozen
class End:
    """How a session ended: ``detail`` is for administrators and the transcript."""

    reason: EndReason
    detail: str = ""


@frozen
class SessionInfo:
    """One session, as lists show it.

    ``source`` an IP address, ``target`` HOST:PORT, ``started``/``ended`` seconds since
    the epoch, ``status`` "live" | "ended" | "lost" (the gateway died under it).
    """

    id: str
    user: str
    resource: str
    account: str
    target: str
    protocol: str
    source: str
    started: float
    ended: float | None = None
    status: str = "live"
    reason: str = ""
    statements: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
