"""What passes between two sides at the very end of a target. Sans-IO."""

from __future__ import annotations

from gateway.pg import bodies

LAST_WORDS = b"EN"  # ErrorResponse, and the NoticeResponse of a server that crashes
GOING = frozenset({"57P01", "57P02"})  # admin_shutdown, crash_shutdown
CALLS = b"QS"  # Query and Sync: each is followed by one ReadyForQuery
ONE_READ = 8192  # bytes: PostgreSQL's PQ_RECV_BUFFER_SIZE, and less than a record of TLS


def is_goodbye(data: bytes) -> bool:
    """Nothing but whole messages in which a server says that it goes down."""
    return _whole(data) and all(
        kind in LAST_WORDS and bodies.error(body)[0] in GOING for kind, body in bodies.frames(data)
    )


def said(goodbye: bytes) -> str:
    return ", ".join(bodies.error(body)[1] for _, body in bodies.frames(goodbye))


def is_one_call(data: bytes) -> bool:
    """A server reads it at once, and answers with one ReadyForQuery at its end."""
    kinds = [kind for kind, _ in bodies.frames(data)]
    calls = [kind for kind in kinds if kind in CALLS]
    return len(data) <= ONE_READ and _whole(data) and len(calls) == 1 and kinds[-1] in CALLS


def _whole(data: bytes) -> bool:
    return sum(5 + len(body) for _, body in bodies.frames(data)) == len(data)
