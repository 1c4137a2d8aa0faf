"""Where SSH sessions may forward to: ``HOST:PORT`` with ``*``, or ``/PATH``. Pure.

Targets have loopback interfaces and metadata services that trust whoever reaches them: a
pattern with ``*`` does not lead there, in whatever spelling, only one that names them does.
Other names are resolved by the target; what its resolver makes of them is not known here.

``*`` stands for any text, but a host pattern made of digits means addresses, never names
that begin or end like one: ``10.*`` is not ``10.example.net``.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from gateway.model import unmapped

Place = IPv4Address | IPv6Address | str

MAX_PORT = 65535  # some targets would drop the bits above
MAX_PATH = 107  # bytes of a Unix socket's address on Linux

_LOOPBACK: tuple[Place, ...] = ("localhost", ip_address("127.0.0.1"), ip_address("::1"))
"""One place by three names."""

_LOCAL = tuple(
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/128", "::1/128", "fe80::/10"),
        # Metadata services elsewhere: Azure, Alibaba, Oracle, AWS, Google.
        *("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::/32", "fd20:ce::254"),
    )
)
_LOCAL_NAMES = re.compile(
    r"(?:.+\.)?localhost|localhost[46]?(?:\.localdomain[46]?)?|ip6-(?:localhost|loopback)"
    r"|_.+"  # systemd's _gateway, _localdnsstub
    r"|(?:metadata|instance-data)(?:\.(?:.+\.)?internal|\.goog)?"
)
_EMBEDDED = tuple(  # IPv6 networks whose addresses end in an IPv4 one
    ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)

_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""127.1, 0x7f.1, 2130706433: resolvers differ in what addresses these are."""

_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/]+)+")


def reaches(pattern: str, host: str, port: int) -> bool:
    """Whether *pattern* allows a connection from the target to *host*:*port*."""
    wanted = _host_pattern(pattern, port)
    return wanted is not None and _leads_to(wanted, _place(host))


def listens(pattern: str, host: str, port: int) -> bool:
    """Whether *pattern* allows the target to listen there for the client.

    Loopback is no risk here. A *host* of "" is every interface (RFC 4254, 7.1).
    """
    wanted = _host_pattern(pattern, port)
    return wanted is not None and (_is_any(wanted) or _leads_to(wanted, _place(host)))


def reaches_path(pattern: str, path: str) -> bool:
    """Whether *pattern* allows the Unix socket at *path*, to connect to or to listen."""
    plain = len(path) <= MAX_PATH and path.isprintable() and _PATH.fullmatch(path) is not None
    return plain and pattern.startswith("/") and _glob(pattern, path)


def covers(wide: str, narrow: str) -> bool:
    """Whether *wide* allows all that *narrow* allows. May say no where it does."""
    if wide.startswith("/") or narrow.startswith("/"):
        return wide.startswith("/") and _glob(wide, narrow)
    (wide_host, _, wide_port), (host, _, port) = wide.rpartition(":"), narrow.rpartition(":")
    if wide_port not in ("*", port):
        return False
    if "*" in host:
        return _swallows(_bare(wide_host), _bare(host))
    place = _place(host)
    return all(
        _leads_to(wide_host, same) for same in (_LOOPBACK if place in _LOOPBACK else (place,))
    )


def _swallows(wide: str, narrow: str) -> bool:
    """Sound because only a ``*`` of *wide* can swallow a ``*`` of *narrow*."""
    return (
        _glob(wide, narrow)
        and (_means_addresses(narrow) or not _means_addresses(wide))
        and (_means_local(wide) or not _means_local(narrow))
    )


def _host_pattern(pattern: str, port: int) -> str | None:
    """That of the host, if the one of the port matches."""
    wanted, _, ports = pattern.rpartition(":")
    fits = 0 <= port <= MAX_PORT and ports in ("*", str(port))
    return wanted if fits and not pattern.startswith("/") else None


def _leads_to(wanted: str, place: Place) -> bool:
    if "*" not in wanted:
        named = _place(wanted)
        return named == place or (named in _LOOPBACK and place in _LOOPBACK)
    wanted = _bare(wanted)
    if isinstance(place, str) and (_means_addresses(wanted) or not _is_name(place)):
        return False
    if _is_local(place) and not _means_local(wanted):
        return False
    return _glob(wanted, str(place))


def _is_any(wanted: str) -> bool:
    return set(wanted) == {"*"}


def _means_addresses(wanted: str) -> bool:
    return ":" in wanted or (set(wanted) <= set("0123456789.*") and not _is_any(wanted))


def _means_local(wanted: str) -> bool:
    return wanted.startswith(("127.", "169.254.", "fe80:")) or wanted.endswith(".localhost")


def _place(host: str) -> Place:
    """An address where *host* is one beyond doubt, else a name. Without a zone."""
    bare = _bare(host).removesuffix(".")
    try:
        address = unmapped(ip_address(bare))
    except ValueError:
        return bare
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _bare(host: str) -> str:
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return inside.lower() if inside.isascii() else inside


def _is_name(place: str) -> bool:
    """A name that no resolver takes for anything else: no spaces, escapes, wide digits."""
    return (
        len(place) <= 253  # characters: RFC 1035, 2.3.4, as text
        and _NAME.fullmatch(place) is not None
        and _NUMBER.fullmatch(place) is None
    )


def _is_local(place: Place) -> bool:
    if isinstance(place, str):
        return _LOCAL_NAMES.fullmatch(place) is not None
    if isinstance(place, IPv6Address):
        inner = _embedded(place)
        if inner is not None and _is_local(inner):
            return True
    return any(place in network for network in _LOCAL)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Where a translator or tunnel on the way would lead."""
    if any(address in network for network in _EMBEDDED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _glob(pattern: str, text: str) -> bool:
    """In one pass: a regular expression with many ``*`` could be made to take for ever."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    pos, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, pos, end)
        if found < 0:
            return False
        pos = found + len(part)
    return pos <= end and text.startswith(first) and text.endswith(last)
