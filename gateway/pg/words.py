"""What PostgreSQL clients are told when they are refused, or when a session ends.

SQLSTATEs are those of the manual's appendix A. The id to quote stands in the message,
since some drivers show nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway import errors
from gateway.model import End, EndReason
from gateway.pg import frames

_FALLBACK = "XX000"  # internal_error

_SQLSTATES: Mapping[type | None, str] = MappingProxyType(
    {
        errors.BadProof: "28P01",
        errors.NotAllowed: "28000",
        errors.TlsRequired: "28000",
        errors.Unreachable: "57P03",
        errors.NoSuchDatabase: "57P03",
        errors.BadParameter: "57P03",
        errors.LimitReached: "53300",
        errors.ProtocolViolation: "08P01",
        errors.NotRecorded: "58030",
        errors.ShuttingDown: "57P03",
    }
)

_HINTS: Mapping[type | None, str] = MappingProxyType(
    {
        errors.NotAllowed: "Name what you ask for as dbname=RESOURCE, dbname=RESOURCE/DATABASE or"
        " user=USER#RESOURCE; an administrator can look the audit id up.",
        errors.TlsRequired: "Connect with sslmode=require, or better.",
        errors.Unreachable: "Try again in a moment.",
        errors.ShuttingDown: "Try again in a moment.",
    }
)

_ENDS = MappingProxyType(
    {
        EndReason.CLIENT: ("57P01", "the client closed the connection"),
        EndReason.KILLED: ("57P01", "the session was ended by an administrator"),
        EndReason.REVOKED: ("57P01", "access to this resource was revoked"),
        EndReason.SHUTDOWN: ("57P01", "the gateway is shutting down"),
        EndReason.TIME_LIMIT: ("57P01", "the session reached its time limit"),
        EndReason.IDLE: ("57P05", "the session was idle for too long"),
        EndReason.NOT_RECORDED: ("58030", "the session cannot be recorded"),
        EndReason.PROTOCOL: ("08P01", "protocol violation"),
        EndReason.TARGET: ("08006", "the target closed the connection"),
        EndReason.FAILED: (_FALLBACK, "internal error of the gateway"),
    }
)


def refusal(refused: errors.Refused, quote: str) -> bytes:
    """An ErrorResponse for a connection that does not become a session.

    :param quote: the audit id, empty if there is none
    """
    kind = next((known for known in type(refused).__mro__ if known in _SQLSTATES), None)
    text = f"{refused.public} (audit id {quote})" if quote else refused.public
    sqlstate, hint = _SQLSTATES.get(kind, _FALLBACK), _HINTS.get(kind, "")
    return frames.error_response("FATAL", sqlstate, text, hint=hint)


def lost(why: str, session_id: str, *, retry: bool) -> bytes:
    """An ErrorResponse for a session that does not survive its target.

    *retry*: all that is lost is a transaction which certainly was not committed.
    """
    if retry:
        text = "the target was lost and rolled the transaction back; it is safe to run it again"
    else:
        text = "the target was lost and the session could not be taken to another"
    quoted = f"{text} (session {session_id})"
    return frames.error_response("FATAL", "40001" if retry else "57P01", quoted, why)


def ended(end: End, session_id: str) -> bytes:
    """An ErrorResponse for a session that is brought to its end."""
    sqlstate, text = _ENDS[end.reason]
    detail = end.detail if end.reason is EndReason.KILLED else ""  # --reason is meant to be told
    return frames.error_response("FATAL", sqlstate, f"{text} (session {session_id})", detail)
