"""``gateway.yaml`` as one frozen value. Judged here, once and completely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import frozen
from pydantic import Field

from gateway.fields import AddressField, Network
from gateway.marked import Model, Reading
from gateway.marked import Path as At
from gateway.model import Address, IPNetwork, ServerTls

DEFAULT = Path("/etc/gateway/gateway.yaml")
VARIABLE = "GATEWAY_CONFIG"

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
    file: Annotated[str, Field(min_length=1)]


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
    retention_days: Count = 90


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

    state_dir: Annotated[str, Field(min_length=1)] = "/var/lib/gateway"
    listeners: Annotated[list[ListenerModel], Field(min_length=1)]
    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")] | None = None
    tls: TlsModel = TlsModel()
    postgresql: Postgresql = Postgresql()
    recording: Recording = Recording()
    limits: Limits = Limits()
    health: Health = Health()
    drain_seconds: Annotated[float, Field(ge=0)] = 30
    diagnostics: AddressField | None = None
    objects: list[Annotated[str, Field(min_length=1)]] = []


@frozen
class ListenerConfig:
    """``trusted_proxies``: networks whose connections begin with a PROXY header."""

    address: Address
    protocols: frozenset[str]
    trusted_proxies: tuple[IPNetwork, ...] = ()


@frozen
class Config:
    """``state_dir`` and ``objects`` are absolute; times are in seconds."""

    state_dir: Path
    listeners: tuple[ListenerConfig, ...]
    domain: str | None
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
    reading = Reading.open(path)
    if reading.problems and reading.tree is None:
        reading.finish()
    file = reading.judge(File)
    base = path.absolute().parent
    for where, message in _contradictions(reading.tree, base):
        reading.complain(where, message)
    reading.finish()
    assert file is not None
    return _config(file, base)


def json_schema() -> dict[str, Any]:
    """For editors and other tools."""
    return {"title": "gateway.yaml", **File.model_json_schema()}


def _config(file: File, base: Path) -> Config:
    return Config(
        state_dir=base / file.state_dir,
        listeners=tuple(map(_listener, file.listeners)),
        domain=file.domain.lower() if file.domain else None,
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
    yield from _missing_files(tree, base)


def _half_a_certificate(tls: Any) -> Iterator[tuple[At, str]]:
    if isinstance(tls, dict):
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if tls.get(one) is not None and tls.get(other) is None:
                yield ("tls", one), f"is of no use without tls.{other}"


def _taken_twice(tree: dict[str, Any]) -> Iterator[tuple[At, str]]:
    """Port 0 means any free one, and is never taken."""
    taken: dict[str, str] = {}
    for where, address in _addresses(tree):
        if not isinstance(address, str) or address.endswith(":0"):
            continue
        name = ".".join(map(str, where))
        if address in taken:
            yield where, f"{address} is taken by {taken[address]} already"
        taken.setdefault(address, name)


def _addresses(tree: dict[str, Any]) -> Iterator[tuple[At, Any]]:
    listeners = tree.get("listeners")
    for place, listener in enumerate(listeners if isinstance(listeners, list) else []):
        if isinstance(listener, dict):
            yield ("listeners", place, "address"), listener.get("address")
    yield ("diagnostics",), tree.get("diagnostics")


def _missing_files(tree: dict[str, Any], base: Path) -> Iterator[tuple[At, str]]:
    for where, name in _files(tree):
        if isinstance(name, str) and not (base / name).is_file():
            yield where, f"there is no file {base / name}"


def _files(tree: dict[str, Any]) -> Iterator[tuple[At, Any]]:
    tls, listed = tree.get("tls"), tree.get("objects")
    for name in ("certificate", "key", "client_ca"):
        ref = tls.get(name) if isinstance(tls, dict) else None
        if isinstance(ref, dict):
            yield ("tls", name, "file"), ref.get("file")
    for place, name in enumerate(listed if isinstance(listed, list) else []):
        yield ("objects", place), name
