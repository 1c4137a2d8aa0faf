from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo import processes
from gateway.demo.processes import Failed, Launch, completed, end_abandoned, listens, serving
from gateway.errors import GatewayError
from tests.real.servers import until
from tests.support import asyncio_test, over

ENDLESS = "echo ready; exec sleep 60"


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def shell(script: str, cwd: Path, lock: int) -> Launch:
    return Launch(("/bin/sh", "-c", script), cwd, lock, {"PATH": os.defpath, "WORD": "secret"})


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


@asyncio_test
async def test_a_program_runs_to_its_end(tmp_path: Path, lock: int) -> None:
    await completed("it", shell('cat >"$WORD"', tmp_path, lock), "text")
    assert (tmp_path / "secret").read_text() == "text"


@asyncio_test
async def test_one_that_fails_says_why(tmp_path: Path, lock: int) -> None:
    script = "for n in 1 2 3 4 5 6; do echo line $n; done; echo last >&2; exit 3"
    with pytest.raises(Failed, match=r"^it failed$") as failed:
        await completed("it", shell(script, tmp_path, lock))
    assert failed.value.log == ["line 3", "line 4", "line 5", "line 6", "last"]


@asyncio_test
async def test_one_that_is_no_longer_wanted_goes_with_its_children(
    tmp_path: Path, lock: int
) -> None:
    os.mkfifo(tmp_path / "pids")
    reading = asyncio.ensure_future(asyncio.to_thread((tmp_path / "pids").read_text))
    script = "sleep 60 & echo $$ $! >pids; wait"
    running = asyncio.ensure_future(completed("it", shell(script, tmp_path, lock)))
    family = [int(pid) for pid in (await reading).split()]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(family) == 2
    until(lambda: all(map(over, family)), "their end")


@asyncio_test
async def test_a_server_is_ended_as_it_wants_to_be(tmp_path: Path, lock: int) -> None:
    script = "trap 'echo bye; kill $!; exit 0' INT; sleep 60 & echo ready; wait"
    log = tmp_path / "log"
    async with serving("it", shell(script, tmp_path, lock), log, signal.SIGINT) as child:
        await child.until(_said(log, "ready"))
        assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
    assert log.read_text() == "ready\nbye\n"
    assert child.process.returncode == 0
    assert log.stat().st_mode & 0o777 == 0o600


@asyncio_test
async def test_one_that_does_not_end_is_killed(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ENDING", 0.1)
    log = tmp_path / "log"
    launch = Launch(("/bin/sh", "-c", "trap '' INT; echo ready; exec sleep 60"), tmp_path, lock, {})
    async with serving("it", launch, log, signal.SIGINT) as child:
        await child.until(_said(log, "ready"))
    assert child.process.returncode == -signal.SIGKILL


@asyncio_test
async def test_one_that_ends_by_itself_is_told_with_its_log(tmp_path: Path, lock: int) -> None:
    log = tmp_path / "log"
    launch = shell("echo no more disk; exit 9", tmp_path, lock)
    async with serving("it", launch, log, signal.SIGINT) as child:
        with pytest.raises(Failed, match=r"^it ended with code 9$") as failed:
            await child.until(no)
    assert failed.value.log == ["no more disk"]


@asyncio_test
async def test_no_terminal_obeys_a_log(tmp_path: Path, lock: int) -> None:
    with pytest.raises(Failed) as failed:
        await completed("it", shell("printf '\\033[2J'; exit 1", tmp_path, lock))
    assert failed.value.log == ["\\x1b[2J"]


@asyncio_test
async def test_patience_ends(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    launch = shell(ENDLESS, tmp_path, lock)
    async with serving("it", launch, tmp_path / "log", signal.SIGTERM) as child:
        with pytest.raises(GatewayError, match=r"^it was not ready after 0\.1 s$"):
            await child.until(no)
        await child.until(yes)


@asyncio_test
async def test_the_lock_lasts_as_long_as_the_program(tmp_path: Path) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    launch = shell(ENDLESS, tmp_path, lock)
    async with serving("it", launch, tmp_path / "log", signal.SIGTERM):
        os.close(lock)
        assert not _lockable(tmp_path)
    assert _lockable(tmp_path)


BELOW = """\
import subprocess
from gateway.demo.processes import adopt_orphans, end_children

adopt_orphans()
started = "sleep 60 & exec setsid sh -c 'sleep 60 & echo $$ $!; exec sleep 60'"
with subprocess.Popen(["sh", "-c", started + "& wait"], stdout=subprocess.PIPE, text=True) as shell:
    print(shell.pid, shell.stdout.readline(), flush=True)
    shell.kill()
    shell.wait()
end_children()
"""


def test_children_of_children_end_with_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BELOW], capture_output=True, text=True, check=True, timeout=30
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    assert all(map(over, pids))


def test_only_the_program_s_processes_in_the_directory_are_ended(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for place in (here, elsewhere):
        place.mkdir()
    (tmp_path / "link").symlink_to(here)
    program = Path("/bin/sleep").resolve()
    with (
        subprocess.Popen([program, "60"], cwd=here) as abandoned,
        subprocess.Popen([program, "60"], cwd=elsewhere) as another,
        subprocess.Popen([sys.executable, "-c", "input()"], cwd=here, stdin=subprocess.PIPE) as own,
    ):
        end_abandoned(program, tmp_path / "link")
        assert abandoned.wait(10) == -signal.SIGKILL
        assert (another.poll(), own.poll()) == (None, None)
        another.kill()
        own.communicate(b"\n", 10)
        assert own.returncode == 0


@asyncio_test
async def test_whether_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert await listens("127.0.0.1", port)
    assert not await listens("127.0.0.1", port)


def _said(log: Path, words: str):
    async def said() -> bool:
        return words in log.read_text()  # noqa: ASYNC240 -- it is short

    return said


def _lockable(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
