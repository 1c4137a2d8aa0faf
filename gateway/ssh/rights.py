"""What a role lets an SSH session ask for. Pure: a request in, yes or no out."""

from __future__ import annotations

import re

from gateway import forwards
from gateway.model import SshRights

ENVIRONMENT = re.compile(rb"LANG|LANGUAGE|LC_[A-Z_]+|TERM|COLORTERM|NO_COLOR|TZ|GIT_PROTOCOL")
"""Variables that pass to the target: words for programs, none that a linker or shell obeys."""

_HARMLESS = frozenset({b"window-change", b"signal", b"break", b"pty-req", b"eow@openssh.com"})


def may_request(rights: SshRights, request: bytes, detail: bytes) -> bool:
    """Whether a client's request on a session channel may reach the target.

    :param detail: the request's first field: the subsystem, the variable
    """
    if request in _HARMLESS:
        return True
    if request == b"env":
        return ENVIRONMENT.fullmatch(detail) is not None
    if request == b"subsystem":
        return rights.sftp if detail == b"sftp" else rights.exec
    allowed = {
        b"shell": rights.shell,
        b"exec": rights.exec,
        b"auth-agent-req@openssh.com": rights.agent,
        b"x11-req": rights.x11,
    }
    return allowed.get(request, False)


def may_forward(rights: SshRights, host: str, port: int) -> bool:
    """Whether a connection to *host*:*port* may be asked of the target."""
    return any(forwards.reaches(pattern, host, port) for pattern in rights.forward)


def may_listen(rights: SshRights, host: str, port: int) -> bool:
    """Whether a listener there may be asked of the target; *port* 0: any that is free."""
    return any(forwards.listens(pattern, host, port) for pattern in rights.forward)


def may_forward_path(rights: SshRights, path: str) -> bool:
    """Either of them for a Unix socket; its patterns begin with a slash."""
    return any(forwards.reaches_path(pattern, path) for pattern in rights.forward)
