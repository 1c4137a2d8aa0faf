"""What passes between two sides at the very end of a target. Sans-IO."""

from __future__ import annotations

from gateway.pg import bodies
from gateway.pg.frames import Kind

LAST_WORDS = b"EN"  # ErrorResponse, and the NoticeResponse of a server that crashes
GOING = frozenset({"57P01", "57P02"})  # admin_shutdown, crash_shutdown


def is_goodbye(data: bytes) -> bool:
    """Nothing but whole messages in which a server says that it goes down."""
    return _whole(data) and all(
        kind in LAST_WORDS and bodies.error(body)[0] in GOING for kind, body in bodies.frames(data)
    )


def is_final(goodbye: bytes) -> bool:
    """Whether it ends this session, and not only warns of what the server does."""
    return any(kind == Kind.ERROR for kind, _ in bodies.frames(goodbye))


def said(goodbye: bytes) -> str:
    return ", ".join(bodies.error(body)[1] for _, body in bodies.frames(goodbye))


def _whole(data: bytes) -> bool:
    return sum(5 + len(body) for _, body in bodies.frames(data)) == len(data)
