"""``gateway.yaml`` as one frozen value. Judged here, once and completely."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import frozen
from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.fields import AddressField, Network, Text
from gateway.fields import address as judged_address
from gateway.marked import Model, Reading, dotted, read_text
from gateway.marked import Path as At
from gateway.marked import json_schema as schema_of
from gateway.model import Address, IPAddress, IPNetwork, ServerTls
from gateway.places import Places

DEFAULT = Path("/etc/gateway/gateway.yaml")
VARIABLE = "GATEWAY_CONFIG"

MAX_SOCKET = 107  # bytes of the control socket's name: all that unix(7) leaves for one
MAX_DAYS = 36_500  # a century: dates end before much longer ones do

_DOMAIN = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


def _domain(text: str) -> str:
    if re.fullmatch(_DOMAIN, text) is None:
        raise ValueError("should be a domain's name, like gw.example.com")
    return text


Domain = Annotated[
    str, AfterValidator(_domain), WithJsonSchema({"type": "string", "pattern": _DOMAIN})
]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
ListenerProtocol = Literal["postgresql", "ssh", "https"]


class ProxyProtocol(Model):
    """From where a PROXY header is believed, and demanded."""

    trusted: Annotated[list[Network], Field(min_length=1)]


class ListenerModel(Model):
    address: AddressField
    protocols: Annotated[list[ListenerProtocol], Field(min_length=1)]
    proxy_protocol: ProxyProtocol | None = None


class FileRef(Model):
    file: Text


class TlsModel(Model):
    certificate: FileRef | None = None
    key: FileRef | None = None
    client_ca: FileRef | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"


class Postgresql(Model):
    tls: Literal["required", "optional"] = "required"


class Recording(Model):
    """``durability``: what a record has reached before its statement goes on."""

    required: bool = True
    durability: Literal["os", "disk"] = "os"
    retention_days: Annotated[int, Field(gt=0, le=MAX_DAYS)] = 90


class Limits(Model):
    login_seconds: Positive = 15
    sessions: Count = 10_000
    sessions_per_user: Count = 100
    unauthenticated_per_address: Count = 50


class Health(Model):
    interval_seconds: Positive = 2
    timeout_seconds: Positive = 2


class File(Model):
    """The whole file."""

    state_dir: Text = "/var/lib/gateway"
    listeners: Annotated[list[ListenerModel], Field(min_length=1)]
    domain: Domain | None = None
    zone: Text | None = None
    tls: TlsModel = TlsModel()
    postgresql: Postgresql = Postgresql()
    recording: Recording = Recording()
    limits: Limits = Limits()
    health: Health = Health()
    drain_seconds: Annotated[float, Field(ge=0)] = 30
    diagnostics: AddressField | None = None
    objects: list[Text] = []


@frozen
class ListenerConfig:
    """``trusted_proxies``: networks whose connections begin with a PROXY header."""

    address: Address
    protocols: frozenset[str]
    trusted_proxies: tuple[IPNetwork, ...] = ()


@frozen
class Config:
    """``state_dir`` and ``objects`` are absolute; times are in seconds. ``zone``: where the
    gateway is; targets there are preferred."""

    state_dir: Path
    listeners: tuple[ListenerConfig, ...]
    domain: str | None
    zone: str | None
    tls: ServerTls
    tls_required: bool
    recording: Recording
    limits: Limits
    health: Health
    drain_seconds: float
    diagnostics: Address | None
    objects: tuple[Path, ...]


def locate(given: str | None, environ: Mapping[str, str]) -> Path:
    """Which file: as told, else ``$GATEWAY_CONFIG``, else :data:`DEFAULT`."""
    return Path(given or environ.get(VARIABLE) or DEFAULT)


def load(path: Path) -> Config:
    """Relative names in the file are relative to its directory.

    :raises BadFile: all that is wrong with it
    """
    reading = Reading.of(read_text(path), str(path))
    if reading.problems and reading.tree is None:
        reading.finish()
    file = reading.judge(File)
    base = path.absolute().parent
    for where, message in _contradictions(reading.tree, base):
        reading.complain(where, message)
    reading.finish()
    assert file is not None
    return _config(file, base)


def objects_files(path: Path) -> tuple[Path, ...]:
    """Those that it names and that are there, whatever else is wrong with it."""
    tree = Reading.of(read_text(path), str(path)).tree
    base = path.absolute().parent
    listed = _files(tree, base) if isinstance(tree, dict) else ()
    return tuple(file for where, file in listed if where[0] == "objects" and not _missing(file))


def json_schema() -> dict[str, Any]:
    """For editors and other tools."""
    return schema_of(File, "gateway.yaml")


def _config(file: File, base: Path) -> Config:
    return Config(
        state_dir=base / file.state_dir,
        listeners=tuple(map(_listener, file.listeners)),
        domain=file.domain.lower() if file.domain else None,
        zone=file.zone,
        tls=_tls(file.tls, base),
        tls_required=file.postgresql.tls == "required",
        recording=file.recording,
        limits=file.limits,
        health=file.health,
        drain_seconds=file.drain_seconds,
        diagnostics=file.diagnostics,
        objects=tuple(base / name for name in file.objects),
    )


def _tls(tls: TlsModel, base: Path) -> ServerTls:
    def file(ref: FileRef | None) -> Path | None:
        return None if ref is None else base / ref.file

    return ServerTls(file(tls.certificate), file(tls.key), file(tls.client_ca), tls.minimum)


def _listener(listener: ListenerModel) -> ListenerConfig:
    proxies = listener.proxy_protocol.trusted if listener.proxy_protocol else []
    return ListenerConfig(listener.address, frozenset(listener.protocols), tuple(proxies))


# -- what no single value shows: looked for even where other values are wrong --------------


def _contradictions(tree: Any, base: Path) -> Iterator[tuple[At, str]]:
    if not isinstance(tree, dict):
        return
    yield from _half_a_certificate(tree.get("tls"))
    yield from _taken_twice(tree)
    yield from ((where, why) for where, file in _files(tree, base) if (why := _missing(file)))
    yield from _too_long(tree.get("state_dir"), base)


def _half_a_certificate(tls: Any) -> Iterator[tuple[At, str]]:
    if isinstance(tls, dict):
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if tls.get(one) is not None and tls.get(other) is None:
                yield ("tls", one), f"is of no use without tls.{other}"


def _taken_twice(tree: dict[str, Any]) -> Iterator[tuple[At, str]]:
    """Port 0 means any free one, and is never taken."""
    taken: list[tuple[Address, At]] = []
    for where, address in _addresses(tree):
        for other, by in taken:
            if address.port == other.port != 0 and _same(_host(address), _host(other)):
                yield where, f"is taken by {dotted(by)} already"
                break
        taken.append((address, where))


def _host(address: Address) -> IPAddress | str:
    try:
        return ip_address(address.host)
    except ValueError:
        return address.host.lower()


def _same(one: IPAddress | str, other: IPAddress | str) -> bool:
    """Whether both cannot be listened on: 0.0.0.0 is every address of its family."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    every = one.is_unspecified or other.is_unspecified
    return one == other or (every and one.version == other.version)


