"""Casts: judged by asciinema's own parser, and by what no player could be asked."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.show.cast import MAX_SIDE, NoTerminal, to_cast

PLAYER = "asciinema-player@3.18.0"
MODULES = Path(os.environ.get("GATEWAY_NODE_MODULES") or Path(__file__).parents[1] / "node_modules")
MISSING = (
    f"this test asks asciinema's own parser: npm install --prefix tests {PLAYER}, "
    "or name a node_modules directory that has it in GATEWAY_NODE_MODULES"
)

# The player resolves the name of its parser when it is made; no page is needed for that.
ASK = """
import { readdirSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const dist = process.argv[1] + "/asciinema-player/dist/";
const file = readdirSync(dist).find((name) => /^core-.*[.]js$/.test(name));
const { C: Core } = await import(pathToFileURL(dist + file));
const text = readFileSync(0, "utf8");
const source = { data: text, parser: "asciicast" };
new Core(source, { logger: console });
const recording = await source.parser(new Response(text));
const { cols, rows, events } = recording;
console.log(JSON.stringify({ cols, rows, events: Array.from(events) }));
"""

START = {
    "at": 0.0, "kind": "start", "user": "alice", "resource": "web", "account": "deploy",
    "target": "10.0.0.21:22", "source": "10.0.0.1", "protocol": "ssh",
    "started": "2026-11-18T00:00:00Z",
}  # fmt: skip
PTY = {"term": "xterm-256color", "columns": 100, "rows": 30}
SHELL = {"at": 0.5, "kind": "channel", "channel": 0, "type": "shell", "pty": PTY}
PLAIN = {"at": 0.5, "kind": "channel", "channel": 1, "type": "exec", "pty": None}
AWKWARD = "aé漢😀z"

Event = dict[str, Any]


def output(at: float, data: str | bytes, channel: int = 0, stream: str = "stdout") -> Event:
    return {
        "at": at, "kind": "output", "channel": channel, "stream": stream, "data": form(data),
    }  # fmt: skip


def typed(at: float, data: str | bytes) -> Event:
    return {"at": at, "kind": "input", "channel": 0, "data": form(data)}


def resize(at: float, columns: int, rows: int) -> Event:
    return {"at": at, "kind": "resize", "channel": 0, "columns": columns, "rows": rows}


def done(at: float, status: int | None, channel: int = 0) -> Event:
    return {
        "at": at, "kind": "exec", "channel": channel, "command": None, "exit_status": status,
    }  # fmt: skip


def form(data: str | bytes) -> str | dict[str, str]:
    """As transcripts have it: text, or base64 where it is none."""
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def cast(events: Iterable[Event], channel: int | None = None) -> str:
    out = io.StringIO()
    to_cast(events, out, channel)
    return out.getvalue()


def frames(events: Iterable[Event], channel: int | None = None) -> list[list[Any]]:
    return [json.loads(line) for line in cast(events, channel).splitlines()[1:]]


def joined(events: Iterable[Event], code: str = "o", channel: int | None = None) -> str:
    return "".join(data for _, found, data in frames(events, channel) if found == code)


def ask_asciinema(text: str) -> Any:
    if not (MODULES / "asciinema-player").is_dir() or shutil.which("node") is None:
        pytest.fail(MISSING)
    answer = subprocess.run(
        ["node", "--input-type=module", "--eval", ASK, str(MODULES)],
        input=text.encode(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr.decode()
    return json.loads(answer.stdout)


def test_a_shell() -> None:
    events = [
        START,
        SHELL,
        output(0.75, "$ "),
        typed(2.0, "ls\r"),
        output(2.000001, "\x1b[31mred\x1b[m\r\n"),
        resize(3.5, 80, 24),
        done(4.0, 3),
        {"at": 4.1, "kind": "end", "reason": "closed"},
    ]
    text = cast(events)
    assert text.splitlines() == [
        '{"version": 3, "term": {"cols": 100, "rows": 30, "type": "xterm-256color"}, '
        '"timestamp": 1794960000, "title": "alice on web as deploy"}',
        '[0.250000, "o", "$ "]',
        '[1.250000, "i", "ls\\r"]',
        '[0.000001, "o", "\\u001b[31mred\\u001b[m\\r\\n"]',
        '[1.499999, "r", "80x24"]',
        '[0.500000, "x", "3"]',
    ]
    assert ask_asciinema(text) == {
        "cols": 100,
        "rows": 30,
        "events": [
            [250, "o", "$ "],
            [1500, "i", "ls\r"],
            [1500.001, "o", "\x1b[31mred\x1b[m\r\n"],
            [3000, "r", "80x24"],
            [3500, "x", "3"],
        ],
    }


def test_asciinema_reads_what_is_awkward() -> None:
    split = [output(0.5, bytes([byte])) for byte in AWKWARD.encode()]
    text = cast([START, SHELL, *split, output(1.0, b'\xff\x00[\n#"\\'), output(1.5, "\u2028\n")])
    events = ask_asciinema(text)["events"]
    assert "".join(event[2] for event in events) == AWKWARD + '\ufffd\x00[\n#"\\\u2028\n'
    assert [event[0] for event in events] == sorted(event[0] for event in events)


@pytest.mark.parametrize("cut", range(len(AWKWARD.encode()) + 1))
def test_a_character_in_two_events_is_one(cut: int) -> None:
    data = AWKWARD.encode()
    events = [START, SHELL, output(1, data[:cut]), output(2, data[cut:] + b"tail")]
    assert joined(events) == AWKWARD + "tail"


def test_streams_are_not_mixed_up() -> None:
    euro, pound = "€".encode(), "£".encode()
    events = [
        START, PLAIN,
        output(1, euro[:1], 1), output(1, pound[:1], 1, "stderr"),
        output(1, euro[1:], 1), output(1, pound[1:], 1, "stderr"),
    ]  # fmt: skip
    assert joined(events, channel=1) == "€£"
    events = [START, SHELL, output(1, euro[:1]), typed(1, pound[:1]), output(1, euro[1:])]
    assert joined(events) == "€"
    assert joined(events, "i") == "\ufffd"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", "\ufffd"),
        (b"a\xe2\x82", "a\ufffd"),  # the rest never came
        (b"\xc0\xaf\xed\xa0\x80", "\ufffd" * 5),  # overlong, a surrogate
        ("\ud800", "\ufffd" * 3),
        ("\ufeffa", "\ufeffa"),
    ],
)
def test_what_is_no_text_is_replaced(data: str | bytes, text: str) -> None:
    assert joined([START, SHELL, output(1, data)]) == text


def test_the_first_terminal_is_shown() -> None:
    second = SHELL | {"channel": 2, "pty": PTY | {"columns": 7}}
    said = [output(1, "one", 1), output(2, "nought", 0), output(3, "two", 2)]
    events = [START, PLAIN, SHELL, second, *said]
    assert frames(events) == [[1.5, "o", "nought"]]
    assert frames(events, 1) == [[0.5, "o", "one"]]
    assert json.loads(cast(events, 2).splitlines()[0])["term"]["cols"] == 7


@pytest.mark.parametrize("channel", [None, 2])
def test_there_may_be_none(channel: int | None) -> None:
    out = io.StringIO()
    with pytest.raises(NoTerminal):
        to_cast([START, PLAIN, output(1, "one", 1)], out, channel)
    assert out.getvalue() == ""


def test_a_cast_begins_with_its_channel() -> None:
    header, first = cast([START, SHELL | {"at": 60.0}, output(61.0, "$ ")]).splitlines()
    assert json.loads(header)["timestamp"] == 1794960060
    assert first == '[1.000000, "o", "$ "]'


@pytest.mark.parametrize("started", [None, "yesterday", 5])
def test_a_start_that_is_not_known_is_left_out(started: Any) -> None:
    text = cast([START | {"started": started}, SHELL])
    assert "timestamp" not in json.loads(text)


def test_plain_output_gets_its_carriage_returns() -> None:
    assert joined([START, PLAIN, output(1, "a\nb\n", 1)], channel=1) == "a\r\nb\r\n"
    assert joined([START, SHELL, output(1, "a\nb\n")]) == "a\nb\n"


def test_sizes_that_are_none() -> None:
    nothing = SHELL | {"pty": PTY | {"columns": 0, "rows": 1 << 31, "term": {"base64": "/w=="}}}
    sizes = [(0, 0), (0, 5), (0, 5), (70, 0), (1 << 31, 5), (MAX_SIDE, 5)]
    events = [resize(1, columns, rows) for columns, rows in sizes]
    text = cast([START, nothing, *events])
    assert json.loads(text.splitlines()[0])["term"] == {"cols": 80, "rows": MAX_SIDE}
    assert [data for _, _, data in frames([START, nothing, *events])] == [
        "80x5",
        "70x5",
        f"{MAX_SIDE}x5",
    ]


def test_the_exit_status_comes_last() -> None:
    events = [START, SHELL, done(1.0, 0), output(2.0, b"bye\xc3"), done(2.5, 1, channel=9)]
    assert frames(events) == [[1.5, "o", "bye"], [0.0, "o", "\ufffd"], [0.0, "x", "0"]]


@pytest.mark.parametrize("status", [None, 1 << 31, -1])
def test_a_status_that_asciinema_cannot_hold_is_left_out(status: int | None) -> None:
    assert frames([START, SHELL, done(1.0, status)]) == []


def test_events_are_not_hoarded() -> None:
    out = io.StringIO()

    def events() -> Iterator[Event]:
        yield START
        yield SHELL
        for number in range(100):
            yield output(1.0, f"<{number}>")
            assert f"<{number}>" in out.getvalue()

    to_cast(events(), out)
    assert "<99>" in out.getvalue()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.binary(max_size=6)), max_size=20))
def test_time_does_not_run_back_nor_drift(said: list[tuple[float, bytes]]) -> None:
    text = cast([START, SHELL, *(output(at, data) for at, data in said)])
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    intervals = [line[1 : line.index(",")] for line in text.splitlines()[1:]]
    assert not [interval for interval in intervals if interval.startswith("-")]
    heard = b"".join(data for _, data in said).decode(errors="replace")
    assert joined([START, SHELL, *(output(at, data) for at, data in said)]) == heard
    last = max((at for at, data in said), default=0.5)
    if heard and said[-1][1]:  # so the last one is told, be it at the very end
        assert sum(map(float, intervals)) == pytest.approx(max(last, 0.5) - 0.5, abs=2e-6)
