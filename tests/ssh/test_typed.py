"""What is typed at terminals: real ones, and ones that cut and delay as they please."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.typed import MAX_PENDING, Typed

PATIENCE = 20  # seconds until a program that says nothing has failed
SECRET = b"ZQ~XJ%^@"  # none of its characters is in anything else here


def printable(data: bytes) -> bytes:
    return bytes(octet for octet in data if octet >= 0x20 and octet != 0x7F)


def within(part: bytes, whole: bytes) -> bool:
    """Whether *part* is a subsequence of *whole*."""
    left = iter(whole)
    return all(octet in left for octet in part)


class Session:
    """What a transcript gets to see."""

    def __init__(self) -> None:
        self.watch = Typed()
        self.typed = self.shown = self.kept = b""

    def type(self, data: bytes) -> None:
        self.typed += data
        self.kept += self.watch.typed(data)

    def show(self, data: bytes) -> None:
        self.shown += data
        self.kept += self.watch.shown(data)

    def check(self) -> None:
        """What holds whatever was said."""
        assert within(self.kept, self.typed)
        assert within(printable(self.kept), self.shown)


def session(*turns: str | bytes) -> bytes:
    """What is kept of keys (``str``) and output (``bytes``)."""
    here = Session()
    for turn in turns:
        if isinstance(turn, str):
            here.type(turn.encode())
        else:
            here.show(turn)
    here.check()
    return here.kept


DIALOGUES: dict[str, tuple[list[str | bytes], bytes]] = {
    "a key and its echo": (["l", b"l", "s", b"s", "\r", b"\r\n"], b"ls\r"),
    "a whole line": (["ls\r", b"ls\r\nfile\r\n$ "], b"ls\r"),
    "an echo in parts": (["ls\r", b"l", b"s", b"\r", b"\n"], b"ls\r"),
    "an echo behind more keys": (["l", "s", b"l", " ", b"s", b" ", "\r"], b"ls \r"),
    "lines typed ahead, and echoed": (["a\rb\r", b"a\r\nb\r\n"], b"a\rb\r"),
    "their echo in parts": (["a\rb\r", b"a\r", b"\nb", b"\r\n"], b"a\rb\r"),
    "output between the lines": (["a\rb\r", b"a\r\n1\r\n", b"b\r\n"], b"a\r"),
    "an echo and escapes": (["l", b"l\x1b[K", "s", b"s\x1b[K"], b"ls"),
    "an echo in the middle of a line": (["x", b"xyz\b\b"], b""),
    "no echo": (["secret\r", b"\r\n"], b""),
    "no echo, key by key": ([*"secret\r", b"\r\n$ ", "l", b"l"], b"l"),
    "no echo, and no end of line": (["root\r", b"root@host:~# "], b""),
    "the beginning of it is shown by chance": (["roxy\r", b"root@host:~# "], b""),
    "by chance, and in parts": (["roxy\r", b"r", b"o", b"ot@host:~# "], b""),
    "stars": (["a", b"*", "b", b"*", "\r", b"\r\n"], b"\r"),
    "no echo behind an echo": (["read -s p\rsecret\r", b"read -s p\r\n", b"$ "], b"read -s p\r"),
    "keys that never show": (["\x03", "\r", b"^C\r\n$ ", "\t", "\x7f"], b"\x03\r\t\x7f"),
    "keys behind others that wait": (["a", "\x7f", "b", b"a\b \bb"], b"a\x7f"),
    "arrows": (["\x1b[A", b"ls", "\x1bOB", b"\x07", "\r"], b"\r"),
    "a paste between brackets": (["\x1b[200~secret\x1b[201~", b"\r\n", "l", b"l"], b"l"),
    "text before an escape": (["ab\x1b[D", b"ab\b"], b"ab"),
    "nothing": (["", b"", "a", b"", b"a"], b"a"),
    "beyond ASCII": (["é", b"\xc3", b"\xa9", "漢", "漢".encode()], "é漢".encode()),
    "output that nobody asked for": ([b"a", "a", b"a"], b"a"),
}


@pytest.mark.parametrize("case", DIALOGUES)
def test_dialogues(case: str) -> None:
    turns, kept = DIALOGUES[case]
    assert session(*turns) == kept


def test_nothing_is_gathered_without_end() -> None:
    here = Session()
    for _ in range(100):
        here.type(b"x" * 1000)
    here.show(b"x" * 100_000)
    assert here.kept == b""  # too much came back: some of it is no echo
    for _ in range(100):
        here.type(b"x" * 1000)
    for _ in range(MAX_PENDING):
        here.show(b"x")
    assert here.kept == b"x" * MAX_PENDING


KEYS = st.binary(max_size=6) | st.text("ab\r\n\t\x1b[é").map(str.encode)
TURNS = st.lists(st.tuples(st.booleans(), KEYS), max_size=20)


@given(TURNS)
def test_what_is_kept_was_typed_and_shown(turns: list[tuple[bool, bytes]]) -> None:
    here = Session()
    for typing, data in turns:
        (here.type if typing else here.show)(data)
        here.check()


@given(
    st.text("ab é\r", max_size=30).map(str.encode),
    st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=40),
)
def test_all_is_kept_that_a_plain_terminal_echoes(
    keys: bytes, pace: list[tuple[bool, int]]
) -> None:
    """In whatever pieces, and however late."""
    here, echo = Session(), b""
    for typing, size in [*pace, (True, len(keys)), (False, 2 * len(keys))]:
        if typing:
            chunk, keys = keys[:size], keys[size:]
            here.type(chunk)
            echo += chunk.replace(b"\r", b"\r\n")
        else:
            here.show(echo[:size])
            echo = echo[size:]
    assert here.kept == here.typed


LINES = st.lists(
    st.text("abc ", max_size=4) | st.text("0123", min_size=1, max_size=4), max_size=6
)  # digits are secrets


@given(LINES, st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60), st.data())
def test_nothing_is_kept_of_what_is_not_echoed(
    lines: list[str], pace: list[tuple[bool, int]], data: st.DataObject
) -> None:
    """Prompts and answers come in between, as late as they like."""
    here, keys, output = Session(), "".join(line + "\r" for line in lines), ""
    for typing, size in pace:
        if typing:
            chunk, keys = keys[:size], keys[size:]
            here.type(chunk.encode())
            output += "".join(key for key in chunk if not key.isdigit()).replace("\r", "\r\n")
            output += data.draw(st.sampled_from(["", "a", "b\r\n", "abc> ", "\x1b[K"]))
        else:
            here.show(output[:size].encode())
            output = output[size:]
    assert not set(here.kept) & set(b"0123")
    here.check()


# -- real terminals ------------------------------------------------------------------------


class Terminal(Session):
    """A program on a terminal of its own."""

    def __init__(self, master: int, at_once: int) -> None:
        super().__init__()
        self._master = master
        self._at_once = at_once
        self._read = 0  # how much of what is shown was expected

    def press(self, keys: bytes, whole: bool = True) -> None:
        for key in [keys] if whole else [keys[i : i + 1] for i in range(len(keys))]:
            self.type(key)
            os.write(self._master, key)
            if not whole:
                self._look(0.002)  # an echo may come between, or later

    def echoed(self, keys: bytes) -> None:
        """Press one key after the other, as one who reads what comes."""
        for key in keys:
            before = len(self.shown)
            self.press(bytes((key,)))
            self._until(lambda before=before: len(self.shown) > before)

    def expect(self, words: bytes) -> None:
        """Look until *words* come, behind those that were expected last."""
        self._until(lambda: words in self.shown[self._read :])
        self._read = self.shown.index(words, self._read) + len(words)

    def hides(self) -> None:
        """Wait until the terminal takes lines, and does not echo them."""
        self._until(lambda: self._modes() & (termios.ICANON | termios.ECHO) == termios.ICANON)

    def _modes(self) -> int:
        modes: int = termios.tcgetattr(self._master)[3]
        return modes

    def _until(self, condition) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.shown
            self._look(0.01)

    def _look(self, patience: float) -> None:
        if select.select([self._master], [], [], patience)[0]:
            self.show(os.read(self._master, self._at_once))


@contextmanager
def terminal(*command: str, at_once: int = 65536, term: str = "xterm") -> Iterator[Terminal]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"PATH": os.environ["PATH"], "TERM": term, "PS1": "$ ", "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield (here := Terminal(master, at_once))
        here.check()
    finally:
        os.close(master)  # which hangs up
        try:
            program.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            raise


BASH = ("bash", "--norc", "--noprofile", "-i")
PROGRAMS: dict[str, tuple[str, ...]] = {
    "bash": ("bash", "-c", "read -r -s -p 'Password: ' p; echo; echo done"),
    "stty": ("sh", "-c", "stty -echo; printf 'Password: '; read -r p; stty echo; echo; echo done"),
    "getpass": ("python3", "-ISc", "import getpass; getpass.getpass(); print('done')"),
    "ssh-keygen": ("sh", "-c", "ssh-keygen -q -t ed25519 -f /dev/null/x; echo done"),
}
"""Programs that ask for a password once, or twice."""


@pytest.mark.parametrize("at_once", [1, 65536])
@pytest.mark.parametrize("whole", [True, False], ids=["pasted", "typed"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_passwords(program: str, whole: bool, at_once: int) -> None:
    with terminal(*PROGRAMS[program], at_once=at_once) as here:
        here.hides()
        here.press(SECRET + b"\r", whole)
        if program == "ssh-keygen":
            here.expect(b"again")
            here.hides()
            here.press(SECRET + b"\r", whole)
        here.expect(b"done")
        assert not set(here.kept) & set(SECRET)


@pytest.mark.parametrize("at_once", [1, 65536])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("whole", [True, False], ids=["pasted", "typed"])
def test_a_password_in_the_middle_of_a_shell(whole: bool, term: str, at_once: int) -> None:
    with terminal(*BASH, at_once=at_once, term=term) as here:
        here.expect(b"$ ")
        here.echoed(b"read -r -s p")
        here.press(b"\r")
        here.hides()
        here.press(SECRET + b"\r", whole)
        here.expect(b"$ ")
        here.echoed(b"echo ${p:0:0}on")
        here.press(b"\r")
        here.expect(b"on\r\n")
        assert here.kept.replace(b"\n", b"") in (
            b"read -r -s p\recho ${p:0:0}on\r",
            b"read -r -s p\r\recho ${p:0:0}on\r",
        )


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_password_that_is_typed_before_anybody_asks(term: str) -> None:
    with terminal(*BASH, term=term) as here:
        here.expect(b"$ ")
        here.press(b"read -r -s p\n" + SECRET + b"\n")
        here.expect(b"$ ")
        here.press(b"echo ${#p} done\r")
        here.expect(b"8 done")
        assert not set(here.kept) & set(SECRET)


def test_a_password_that_begins_like_the_prompt() -> None:
    with terminal(*BASH, term="dumb") as here:
        here.expect(b"$ ")
        here.press(b"PS1=root@host; read -r -s p\r")
        here.expect(b"-s p\r\n")
        here.hides()
        kept = here.kept
        here.press(b"root\r")
        here.expect(b"root@host")
        assert here.kept == kept


def test_editing_a_line() -> None:
    with terminal(*BASH) as here:
        here.expect(b"$ ")
        here.echoed(b"echp\x7fo one\x17two\x01\x05")
        here.press(b"\r")
        here.expect(b"two\r\n")
        assert here.kept == b"echp\x7fo one\x17two\x01\x05\r"


def test_editing_in_the_middle_of_a_line_and_searching() -> None:
    with terminal(*BASH) as here:
        here.expect(b"$ ")
        here.echoed(b"echo ac\x02b")
        here.press(b"\r")
        here.expect(b"abc\r\n")
        assert here.kept == b"echo ac\x02\r"  # what moves the rest of the line is not kept
        here.expect(b"$ ")
        here.echoed(b"\x12ab")
        here.press(b"\x1b[C\r")
        here.expect(b"abc\r\n")
        here.expect(b"$ ")


def test_a_full_screen(tmp_path: Path) -> None:
    file = tmp_path / "file"
    secret = f":call inputsecret('key> ')\r{SECRET.decode()}\r"
    with terminal("vim", "-u", "NONE", "-i", "NONE", "-n", str(file)) as here:
        here.expect(b"~")
        here.press(b"ihello", whole=False)
        here.press(b"\x1b")
        here.press(secret.encode(), whole=False)
        here.press(b":w\r:!echo saved\r", whole=False)
        here.expect(b"saved")
        here.press(b"\r:q!\r")
        assert not set(here.kept) & set(SECRET)
    assert file.read_text() == "hello\n"