def _addresses(tree: dict[str, Any]) -> Iterator[tuple[At, Address]]:
    listeners = tree.get("listeners")
    written = [
        (("listeners", place, "address"), listener.get("address"))
        for place, listener in enumerate(listeners if isinstance(listeners, list) else [])
        if isinstance(listener, dict)
    ]
    for where, value in (*written, (("diagnostics",), tree.get("diagnostics"))):
        with suppress(ValueError):  # it has been told of
            yield where, judged_address(value)


def _files(tree: dict[str, Any], base: Path) -> Iterator[tuple[At, Path]]:
    """What is to be read, and where that is written."""
    tls, listed = tree.get("tls"), tree.get("objects")
    for name in ("certificate", "key", "client_ca"):
        ref = tls.get(name) if isinstance(tls, dict) else None
        if isinstance(ref, dict) and isinstance(ref.get("file"), str):
            yield ("tls", name, "file"), base / ref["file"]
    for place, name in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(name, str):
            yield ("objects", place), base / name


def _missing(file: Path) -> str | None:
    try:
        return None if file.is_file() else f"there is no file {file}"
    except OSError as wrong:
        return f"cannot be read: {wrong.strerror}"


def _too_long(state_dir: Any, base: Path) -> Iterator[tuple[At, str]]:
    if isinstance(state_dir, str):
        name = str(Places(base / state_dir).control)
        if len(name.encode("utf-8", "replace")) > MAX_SOCKET:
            yield ("state_dir",), f"is too long: a socket in it has to fit in {MAX_SOCKET} bytes"
