"""An objects file, judged: every mistake in it at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.contracts import Document
from gateway.marked import Mark, Model, Reading, dotted, read_text
from gateway.marked import Path as At
from gateway.marked import json_schema as schema_of
from gateway.objects.schema import KINDS, ObjectsFile


def parse(text: str, file: str) -> list[Document]:
    """The objects that *text* names, in the order of the file.

    :raises BadFile: all that is wrong with it, but for references and secrets, which
        depend on what else there is
    """
    reading = Reading.of(text, file)
    tree = reading.tree
    documents: list[Document] = []
    if tree is not None and not isinstance(tree, dict):
        reading.complain((), f"has to be a mapping of {', '.join(KINDS)}")
        tree = None
    for kind, listed in (tree or {}).items():
        if kind not in KINDS:
            reading.complain((kind,), f"unknown key; there are {', '.join(KINDS)}", key=True)
        elif listed is not None:
            documents += _listed(reading, kind, listed)
    reading.finish()
    return documents


def read(path: Path) -> list[Document]:
    """:func:`parse` of a file.

    :raises BadFile: also if it cannot be read
    """
    return parse(read_text(path), str(path))


def json_schema() -> dict[str, Any]:
    """For editors and other tools."""
    return schema_of(ObjectsFile, "Objects of Gateway")


def _listed(reading: Reading, kind: str, listed: Any) -> Iterator[Document]:
    if not isinstance(listed, list):
        reading.complain((kind,), "has to be a list")
        return
    seen: set[str] = set()
    marks = _marks(reading, kind)
    for place, entry in enumerate(listed):
        at: At = (kind, place)
        found = reading.judge(KINDS[kind], at)
        for where, message in _CONTRADICTIONS.get(kind, _none)(entry):
            reading.complain((*at, *where), message)
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str):
            if name in seen:
                reading.complain((*at, "name"), f"{name} is there twice")
            seen.add(name)
        if found is not None and isinstance(name, str):
            yield Document(kind, name, _body(found), reading.file, marks[place])


def _body(found: Model) -> dict[str, Any]:
    return found.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"name"})


def _marks(reading: Reading, kind: str) -> Mapping[int, dict[str, Mark]]:
    """By an entry's place, positions by the path inside it: "accounts.0.password"."""
    marks: defaultdict[int, dict[str, Mark]] = defaultdict(dict)
    for path, mark in reading.marks.items():
        match path:
            case (first, int(place), *inside) if first == kind:
                marks[place][dotted(inside)] = mark
    return marks


# -- what no single value shows: looked for even where other values are wrong --------------


def _none(entry: Any) -> Iterator[tuple[At, str]]:
    yield from ()


def _of_resource(entry: Any) -> Iterator[tuple[At, str]]:
    if not isinstance(entry, dict):
        return
    yield from _twice(entry, "targets", "address")
    yield from _twice(entry, "accounts", "name")
    protocol = entry.get("protocol")
    if protocol == "ssh":
        yield from _of_ssh(entry)
    elif protocol == "postgresql":
        yield from _of_postgresql(entry)


def _of_ssh(entry: dict[str, Any]) -> Iterator[tuple[At, str]]:
    for name in (
        "database",
        "tls",
        "authentication",
        "tag_application_name",
        "move_idle_sessions",
        "health",
    ):
        if name in entry:
            yield (name,), "means nothing for ssh"
    for place, target in _mappings(entry.get("targets")):
        if not target.get("host_key") and not target.get("host_ca"):
            yield ("targets", place), "needs a host_key or a host_ca: host keys are always checked"
    for place, account in _mappings(entry.get("accounts")):
        ways = [way for way in ("password", "private_key", "certificate") if way in account]
        if not ways:
            yield ("accounts", place), "needs a password, a private_key, or certificate: {}"
        if account.get("certificate"):
            yield ("accounts", place, "certificate"), "is minted for ssh: write certificate: {}"


def _of_postgresql(entry: dict[str, Any]) -> Iterator[tuple[At, str]]:
    for place, target in _mappings(entry.get("targets")):
        for name in ("host_key", "host_ca"):
            if name in target:
                yield ("targets", place, name), "means nothing for postgresql"
    tls = tls if isinstance(tls := entry.get("tls"), dict) else {}
    methods = methods if isinstance(methods := entry.get("authentication"), list) else []
    mode = tls.get("mode", "verify-full")
    if mode == "disable" and "ca" in tls:
        yield ("tls", "ca"), "is of no use with tls.mode disable"
    if "password" in methods and mode in ("disable", "require"):
        yield ("authentication",), "a clear-text password needs tls.mode verify-ca or verify-full"
    for place, account in _mappings(entry.get("accounts")):
        for inside, message in _of_account(account, mode, "trust" in methods):
            yield ("accounts", place, *inside), message
    yield from _of_health(entry)


def _of_health(entry: dict[str, Any]) -> Iterator[tuple[At, str]]:
    health = entry.get("health")
    asked = health.get("account") if isinstance(health, dict) else None
    known = [account.get("name") for _, account in _mappings(entry.get("accounts"))]
    if isinstance(asked, str) and asked not in known:
        yield ("health", "account"), f"there is no account {asked!r} here"


def _of_account(account: dict[str, Any], mode: str, trust: bool) -> Iterator[tuple[At, str]]:
    """On a PostgreSQL target."""
    certificate, key = "certificate" in account, "private_key" in account
    if certificate != key:
        yield (), "certificate and private_key are of use only together"
    elif not (certificate or "password" in account or trust):
        yield (), "needs a password, or a certificate and its private_key"
    elif account.get("certificate") == {}:
        yield ("certificate",), "has to name a file, a value or an env"
    elif certificate and mode == "disable":
        yield ("certificate",), "is of no use with tls.mode disable"


def _twice(entry: dict[str, Any], listed: str, member: str) -> Iterator[tuple[At, str]]:
    seen: set[Any] = set()
    for place, item in _mappings(entry.get(listed)):
        value = item.get(member)
        if isinstance(value, str):
            if value in seen:
                yield (listed, place, member), f"{value} is there twice"
            seen.add(value)


def _mappings(listed: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for place, item in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(item, dict):
            yield place, item


_CONTRADICTIONS = {"resources": _of_resource}
