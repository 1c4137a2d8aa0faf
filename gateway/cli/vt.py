"""What of a recorded terminal's output another terminal may be given. Sans-IO.

What was recorded is hostile: it may try to answer in the administrator's name (a terminal
types its reports into whatever reads it), to write the clipboard, to print, to lock the
keyboard, to wipe what was on screen before. So nothing is passed on as it came: what is
known to draw is written anew, all else is dropped.
"""

from __future__ import annotations

import re
from enum import Enum
from unicodedata import category

MAX_SEQUENCE = 128  # characters between CSI and its final: two 24-bit colours and attributes
MAX_STRING = 1 << 20  # characters: an inline picture; beyond, its end is lost, not to come
MAX_NUMBER = 9999  # cells: what terminals themselves clamp to or less

RESET = "\x1b[r\x1b[?6l\x1b[?7h\x1b[4l\x1b[m\x1b[?25h"  # all that the filter lets be changed


class _State(Enum):
    GROUND = 1
    ESCAPE = 2
    CSI = 3
    STRING = 4  # OSC, DCS, SOS, PM, APC: never passed on


_PLAIN = re.compile("[^\x00-\x1f\x7f-\x9f]+")
_ENDED = re.compile("[\x07\x18\x1a\x1b\x80-\x9f]")  # what ends a string
_SHOWN = {"\b": "\b", "\t": "\t", "\n": "\n", "\v": "\n", "\f": "\n", "\r": "\r"}
_JOINERS = "\u200c\u200d"  # the invisible ones that scripts and emoji need

# Most parameters that each final takes. Missing on purpose: device queries (c n x), window
# operations (t), the printer (i), tab stops (g), cursor shapes (q); T with more than one
# parameter tracks the mouse, s with any sets margins.
_DRAWS = dict.fromkeys("@ABCDEFGILMPSTXZ`abde", 1) | dict.fromkeys("Hfr", 2) | {"s": 0, "u": 0}
_ERASED = ("", "0", "1", "2")  # J and K; 3 would wipe the administrator's scrollback
_MODES = ("6", "7", "25")  # private: origin, wrap, cursor shown
_SWITCHES = {  # we are in the alternate screen already, so theirs is made of ours
    ("47", "h"): "\x1b[m\x1b[2J",
    ("47", "l"): "\x1b[m\x1b[2J",
    ("1047", "h"): "\x1b[m\x1b[2J",
    ("1047", "l"): "\x1b[m\x1b[2J",
    ("1048", "h"): "\x1b7",
    ("1048", "l"): "\x1b8",
    ("1049", "h"): "\x1b7\x1b[m\x1b[2J",
    ("1049", "l"): "\x1b[m\x1b[2J\x1b8",
}
# DEC Special Graphics as ncurses draws boxes with it, in Unicode: no charset is switched.
_LINES = str.maketrans(
    "_`abcdefghijklmnopqrstuvwxyz{|}~",
    "\u00a0◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·",
)


