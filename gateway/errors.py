"""What can go wrong, and what a peer may hear of it.

``public`` goes to the peer; ``detail`` goes to the audit log and nowhere else. A wire
turns the class into its own words (SQLSTATE, SSH disconnect reason).
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen


class GatewayError(Exception):
    """Base of everything the gateway raises on purpose."""


class Refused(GatewayError):
    """A connection that does not become a session."""

    public = "the connection was refused"

    def __init__(self, detail: str, public: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if public is not None:
            self.public = public


class BadProof(Refused):
    """Who they say they are could not be proved (or there is no such user)."""

    public = "authentication failed"


class NotAllowed(Refused):
    """Known, and not allowed; or no such resource: the same words."""

    public = "access denied"


class Unreachable(Refused):
    """No target can take the session now."""

    public = "no target can take this session now"


class NoSuchDatabase(Unreachable):
    """Somebody who may go there asks for a database that the targets do not have."""

    public = f"{Unreachable.public}: there is no such database"


class BadParameter(Unreachable):
    """The client's start-up message has a parameter that the targets do not take."""

    public = f"{Unreachable.public}: a connection parameter is unknown, or has an impossible value"


class LimitReached(Refused):
    public = "too many connections"


class ProtocolViolation(Refused):
    """The peer does not follow its protocol. ``public`` says what, in the protocol's words."""

    def __init__(self, public: str, detail: str | None = None) -> None:
        super().__init__(detail or public, public)


class TlsRequired(Refused):
    public = "connections must use TLS"


class NotRecorded(Refused):
    """The transcript cannot be written, so nothing may run."""

    public = "the session cannot be recorded"


class ShuttingDown(Refused):
    public = "the gateway is shutting down"


class Gone(GatewayError):
    """The peer closed the connection; nobody is left to tell."""


def printable(text: str) -> str:
    """Control characters escaped, so that no terminal obeys what somebody else typed."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@frozen
class Problem:
    """One mistake in a file. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        """One line, whatever the file is called and holds."""
        said = f"{self.path}: {self.message}" if self.path else self.message
        return printable(f"{self.file}:{self.line}:{self.column}: {said}")


class BadFile(GatewayError):
    """A configuration or objects file with mistakes: all of them at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    @classmethod
    def about(cls, path: Path, message: str) -> BadFile:
        """One problem, of the file as a whole."""
        return cls((Problem(str(path), 1, 1, "", message),))
