"""Names that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.contracts import Body, Document
from gateway.errors import Problem

Bodies = Mapping[str, Mapping[str, Body]]
"""Bodies by kind and name."""


def dangling(after: Bodies, documents: Sequence[Document]) -> tuple[Problem, ...]:
    """What in *after*, the whole state as it would be, refers to something that is not there.

    *documents* say where to point; what they do not name is blamed on the file as a whole.
    A group need not have members: an identity provider may bring them.
    """
    written = {(document.kind, document.name): document for document in documents}
    file = documents[0].file if documents else ""
    problems = []
    for kind, name, path, message in _missing(after):
        document = written.get((kind, name))
        line, column = _position(document, path) if document is not None else (1, 1)
        where = f"{kind}.{name}.{path}"
        problems.append(Problem(document.file if document else file, line, column, where, message))
    return tuple(sorted(problems, key=lambda each: (each.line, each.column)))


def _position(document: Document, path: str) -> tuple[int, int]:
    while path and path not in document.marks:
        path = path.rpartition(".")[0]
    return document.marks.get(path, (1, 1))


def _missing(after: Bodies) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, path inside, and words."""
    for name, role in after.get("roles", {}).items():
        for place, clause in enumerate(role["allow"]):
            yield from (("roles", name, f"allow.{place}.{p}", m) for p, m in _of(clause, after))
    for name, binding in after.get("bindings", {}).items():
        if binding["role"] not in after.get("roles", {}):
            yield "bindings", name, "role", f"there is no role {binding['role']!r} (binding {name})"
        for place, subject in enumerate(binding["subjects"]):
            kind, _, who = subject.partition(":")
            if kind == "user" and who not in after.get("users", {}):
                message = f"there is no user {who!r} (binding {name})"
                yield "bindings", name, f"subjects.{place}", message


def _of(clause: Body, after: Bodies) -> Iterator[tuple[str, str]]:
    """Of accounts only those are judged whose resources are named one by one."""
    resources = after.get("resources", {})
    names = clause["resources"].get("names")
    for place, name in enumerate(names or ()):
        if name not in resources:
            yield f"resources.names.{place}", f"there is no resource {name!r}"
    if not names or any(name not in resources for name in names):
        return
    known = {account["name"] for name in names for account in resources[name]["accounts"]}
    for place, account in enumerate(clause["accounts"]):
        if account not in known:
            yield f"accounts.{place}", f"no resource named here has an account {account!r}"