class Filter:
    """What a terminal may be given of a recording: text, colours, movement, erasure.

    A parser after ECMA-48 and the VT500's; the rest of a sequence that one text ends in may
    begin the next. Its output holds no character that is unsafe, and no sequence that makes
    a terminal answer or stays in force after :data:`RESET`.
    """

    def __init__(self) -> None:
        self._state = _State.GROUND
        self._collected = ""  # of the sequence that is being read
        self._length = 0  # of the string that is being dropped
        self._graphic = [False, False]  # G0 and G1: is it the line-drawing set?
        self._shift = 0  # which of the two is in use

    def feed(self, text: str) -> str:
        out: list[str] = []
        pos = 0
        while pos < len(text):
            pos, shown = self._next(text, pos)
            out.append(shown)
        return "".join(out)

    def _next(self, text: str, pos: int) -> tuple[int, str]:
        """The position behind what was read, and what to show of it."""
        if self._state is _State.STRING:
            pos = self._dropped(text, pos)
            return (pos + 1, self._control(text[pos])) if pos < len(text) else (pos, "")
        if self._state is _State.GROUND and (run := _PLAIN.match(text, pos)):
            return run.end(), self._printed(run.group())
        return pos + 1, self._control(text[pos])

    def _dropped(self, text: str, pos: int) -> int:
        ended = _ENDED.search(text, pos)
        end = ended.start() if ended else len(text)
        room = MAX_STRING - self._length
        self._length += end - pos
        if end - pos < room:
            return end
        self._state = _State.GROUND
        return pos + room

    def _printed(self, text: str) -> str:
        if self._graphic[self._shift]:
            text = text.translate(_LINES)
        return text if text.isprintable() else "".join(filter(_visible, text))

    def _control(self, char: str) -> str:
        """Any character that is not plain text on the ground."""
        if "\x80" <= char <= "\x9f":  # the 8-bit form of ESC and a letter
            self._begin(_State.ESCAPE)
            char = chr(ord(char) - 0x40)
        elif char < " " or char == "\x7f":
            return self._c0(char)
        elif char > "\x7f":  # in the middle of a sequence: it was none
            self._begin(_State.GROUND)
        if self._state is _State.ESCAPE:
            return self._escape(char)
        return self._csi(char) if self._state is _State.CSI else self._printed(char)

    def _begin(self, state: _State) -> None:
        self._state, self._collected, self._length = state, "", 0

    def _c0(self, char: str) -> str:
        """Control characters act inside of sequences too, some by ending them."""
        if char == "\x1b":
            self._begin(_State.ESCAPE)
        elif char in "\x18\x1a" or self._state is _State.STRING:  # CAN, SUB; BEL ends strings
            self._begin(_State.GROUND)
        elif char in "\x0e\x0f":  # SO, SI
            self._shift = int(char == "\x0e")
        return _SHOWN.get(char, "")

    def _escape(self, char: str) -> str:
        if char < "0":  # intermediate: of real sequences there is one, and we keep one more
            self._collected = (self._collected + char)[:2]
            return ""
        if not self._collected and char in "[]PX^_k":  # k: a title, as screen and tmux have it
            self._begin(_State.CSI if char == "[" else _State.STRING)
            return ""
        sequence = self._collected + char
        self._begin(_State.GROUND)
        if sequence[:-1] in ("(", ")"):
            self._graphic[sequence[0] == ")"] = char == "0"
        elif sequence == "c":  # RIS would leave the alternate screen
            self._graphic, self._shift = [False, False], 0
            return RESET + "\x1b[H\x1b[2J"
        return f"\x1b{sequence}" if sequence in ("7", "8", "D", "E", "M") else ""

    def _csi(self, char: str) -> str:
        if char < "@":
            if len(self._collected) <= MAX_SEQUENCE:
                self._collected += char
            return ""
        body = self._collected
        self._begin(_State.GROUND)
        return _sequence(body, char) if len(body) <= MAX_SEQUENCE else ""


def _visible(char: str) -> bool:
    """Not what reorders text, breaks lines, hides, or has no encoding."""
    return category(char) not in ("Cf", "Cs", "Zl", "Zp") or char in _JOINERS


def _sequence(body: str, final: str) -> str:
    """A control sequence written anew, or nothing if it does more than draw."""
    if final in "hl" and (body == "4" or body[:1] == "?"):
        return _modes(body, final)
    if final == "m" and re.fullmatch("[0-9;:]*", body):
        return f"\x1b[{_clamped(body)}m"
    if final in "JK":
        return f"\x1b[{body}{final}" if body in _ERASED else ""
    if final not in _DRAWS or not re.fullmatch("[0-9;]*", body):
        return ""
    parameters = body.count(";") + 1 if body else 0
    return f"\x1b[{_clamped(body)}{final}" if parameters <= _DRAWS[final] else ""


def _modes(body: str, final: str) -> str:
    if body == "4":  # insert or replace
        return f"\x1b[4{final}"
    return "".join(
        f"\x1b[?{mode}{final}" if mode in _MODES else _SWITCHES.get((mode, final), "")
        for mode in body[1:].split(";")
    )


def _clamped(parameters: str) -> str:
    return re.sub("[0-9]+", lambda number: str(min(int(number[0]), MAX_NUMBER)), parameters)
