"""Tells keys that a terminal echoes from those that it hides: passwords. Sans-IO.

The gateway does not know the terminal modes of the target, but it sees what the terminal
shows. Text that was typed counts as echoed if it is what the terminal shows next, all of
it, and nothing printable behind it; everything else is dropped: a password, an editor's
commands, text pasted between brackets. So whatever is kept was also on the screen.
"""

from __future__ import annotations

import re

MAX_PENDING = 4096  # bytes typed ahead of their echo, which is what a terminal's line holds

_ESCAPE = b"\x1b"  # what follows is for a program: arrows, function keys, pastes
_ENTER = (b"\r", b"\n")
_SEGMENT = re.compile(rb"([\x00-\x1f\x7f]*)([^\x00-\x1f\x7f]*)")  # control keys, then text
_PRINTABLE = re.compile(rb"[^\x00-\x1f\x7f]")


class Typed:
    """Feed :meth:`typed` and :meth:`shown` in the order of the session."""

    def __init__(self) -> None:
        self._keys = b""  # typed, and not shown yet
        self._screen = b""  # the part of them that is shown already
        self._entered = False  # the last key ended a line, and nothing was shown since

    def typed(self, data: bytes) -> bytes:
        """Keys came; returns what may be recorded at once: keys that never show."""
        data = data.partition(_ESCAPE)[0]
        if not self._keys and _PRINTABLE.search(data) is None:
            self._entered = data.endswith(_ENTER) if data else self._entered
            return data
        self._keys = (self._keys + data)[:MAX_PENDING]
        return b""

    def shown(self, output: bytes) -> bytes:
        """The terminal shows *output*; returns the keys that it answers."""
        if self._entered:
            output = output.lstrip(b"\r\n")
        if not output:
            return b""
        self._entered = False
        keys, screen = self._keys, self._screen + output
        self._keys = self._screen = b""
        end = 0
        for segment in _SEGMENT.finditer(keys):
            control, text = segment.groups()
            if b"\r" in control or b"\n" in control:
                screen = screen.lstrip(b"\r\n")
            if text != screen[: len(text)]:
                if text.startswith(screen):  # the rest is under way
                    self._keys, self._screen = keys[end:], screen
                    return keys[:end]
                return keys[: segment.end(1)]
            screen = screen[len(text) :]
            if text and _PRINTABLE.match(screen):
                return keys[: segment.end(1)]
            end = segment.end()
        self._entered = keys.endswith(_ENTER) and not screen
        return keys
