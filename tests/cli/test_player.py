"""Playing: in time, under the person's keys, and leaving their terminal as it was."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.player import (
    ENTER,
    HOLD,
    LEAVE,
    MAX_SPEED,
    SKIP,
    _first_signal,
    _keyboard,
    play,
    replay,
)
from gateway.show.cast import NoTerminal

Event = dict[str, Any]

OPENED: list[Event] = [
    {"at": 0.0, "kind": "start", "user": "alice", "resource": "web", "account": "deploy",
     "started": "2026-11-18T00:00:00Z"},
    {"at": 1.0, "kind": "channel", "channel": 0, "type": "shell",
     "pty": {"term": "xterm", "columns": 80, "rows": 24}},
]  # fmt: skip


def said(at: float, text: str, channel: int = 0) -> Event:
    return {
        "at": at, "kind": "output", "channel": channel, "stream": "stdout", "data": text,
    }  # fmt: skip


def session(*spoken: tuple[float, str]) -> list[Event]:
    return [*OPENED, *(said(at, text) for at, text in spoken)]


class Person:
    """A clock that only waiting moves, and somebody who types at moments known before."""

    def __init__(self, *typed: tuple[float, str]) -> None:
        self.now = 100.0
        self._typed = [(100.0 + at, keys) for at, keys in typed]
        self._patience = 10_000  # waits: a player that turns in circles fails, not hangs

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float | None) -> str:
        self._patience -= 1
        assert self._patience, "no time passes"
        if self._typed and (seconds is None or self._typed[0][0] <= self.now + seconds):
            at, keys = self._typed.pop(0)
            self.now = max(self.now, at)
            return keys
        assert seconds is not None, "waits for a key that never comes"
        self.now += seconds
        return ""


class Terminal(io.StringIO):
    """Knows when it was written to."""

    def __init__(self, person: Person) -> None:
        super().__init__()
        self._person = person
        self.heard: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.heard.append((round(self._person.now - 100, 2), text))
        return super().write(text)


def played(
    events: list[Event], *typed: tuple[float, str], **options: Any
) -> list[tuple[float, str]]:
    """What the terminal was given, and when, between the first and the last word."""
    person = Person(*typed)
    terminal = Terminal(person)
    play(events, terminal, clock=person.clock, wait=person.wait, **options)
    first, *heard, last = terminal.heard
    assert (first[1], last[1]) == (ENTER, LEAVE)
    return [*heard, (last[0], "end")]


THREE = session((1.0, "a"), (2.0, "b"), (12.0, "c"))


def test_in_its_own_time() -> None:
    assert played(THREE) == [(0, "a"), (1, "b"), (11, "c"), (11 + HOLD, "end")]


def test_faster() -> None:
    assert played(THREE, speed=4) == [(0, "a"), (0.25, "b"), (2.75, "c"), (2.75 + HOLD, "end")]


def test_idle_time_is_cut() -> None:
    assert played(THREE, idle_limit=2) == [(0, "a"), (1, "b"), (3, "c"), (3 + HOLD, "end")]
    assert played(THREE, idle_limit=2, speed=2)[2] == (1.5, "c")
    assert played(THREE, idle_limit=0)[2] == (0, "c")


def test_only_output_is_played_and_counts() -> None:
    typed = {"at": 6.0, "kind": "input", "channel": 0, "data": "\x1b[31msecret"}
    resized = {"at": 7.0, "kind": "resize", "channel": 0, "columns": 9, "rows": 9}
    status = {"at": 20.0, "kind": "exec", "channel": 0, "command": None, "exit_status": 0}
    events = [*session((1.0, "a")), typed, resized, said(11.0, "b"), said(12.0, "c", 5), status]
    assert played(events) == [(0, "a"), (10, "b"), (10 + HOLD, "end")]
    assert played(events, idle_limit=2)[1] == (2, "b")


def test_space_pauses_and_goes_on() -> None:
    assert played(THREE, (0.5, " "), (30.5, " ")) == [
        (0, "a"), (31, "b"), (41, "c"), (41 + HOLD, "end"),
    ]  # fmt: skip
    assert played(THREE, (0.5, "  "))[1] == (1, "b")


def test_q_quits() -> None:
    assert played(THREE, (3.0, "q")) == [(0, "a"), (1, "b"), (3, "end")]
    assert played(THREE, (0.0, "q")) == [(0, "end")]
    assert played(THREE, (0.5, " "), (9.0, "q")) == [(0, "a"), (9, "end")]
    assert played(THREE, (11.5, "q"))[-1] == (11.5, "end")


def test_q_is_heard_in_a_flood() -> None:
    flood = session(*((1.0, f"{number}") for number in range(1000)))
    assert played(flood, (0.0, ""), (0.0, ""), (0.0, "q")) == [(0, "0"), (0, "1"), (0, "end")]


def test_plus_and_minus_change_the_speed() -> None:
    assert played(THREE, (2.0, "+"))[2] == (1 + 1 + 4.5, "c")
    assert played(THREE, (2.0, "-"))[2] == (1 + 1 + 18, "c")
    assert played(THREE, (2.0, "+-"))[2] == (11, "c")
    assert played(THREE, (1.0, "+" * 100))[2] == (round(1 + 10 / MAX_SPEED, 2), "c")


@pytest.mark.parametrize("right", ["\x1b[C", "\x1bOC"])
def test_right_skips(right: str) -> None:
    assert played(THREE, (2.0, right))[2] == (11 - SKIP, "c")
    assert played(THREE, (2.0, right * 5))[2] == (2, "c")
    assert played(THREE, (0.0, right)) == [
        (0, "a"), (0, "b"), (11 - SKIP, "c"), (11 - SKIP + HOLD, "end"),
    ]  # fmt: skip


def test_right_skips_while_paused() -> None:
    events = session((1.0, "a"), (2.0, "b"), (2.0, "c"), (12.0, "d"))
    heard = played(events, (0.5, " "), (3.0, "\x1b[C"), (9.0, "x"), (10.0, "q"))
    assert heard == [(0, "a"), (3, "b"), (3, "c"), (10, "end")]


def test_keys_come_in_halves_and_others_mean_nothing() -> None:
    assert played(THREE, (2.0, "\x1b"), (2.1, "["), (2.2, "C"))[2] == (11 - SKIP, "c")
    assert played(THREE, (2.0, "\x1b[1;5q\x1bOq\x1b[A\x1b[15~x\r\xff"))[2] == (11, "c")
    assert played(THREE, (2.0, "\x1b["), (2.1, "1" * 100), (2.2, "q"))[-1] == (2.2, "end")


def test_harmless_across_events() -> None:
    events = session((1.0, "a\x1b]52;c;"), (2.0, "cm0K\x07b\x1b["), (3.0, "6n\x1b[3"), (4.0, "1m"))
    assert "".join(text for _, text in played(events)) == "ab\x1b[31mend"


def test_what_is_raised_leaves_the_terminal() -> None:
    def broken() -> Iterator[Event]:
        yield from session((1.0, "\x1b[?25l\x1b[2;4r"))
        raise OSError("the disk went away")

    person = Person()
    terminal = Terminal(person)
    with pytest.raises(OSError, match="went away"):
        play(broken(), terminal, clock=person.clock, wait=person.wait)
    assert terminal.getvalue() == ENTER + "\x1b[?25l\x1b[2;4r" + LEAVE


def test_ctrl_c_leaves_the_terminal() -> None:
    def wait(_: float | None) -> str:
        raise KeyboardInterrupt

    terminal = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        play(THREE, terminal, clock=lambda: 0.0, wait=wait)
    assert terminal.getvalue() == ENTER + LEAVE


def test_without_a_terminal_nothing_is_touched() -> None:
    person = Person()
    terminal = io.StringIO()
    with pytest.raises(NoTerminal):
        play(OPENED[:1], terminal, clock=person.clock, wait=person.wait)
    with pytest.raises(NoTerminal):
        play(THREE, terminal, clock=person.clock, wait=person.wait, channel=7)
    assert terminal.getvalue() == ""


def test_leave_takes_back_all_that_a_recording_may_do() -> None:
    assert LEAVE.endswith("\x1b[?1049l")
    for back in ("\x1b[m", "\x1b[r", "\x1b[?25h", "\x1b[?7h", "\x1b[?6l", "\x1b[4l"):
        assert back in LEAVE


@pytest.mark.parametrize(
    ("text", "poured"),
    [
        ("plain\x1b]0;t\x07\x1b[6n\r\n", "plain\r\n"),
        ("\x1b[31mred\r\n", "\x1b[31mred\r\n" + LEAVE.removesuffix("\x1b[?1049l")),
    ],
)
def test_what_is_no_terminal_gets_it_at_once(text: str, poured: str) -> None:
    out = io.StringIO()
    replay(session((1.0, text[:3]), (1e9, text[3:])), io.StringIO(), out)
    assert out.getvalue() == poured


CHILD = """
import fcntl, json, select, sys, termios
from gateway.cli import player
fcntl.ioctl(1, termios.TIOCSCTTY, 0)  # so that Ctrl-C is meant for us
player.HOLD = 0.1
player.replay(json.load(open(sys.argv[1])), sys.stdin, sys.stdout, **json.loads(sys.argv[2]))
print("left over" if sys.stdin.isatty() and select.select([0], [], [], 0)[0] else "back")
"""
HOSTILE = (
    "\x1b[?1049l\x1bc\x1b]52;c;cm0K\x07\x1b[6n\x1b[c\x05\x1b[?1003h\x1b[5i\x1b[3J\x9d0;t\x9c"
    "\x1b[?25l\x1b[2;4r\x1b[?6h\x1b[4h\x1b(0\x0e\x1b[31m\nready"
)
TAIL = "\x1b]52;c;cm0K"  # unfinished
SENTINEL = b"ready"


class Pty:
    """A real terminal with a player in it."""

    def __init__(self, recording: Path, keyboard: bool = True, **options: Any) -> None:
        self._fd, self._terminal = pty.openpty()
        self._before = termios.tcgetattr(self._terminal)
        self._heard = b""
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(recording), json.dumps(options)],
            stdin=self._terminal if keyboard else subprocess.DEVNULL,
            stdout=self._terminal,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )

    def read_until(self, end: bytes) -> None:
        while end not in self._heard:
            assert select.select([self._fd], [], [], 30)[0], f"no more than {self._heard!r}"
            self._heard += os.read(self._fd, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> tuple[int, str]:
        """Exit code and all that was printed."""
        _, errors = self.child.communicate(timeout=30)
        assert not errors, errors.decode()
        assert termios.tcgetattr(self._terminal) == self._before
        os.close(self._terminal)
        self._terminal = -1
        with suppress(OSError):  # EIO, behind the last byte: its other end is closed
            while data := os.read(self._fd, 65536):
                self._heard += data
        return self.child.returncode, self._heard.decode()

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()
        os.close(self._fd)
        with suppress(OSError):  # closed already, in the end
            os.close(self._terminal)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pty]]:
    path = tmp_path / "events.json"
    path.write_text(json.dumps(session((1.0, HOSTILE), (1e9, TAIL))))
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(Pty(path, **options)))


HARMLESS = re.compile(
    r"(?:[^\x00-\x1f\x7f-\x9f]|[\b\t\r\n]|\x1b[78]|\x1b\[[0-9;]*[Hmr]|\x1b\[[0-2]?J"
    r"|\x1b\[4[hl]|\x1b\[\?(?:6|7|25)[hl])*"
)


def check(printed: str, after: str) -> None:
    assert printed.startswith(ENTER)
    assert printed.endswith(LEAVE + after)
    body = printed.removeprefix(ENTER).removesuffix(LEAVE + after)
    assert body.endswith("\x1b[31m\nready")  # the line feed as it was recorded
    assert HARMLESS.fullmatch(body), repr(body)


@pytest.mark.parametrize("keys", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_a_real_terminal_is_given_back(start: Callable[..., Pty], keys: bytes) -> None:
    terminal = start()
    terminal.read_until(SENTINEL)
    terminal.press(b"\x1a\x1c" + keys)  # nothing suspends it or makes it dump core
    code, printed = terminal.end()
    check(printed, "back\r\n")
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_give_it_back_too(start: Callable[..., Pty], number: int) -> None:
    terminal = start()
    terminal.read_until(SENTINEL)
    os.kill(terminal.child.pid, number)
    code, printed = terminal.end()
    check(printed, "")
    assert code == 128 + number


def test_a_keyboard_that_is_gone_quits() -> None:
    other, terminal = pty.openpty()
    try:
        os.close(other)
        assert _keyboard(terminal)(None) == "q"
    finally:
        os.close(terminal)


def test_a_second_signal_does_not_cut_the_first_short() -> None:
    before = signal.getsignal(signal.SIGINT)

    def ended_twice() -> None:
        with _first_signal():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        ended_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_it_ends_by_itself_without_a_keyboard(start: Callable[..., Pty]) -> None:
    terminal = start(keyboard=False, idle_limit=0.01)
    code, printed = terminal.end()
    check(printed, "back\r\n")
    assert code == 0


def test_keys_that_were_typed_are_not_left_to_the_shell(start: Callable[..., Pty]) -> None:
    terminal = start()
    terminal.read_until(SENTINEL)
    terminal.press(b"q" + b"rm -rf /" * 50 + b"\n")
    _, printed = terminal.end()
    check(printed, "back\r\n")
