"""What PostgreSQL clients are told when they are refused, or when a session ends.

SQLSTATEs are those of the manual's appendix A. The audit id stands in the message, since
some drivers show nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from gateway import errors
from gateway.model import End, EndReason


@frozen
class Words:
    """The fields of an ErrorResponse that are ours to choose."""

    sqlstate: str
    text: str
    detail: str = ""
    hint: str = ""


_FALLBACK = "XX000"  # internal_error

_SQLSTATES: Mapping[type | None, str] = MappingProxyType(
    {
        errors.BadProof: "28P01",
        errors.NotAllowed: "28000",
        errors.TlsRequired: "28000",
        errors.Unreachable: "57P03",
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


def of_refusal(refused: errors.Refused, quote: str) -> Words:
    """*quote*: the audit id, empty if there is none."""
    kind = next((known for known in type(refused).__mro__ if known in _SQLSTATES), None)
    sqlstate = _SQLSTATES.get(kind, _FALLBACK)
    return Words(sqlstate, _quoted(refused.public, quote), hint=_HINTS.get(kind, ""))


def of_end(end: End, quote: str) -> Words:
    """As :func:`of_refusal`, for a session that was one."""
    sqlstate, text = _ENDS[end.reason]
    detail = end.detail if end.reason is EndReason.KILLED else ""  # --reason is meant to be told
    return Words(sqlstate, _quoted(text, quote), detail)


def _quoted(text: str, quote: str) -> str:
    return f"{text} (audit id {quote})" if quote else text
