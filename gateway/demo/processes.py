"""Programs that the demo starts. Whatever becomes of the demo, none of them stays behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from attrs import field, frozen

from gateway.errors import GatewayError, printable

PATIENCE = 60.0  # seconds to come up: initdb on a slow disk takes a few
ENDING = 20.0  # seconds to end when asked; PostgreSQL writes what it has in memory
TAIL = 5  # lines of a log that tell why its program ended
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # linux/prctl.h

_libc = ctypes.CDLL(None)


class Failed(GatewayError):
    """A program did; ``log`` is the end of what it said, as a terminal may have it."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = [printable(line) for line in log.splitlines()[-TAIL:]]


@frozen
class Launch:
    """How to start a program.

    :param lock: a descriptor that it inherits, so that what it locks stays locked
    :param who: user, group and extra_groups as :class:`subprocess.Popen` has them
    """

    command: tuple[str, ...]
    cwd: Path
    lock: int
    environment: Mapping[str, str] = field(repr=False)
    who: Mapping[str, Any] = {}

    async def start(self, ending: signal.Signals, **streams: Any) -> Process:
        """*ending* is also what it gets when the demo is killed.

        It leads a session of its own: the terminal's Ctrl-C is for the demo only, which
        ends its programs in order.
        """
        program, *arguments = self.command
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                program,
                *arguments,
                cwd=self.cwd,
                env=self.environment,
                pass_fds=(self.lock,),
                start_new_session=True,
                preexec_fn=partial(die_with_parent, ending, os.getpid()),
                **self.who,
                **streams,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _kill(await starting)  # asyncio itself would forget its children
            raise


@frozen
class Child:
    """A program that serves. ``name`` is for people."""

    name: str
    process: Process
    log: Path

    async def ended(self) -> NoReturn:
        """Wait until it ends, which it should not.

        :raises Failed: always
        """
        code = await self.process.wait()
        raise self._failed(f"ended with code {code}")

    async def until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait for *ready*, asked ten times a second.

        :raises Failed: the program ended, or took too long
        """
        asking = asyncio.ensure_future(_true(ready))
        ending = asyncio.ensure_future(self.ended())
        try:
            done, _ = await asyncio.wait(
                {asking, ending}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            asking.cancel()
            ending.cancel()
        if not done:
            raise self._failed(f"was not ready after {PATIENCE:g} s")
        for task in done:
            task.result()

    def _failed(self, how: str) -> Failed:
        return Failed(f"{self.name} {how}", self.log.read_text(errors="replace"))


@asynccontextmanager
async def serving(
    name: str, launch: Launch, log: Path, ending: signal.Signals
) -> AsyncIterator[Child]:
    """Run a program for as long as the block lasts, then end it with the signal *ending*."""
    with _private(log) as output:
        process = await launch.start(ending, stdin=DEVNULL, stdout=output, stderr=output)
    try:
        yield Child(name, process, log)
    finally:
        await _end(process, ending)


async def completed(name: str, launch: Launch, text: str = "") -> None:
    """Run a program to its end; *text* is its input.

    :raises Failed: it did
    """
    process = await launch.start(signal.SIGKILL, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        said, _ = await process.communicate(text.encode())
    except BaseException:
        await _kill(process)
        raise
    if process.returncode != 0:
        raise Failed(f"{name} failed", said.decode(errors="replace"))


async def listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _end(process: Process, ending: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(ending)
    try:
        async with asyncio.timeout(ENDING):
            await process.wait()
    except TimeoutError:
        await _kill(process)


async def _kill(process: Process) -> None:
    """With all that it started, which is in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _true(ready: Callable[[], Awaitable[bool]]) -> None:
    while not await ready():  # noqa: ASYNC110 -- another program, which tells nobody
        await asyncio.sleep(0.1)


def _private(log: Path) -> Any:
    return open(log, "ab", opener=partial(os.open, mode=0o600))


def die_with_parent(number: int, parent: int) -> None:
    """In the child, after it has changed its user (which would take this back)."""
    _libc.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it was killed before we could ask
        os._exit(1)


def adopt_orphans() -> None:
    """Whatever is started below us stays below us, daemons too."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def show_to_own_user() -> None:
    """Let processes of our user see where we are, although we were root's once."""
    _libc.prctl(PR_SET_DUMPABLE, 1)


def end_abandoned(program: Path, cwd: Path) -> None:
    """Processes of *program* that are in *cwd*; when what started them there has ended."""
    wanted = os.path.realpath(program), os.path.realpath(cwd)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has gone, or is somebody else's
            if (os.readlink(process / "exe"), os.readlink(process / "cwd")) == wanted:
                os.kill(int(process.name), signal.SIGKILL)


def end_children() -> None:
    """All of them, and theirs; after :func:`adopt_orphans`."""
    while children := _children():
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    us = str(os.getpid())
    return [int(file.parent.name) for file in Path("/proc").glob("[0-9]*/stat") if _of(file) == us]


def _of(stat: Path) -> str:
    """The parent's id in proc(5)'s *stat*; "" if the process has gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""
