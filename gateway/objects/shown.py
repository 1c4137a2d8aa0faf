"""What people may see of stored objects: where two differ, and all of one but its secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SECRETS = frozenset({"password", "private_key"})  # members of bodies that are never shown
ORIGINS = ("file", "env")  # members of a secret that say where it was read


def differences(before: object, after: object, path: str = "") -> Iterator[str]:
    """Paths ("accounts.app_ro.password") at which two bodies differ; never what is there."""
    if before == after:
        return
    old, new = _members(before), _members(after)
    if old is None or new is None or path.rpartition(".")[2] in SECRETS:
        yield path
        return
    for name in sorted(old.keys() | new.keys()):
        below = f"{path}.{name}" if path else name
        yield from differences(old.get(name), new.get(name), below)


def _members(value: object) -> Mapping[str, object] | None:
    """What a path can go on into: objects, and lists of objects by name, else by place."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return {str(item.get("name", place)): item for place, item in enumerate(value)}
    return None


def masked(value: Any) -> Any:
    """*value* with all its secrets hidden."""
    if isinstance(value, Mapping):
        return {key: _set(item) if key in SECRETS else masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def _set(secret: object) -> str | None:
    """That there is one, and where it was read; whatever else is stored of it stays hidden."""
    if secret is None:
        return None
    members = secret if isinstance(secret, Mapping) else {}
    return " ".join(("(set)", *(f"{how} {members[how]}" for how in ORIGINS if how in members)))
