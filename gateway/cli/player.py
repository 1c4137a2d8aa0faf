"""Plays a recorded terminal in the administrator's own, which stays unharmed.

:func:`play` keeps time, with clock and keys passed in; :func:`replay` knows real terminals.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, TextIO

from gateway.cli.vt import RESET, Filter
from gateway.show.cast import Event, Frame, shown

Clock = Callable[[], float]
Wait = Callable[[float | None], str]
"""Waits some seconds (None: for ever), less if keys are pressed; returns what they typed.

Where no keys can come it must answer ``q`` to waiting for ever.
"""

MAX_SPEED, MIN_SPEED = 64.0, 1 / 64  # faster is nothing to see, slower is a pause
SKIP = 5.0  # seconds
HOLD = 2.0  # seconds that the last picture stays: to be seen, and no script waits for a key
TICK = 0.001  # seconds: what is due within one is due
NAP = 3600.0  # seconds: longest single wait (select refuses what overflows its timeval)

ENTER = "\x1b[?1049h" + RESET + "\x1b[H\x1b[2J"
LEAVE = RESET + "\x1b[?1049l"


def play(
    events: Iterable[Event],
    terminal: TextIO,
    *,
    clock: Clock,
    wait: Wait,
    speed: float = 1.0,
    idle_limit: float | None = None,
    channel: int | None = None,
) -> None:
    """Play one channel of a session, in the alternate screen.

    Keys: space pauses, ``q`` quits, ``+`` and ``-`` change the speed, → skips 5 seconds.
    The terminal is left as it was, whatever is raised meanwhile.

    :param speed: recorded seconds a second, more than 0
    :param idle_limit: recorded seconds without output that are waited for at most
    :raises NoTerminal: there is no such channel; the terminal was not touched
    """
    _, frames = shown(events, channel)
    pace = _Pace(clock, wait, speed)
    screen = Filter()
    try:
        _put(terminal, ENTER)
        for due, text in _timed(frames, idle_limit):
            if not pace.until(due):
                return
            _put(terminal, screen.feed(text))
        pace.hold(HOLD)
    finally:
        _put(terminal, LEAVE)


def _timed(frames: Iterable[Frame], idle_limit: float | None) -> Iterator[tuple[float, str]]:
    """Output, and the recorded seconds at which it is due, counted from the first."""
    due, last = 0.0, None
    for frame in frames:
        if frame.code == "o":
            idle = frame.at - (frame.at if last is None else last)
            due += idle if idle_limit is None else min(idle, idle_limit)
            last = frame.at
            yield due, frame.data


def _put(terminal: TextIO, text: str) -> None:
    terminal.write(text)
    terminal.flush()


_KEYS = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_BEGUN = re.compile(r"\x1b(?:[\[O][0-9;]{0,8})?\Z")  # a key that was read in halves


class _Pace:
    """Where in the recording we are, which keys and time decide."""

    def __init__(self, clock: Clock, wait: Wait, speed: float) -> None:
        self._clock = clock
        self._wait = wait
        self._speed = speed
        self._paused = False
        self._position = 0.0  # recorded seconds
        self._seen = clock()
        self._typed = ""

    def hold(self, seconds: float) -> None:
        """Stay, so many seconds of the person's, unless they quit."""
        self.until(self._position + seconds * self._speed)

    def until(self, due: float) -> bool:
        """Wait until *due* is reached; False if the person had enough."""
        while True:
            left = max(0.0, due - self._position)
            typed = self._wait(None if self._paused and left > TICK else left / self._speed)
            self._advance()
            if not all(map(self._obey, self._keys(typed))):
                return False
            if due - self._position <= TICK:
                return True

    def _advance(self) -> None:
        now = self._clock()
        if not self._paused:
            self._position += (now - self._seen) * self._speed
        self._seen = now

    def _keys(self, typed: str) -> list[str]:
        typed = self._typed + typed
        begun = _BEGUN.search(typed)
        self._typed = begun.group() if begun else ""
        return _KEYS.findall(typed[: begun.start()] if begun else typed)

    def _obey(self, key: str) -> bool:
        if key == " ":
            self._paused = not self._paused
        elif key in ("+", "="):
            self._speed = min(self._speed * 2, MAX_SPEED)
        elif key in ("-", "_"):
            self._speed = max(self._speed / 2, MIN_SPEED)
        elif key in ("\x1b[C", "\x1bOC"):
            self._position += SKIP
        return key not in ("q", "Q")


def replay(
    events: Iterable[Event],
    stdin: TextIO,
    stdout: TextIO,
    *,
    speed: float = 1.0,
    idle_limit: float | None = None,
    channel: int | None = None,
) -> None:
    """:func:`play` on a real terminal; what is none gets all the output at once.

    Ctrl-C ends it as ``q`` does. To be called in the main thread.

    :raises NoTerminal: there is no such channel
    """
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="replace")  # not every terminal speaks UTF-8
    if not stdout.isatty():
        _pour(events, stdout, channel)
        return
    wait = _keyboard(stdin.fileno()) if stdin.isatty() else _nobody
    with suppress(KeyboardInterrupt), _first_signal(), _undisturbed(stdout.fileno()):
        play(
            events,
            stdout,
            clock=time.monotonic,
            wait=wait,
            speed=speed,
            idle_limit=idle_limit,
            channel=channel,
        )


def _pour(events: Iterable[Event], out: TextIO, channel: int | None) -> None:
    _, frames = shown(events, channel)
    screen, coloured = Filter(), False
    for frame in frames:
        if frame.code == "o":
            text = screen.feed(frame.data)
            coloured = coloured or "\x1b" in text
            out.write(text)
    if coloured:  # it may be shown by a terminal one day
        out.write(RESET)
    out.flush()


def _keyboard(fd: int) -> Wait:
    def wait(seconds: float | None) -> str:
        timeout = None if seconds is None else min(seconds, NAP)
        if not select.select([fd], [], [], timeout)[0]:
            return ""
        return os.read(fd, 64).decode("ascii", "replace") or "q"  # nobody is there any more

    return wait


def _nobody(seconds: float | None) -> str:
    if seconds is None:
        return "q"
    time.sleep(min(seconds, NAP))
    return ""


@contextmanager
def _first_signal() -> Iterator[None]:
    """The first signal that ends us does so as an exception; no second one cuts that short."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: FrameType | None) -> NoReturn:
        for other in ending:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed(fd: int) -> Iterator[None]:
    """Keys are not echoed and come one by one, output is not touched, nothing suspends us.

    Ctrl-C stays a signal, so that it works while the terminal does not take more output.
    """
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[1] &= ~termios.OPOST  # output flags
    changed[3] &= ~(termios.ECHO | termios.ICANON)  # local flags
    never = bytes([os.fpathconf(fd, "PC_VDISABLE") & 0xFF])
    changed[6][termios.VSUSP] = changed[6][termios.VQUIT] = never  # keys that send signals
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, changed)
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)
