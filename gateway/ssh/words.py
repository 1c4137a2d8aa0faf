"""What SSH clients are told when they are refused, or when a session ends.

OpenSSH prints the description of SSH_MSG_DISCONNECT, and the words of a refused channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway.errors import Refused
from gateway.model import End, EndReason

NAME_ONE = "name what you want: ssh USER#RESOURCE@GATEWAY, or ssh -J USER@GATEWAY ACCOUNT@RESOURCE"

_ENDS: Mapping[EndReason, str] = MappingProxyType(
    {
        EndReason.CLIENT: "goodbye",
        EndReason.TARGET: "the target closed the connection",
        EndReason.KILLED: "the session was ended by an administrator",
        EndReason.REVOKED: "access to this resource was revoked",
        EndReason.SHUTDOWN: "the gateway is shutting down",
        EndReason.TIME_LIMIT: "the session reached its time limit",
        EndReason.IDLE: "the session was idle for too long",
        EndReason.NOT_RECORDED: "the session cannot be recorded",
        EndReason.PROTOCOL: "protocol violation",
        EndReason.FAILED: "internal error of the gateway",
    }
)


def refusal(refused: Refused, quote: str) -> str:
    """For a connection that does not become a session; *quote* is the audit id, or ""."""
    return f"{refused.public} (audit id {quote})" if quote else refused.public


def ended(end: End, session_id: str) -> str:
    """For a session that is brought to its end."""
    reason = f": {end.detail}" if end.reason is EndReason.KILLED and end.detail else ""
    return f"{_ENDS[end.reason]}{reason} (session {session_id})"
