"""The control socket: how the ``gateway`` command speaks to the running daemon.

One JSON object a line, each way: ``{"command": …, "arguments": {…}}``, answered by
``{"result": …}`` or ``{"error": {"code": exit code, "message": …, "problems": […]}}``.
Only the daemon's own user (and root) is let in: the socket is 0600 in a 0700 directory, and
the peer's user id is asked of the kernel. Commands are told who asks (``by``), whatever a
request says. A lock beside it keeps a second daemon out.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict
from twisted.logger import Logger

from gateway.contracts import Command
from gateway.errors import BadFile, GatewayError, Problem

FAILED = 1
UNREACHABLE = 69  # sysexits.h: EX_UNAVAILABLE
BAD_CONFIGURATION = 78  # sysexits.h: EX_CONFIG

MAX_LINE = 1 << 24  # bytes: an objects file of 100,000 users fits
NO_LOGIN = 0xFFFFFFFF  # the login uid of what no log-in started
TIMEOUT = 300.0  # seconds the command line waits: an apply of that file takes about 60

log = Logger()


class Control:
    """The daemon's end: :meth:`claim`, :meth:`start`, :meth:`close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commands: Mapping[str, Command] = {}
        self._server: asyncio.Server | None = None
        self._lock = -1

    def claim(self) -> None:
        """Have the directory to ourselves until :meth:`close`, before anything there is touched.

        :raises GatewayError: another daemon has it
        """
        lock = _opened(self._path.with_suffix(".lock"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise GatewayError(f"another gateway is running on {self._path.parent}") from None
        self._lock = lock

    async def start(self, commands: Mapping[str, Command]) -> None:
        """:raises GatewayError: there cannot be a socket, and why"""
        self._commands = commands
        self._server = await asyncio.start_unix_server(
            self._serve, sock=_bound(self._path), limit=MAX_LINE
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            process, user = _peer(writer)
            if user in (0, os.geteuid()):
                by = await asyncio.to_thread(caller, process, user)  # names may be a network away
                while line := await reader.readline():
                    writer.write(await self._answer(line, by))
                    await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line beyond the limit
        finally:
            writer.close()

    async def _answer(self, line: bytes, by: str) -> bytes:
        try:
            command, arguments = self._request(line)
            return _line({"result": await command({**arguments, "by": by})})
        except BadFile as bad:
            return _error(BAD_CONFIGURATION, str(bad), bad.problems)
        except GatewayError as failed:
            return _error(FAILED, str(failed))
        except Exception:
            log.failure("A command on the control socket failed")
            return _error(FAILED, "internal error; the daemon's log has the details")

    def _request(self, line: bytes) -> tuple[Command, Mapping[str, Any]]:
        """:raises GatewayError: it is none, or one that only another version understands"""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        match request:
            case {"command": str(name), "arguments": dict(arguments)}:
                command = self._commands.get(name)
            case _:
                raise GatewayError("not a request: an object with a command and its arguments")
        if command is None:
            raise GatewayError(f"the running gateway has no command {name[:40]!r}")
        return command, arguments


def _opened(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failed:
        raise GatewayError(f"{lock}: {failed.strerror}") from failed


def _bound(path: Path) -> socket.socket:
    """In the place of what a daemon that was killed has left."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o600)  # before it listens: nobody has got in meanwhile
    except OSError as failed:
        sock.close()
        raise GatewayError(f"{path}: {failed.strerror or failed}") from failed
    return sock


def _error(code: int, message: str, problems: tuple[Problem, ...] = ()) -> bytes:
    listed = [asdict(problem) for problem in problems]
    return _line({"error": {"code": code, "message": message, "problems": listed}})


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """The process and the user id at the other end."""
    sock: socket.socket = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    process, user, _ = struct.unpack("iII", credentials)
    return process, user


def caller(process: int, user: int, proc: Path = Path("/proc")) -> str:
    """Who that is, for the audit log: ``root (0)``, or ``alice (1000) as root (0)``.

    Whoever logged in stays on record through sudo and su: the kernel's login uid.
    """
    try:
        login = int((proc / str(process) / "loginuid").read_text())
    except (OSError, ValueError):  # not kept by this kernel, or the process has gone
        login = NO_LOGIN
    named = _named(user)
    return named if login in (user, NO_LOGIN) else f"{_named(login)} as {named}"


def _named(user: int) -> str:
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = "?"
    return f"{name} ({user})"


class CommandFailed(GatewayError):
    """What the command line reports: an exit code, a line, and mistakes with positions."""

    def __init__(self, code: int, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.problems = problems


def call(path: Path, command: str, **arguments: Any) -> Any:
    """Have the daemon at the socket *path* run *command*; its result.

    :raises CommandFailed: with :data:`UNREACHABLE` if no daemon answers
    """
    request = _line({"command": command, "arguments": arguments})
    if len(request) > MAX_LINE:
        raise CommandFailed(FAILED, f"more than {MAX_LINE >> 20} MiB cannot be sent at once")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            sock.sendall(request)
            with sock.makefile("rb") as lines:
                line = lines.readline()
    except OSError as unreachable:
        why = unreachable.strerror or str(unreachable)
        raise CommandFailed(UNREACHABLE, f"no gateway answers on {path}: {why}") from None
    if not line.endswith(b"\n"):
        raise CommandFailed(UNREACHABLE, f"the gateway on {path} closed the connection")
    answer = json.loads(line)
    if "error" in answer:
        error = answer["error"]
        problems = tuple(Problem(**problem) for problem in error["problems"])
        raise CommandFailed(error["code"], error["message"], problems)
    return answer["result"]
