"""The control socket: how the ``gateway`` command speaks to the running daemon.

One JSON object a line, each way: ``{"command": …, "arguments": {…}}``, answered by
``{"result": …}`` or ``{"error": {"code": exit code, "message": …, "problems": […]}}``.
Only the daemon's own user (and root) is let in: the socket is 0600 in a 0700 directory, and
the peer's user id is asked of the kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
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
TIMEOUT = 60.0  # seconds the command line waits: an apply of that file takes a few

log = Logger()


class Control:
    """The daemon's end."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """:raises GatewayError: another daemon answers on the socket already"""
        self._clear()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._path), limit=MAX_LINE
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove the socket of a daemon that was killed."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except (FileNotFoundError, ConnectionRefusedError):
                self._path.unlink(missing_ok=True)
                return
        raise GatewayError(f"another gateway is running on {self._path.parent}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer(writer) in (0, os.geteuid()):
                while line := await reader.readline():
                    answer = await self._answer(line)
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line beyond the limit
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
            return {"result": await command(request.get("arguments", {}))}
        except (KeyError, TypeError, json.JSONDecodeError) as malformed:
            log.failure("A request on the control socket was not understood")
            return _error(FAILED, f"not understood: {type(malformed).__name__}")
        except BadFile as bad:
            return _error(BAD_CONFIGURATION, str(bad), bad.problems)
        except GatewayError as failed:
            return _error(FAILED, str(failed))
        except Exception:
            log.failure("A command on the control socket failed")
            return _error(FAILED, "internal error; the daemon's log has the details")


def _error(code: int, message: str, problems: tuple[Problem, ...] = ()) -> dict[str, Any]:
    listed = [asdict(problem) for problem in problems]
    return {"error": {"code": code, "message": message, "problems": listed}}


def _peer(writer: asyncio.StreamWriter) -> int:
    """The user id at the other end."""
    sock: socket.socket = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


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
    request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
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
    if not line:
        raise CommandFailed(UNREACHABLE, f"the gateway on {path} closed the connection")
    answer = json.loads(line)
    if "error" in answer:
        error = answer["error"]
        problems = tuple(Problem(**problem) for problem in error["problems"])
        raise CommandFailed(error["code"], error["message"], problems)
    return answer["result"]
