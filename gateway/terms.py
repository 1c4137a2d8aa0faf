"""Comparing the terms under which sessions run: which give more, and which give enough."""

from __future__ import annotations

from math import inf

from gateway import forwards
from gateway.model import Protocol, SshRights, TargetKind, Terms

_WIDTH = {
    TargetKind.ANY: 3,
    TargetKind.PREFER_STANDBY: 2,  # reaches whatever "any" reaches, by another order
    TargetKind.PRIMARY: 1,
    TargetKind.STANDBY: 0,
}
_LIMITED = {  # what :func:`_limits` limits, in its order
    Protocol.POSTGRESQL: ("sessions", "idle", "statements", "lag"),
    Protocol.SSH: ("sessions", "idle"),
}
_EVERY = frozenset({TargetKind.ANY, TargetKind.PREFER_STANDBY})

Rank = tuple[float, ...]


def rank(terms: Terms) -> Rank:
    """A total order of what terms give; the greater, the more.

    Writing first, then the targets, replication, what SSH may do and whether typing goes
    unrecorded, and last the limits: session, idle, statement, lag.
    """
    ssh = terms.ssh
    return (
        not terms.read_only,
        _WIDTH[terms.targets],
        terms.replication,
        *(ssh.shell, ssh.exec, ssh.sftp, ssh.agent, ssh.x11, len(ssh.forward)),
        not ssh.record_input,
        *map(_length, _limits(terms)),
    )


def covers(wide: Terms, narrow: Terms) -> bool:
    """Whether *wide* gives, field by field, at least what *narrow* gives."""
    return (
        (narrow.read_only or not wide.read_only)
        and (wide.replication or not narrow.replication)
        and (wide.targets in _EVERY or wide.targets is narrow.targets)
        and all(
            _length(w) >= _length(n) for w, n in zip(_limits(wide), _limits(narrow), strict=True)
        )
        and _ssh_covers(wide.ssh, narrow.ssh)
    )


def _limits(terms: Terms) -> tuple[float | None, ...]:
    return (
        terms.max_session_seconds,
        terms.idle_seconds,
        terms.statement_timeout_seconds,
        terms.max_lag_seconds,
    )


def _length(limit: float | None) -> float:
    return inf if limit is None else limit


def _ssh_covers(wide: SshRights, narrow: SshRights) -> bool:
    flags = zip(_flags(wide), _flags(narrow), strict=True)
    return all(w or not n for w, n in flags) and all(
        any(forwards.covers(w, n) for w in wide.forward) for n in narrow.forward
    )


def _flags(ssh: SshRights) -> tuple[bool, ...]:
    """All that is true gives more."""
    return ssh.shell, ssh.exec, ssh.sftp, ssh.agent, ssh.x11, not ssh.record_input


def words(terms: Terms, protocol: Protocol) -> str:
    """Terms in a line, for people, as far as they mean something to *protocol*: ``read only,
    targets: standby, sessions up to 28800 s``, or ``shell, exec, sftp, idle up to 600 s``."""
    said = _ssh_words(terms.ssh) if protocol is Protocol.SSH else _postgres_words(terms)
    limits = zip(_LIMITED[protocol], _limits(terms), strict=False)
    said += [f"{what} up to {limit:g} s" for what, limit in limits if limit is not None]
    return ", ".join(said)


def _postgres_words(terms: Terms) -> list[str]:
    return [
        "read only" if terms.read_only else "read and write",
        f"targets: {terms.targets.value}",
        *(["replication"] if terms.replication else []),
    ]


def _ssh_words(ssh: SshRights) -> list[str]:
    said = {
        "shell": ssh.shell,
        "exec": ssh.exec,
        "sftp": ssh.sftp,
        f"forward to {' '.join(ssh.forward)}": ssh.forward,
        "agent": ssh.agent,
        "x11": ssh.x11,
    }
    rights = [right for right, given in said.items() if given] or ["nothing"]
    return [*rights, *(["typing is recorded"] if ssh.record_input else [])]
