from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.demo import supervision
from gateway.demo.processes import Child, Failed, Launch, serving
from gateway.demo.supervision import kept_up
from tests.support import asyncio_test, over

SERVE = "echo $$ >>pids; touch ready; exec sleep 60"
DIE = "echo $$ >>pids; echo no more disk; exit 9"


class Program:
    """A shell script that is served, and the lines that are told of it."""

    def __init__(self, place: Path, script: str) -> None:
        self.place = place
        self.told: list[str] = []
        self.write(script)

    def write(self, script: str) -> None:
        (self.place / "script").write_text(script)

    @property
    def pids(self) -> list[int]:
        """Of all its runs."""
        file = self.place / "pids"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    @property
    def up(self) -> bool:
        return (self.place / "ready").exists()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Child]:
        (self.place / "ready").unlink(missing_ok=True)
        command = ("/bin/sh", "script")
        lock = os.open("/dev/null", os.O_RDONLY)
        try:
            launch = Launch(command, self.place, lock, {"PATH": os.defpath})
            async with serving("it", launch, self.place / "log", signal.SIGTERM) as child:
                await child.until(self._ready)
                yield child
        finally:
            os.close(lock)

    async def _ready(self) -> bool:
        return self.up

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 -- another program
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSES", (0.01, 0.02))


AGAIN = "it ended with code -9: starting it again"


@asyncio_test
async def test_what_is_killed_is_told_and_started_again(tmp_path: Path) -> None:
    it = Program(tmp_path, SERVE)
    async with kept_up(it.serve, it.told.append):
        [first] = it.pids
        os.kill(first, signal.SIGKILL)
        await it.until(lambda: len(it.pids) == 2)
        assert it.told == [AGAIN]
    assert it.told == [AGAIN]  # it is we who ended the second
    assert all(map(over, it.pids))


@asyncio_test
async def test_what_does_not_come_up_at_first_is_not_started_again(tmp_path: Path) -> None:
    it = Program(tmp_path, DIE)
    with pytest.raises(Failed, match=r"^it ended with code 9$") as failed:
        async with kept_up(it.serve, it.told.append):
            pytest.fail("it is not up")
    assert failed.value.log == ["no more disk"]
    assert (len(it.pids), it.told) == (1, [])


@asyncio_test
async def test_what_keeps_ending_is_given_up_with_its_log(tmp_path: Path) -> None:
    it = Program(tmp_path, SERVE)
    async with kept_up(it.serve, it.told.append):
        it.write(DIE)
        os.kill(it.pids[0], signal.SIGKILL)
        await it.until(lambda: len(it.told) > 3)
        assert it.told == [
            AGAIN,
            "it ended with code 9: starting it again",
            "it ended with code 9, 3 times in a row: it is given up, the rest goes on",
            *["  no more disk"] * 2,  # one log for all runs
        ]
    assert len(it.pids) == 3


@asyncio_test
async def test_what_has_been_up_for_long_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "STEADY", 0.0)
    it = Program(tmp_path, SERVE)
    async with kept_up(it.serve, it.told.append):
        for number in range(1, 6):
            await it.until(lambda number=number: len(it.pids) == number and it.up)
            os.kill(it.pids[-1], signal.SIGKILL)
            await it.until(lambda number=number: len(it.told) == number)
    assert it.told == [AGAIN] * 5


@asyncio_test
async def test_a_stop_in_a_pause_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSES", (60.0,))
    it = Program(tmp_path, SERVE)
    async with asyncio.timeout(20), kept_up(it.serve, it.told.append):
        os.kill(it.pids[0], signal.SIGKILL)
        await it.until(lambda: it.told == [AGAIN])
    assert len(it.pids) == 1


@asyncio_test
async def test_a_stop_half_way_leaves_nothing(tmp_path: Path) -> None:
    """While it is started for the first time, and while it is started again."""
    never_ready = "echo $$ >>pids; exec sleep 60"
    it = Program(tmp_path, never_ready)

    async def run() -> None:
        async with kept_up(it.serve, it.told.append):
            it.write(never_ready)
            os.kill(it.pids[-1], signal.SIGKILL)
            await asyncio.sleep(60)

    for script, runs in ((never_ready, 1), (SERVE, 3)):
        it.write(script)
        running = asyncio.ensure_future(run())
        await it.until(lambda runs=runs: len(it.pids) == runs)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert all(map(over, it.pids))


@asyncio_test
async def test_a_directory_that_has_gone_is_one_more_death(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    it = Program(place, SERVE)
    async with kept_up(it.serve, it.told.append):
        [pid] = it.pids
        place.rename(tmp_path / "elsewhere")
        os.kill(pid, signal.SIGKILL)
        await it.until(lambda: "given up" in it.told[-1] if it.told else False)
    assert "No such file or directory" in it.told[1]
    assert it.told[1].endswith(": starting it again")
