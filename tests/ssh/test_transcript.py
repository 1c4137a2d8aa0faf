"""Sessions, as people read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.format import END, HEADER, INPUT, NOTE, OUTPUT, Record
from gateway.ssh.messages import Reader, string, uint32
from gateway.ssh.notes import ChannelNotes, Notes
from gateway.ssh.transcript import Events

MS = 1_000_000


def told(*script: tuple[int, bytes]) -> list[dict[str, Any]]:
    """The events of records that are one millisecond apart."""
    records = [Record(kind, i * MS, data) for i, (kind, data) in enumerate(script)]
    session = Events()
    found = [event for record in records for event in session.feed(record)]
    found += session.finish()
    json.dumps(found, allow_nan=False)
    return found


def note(kind: str, **facts: Any) -> tuple[int, bytes]:
    return NOTE, json.dumps({"kind": kind, **facts}).encode()


def command(channel: int, text: str) -> tuple[int, bytes]:
    return note("channel", channel=channel, type="exec", pty=None, environment={}, command=text)


def output(channel: int, data: bytes, stream: int = 0) -> tuple[int, bytes]:
    return OUTPUT, uint32(channel) + bytes((stream,)) + data


def closed(channel: int) -> tuple[int, bytes]:
    return note("closed", channel=channel, bytes_in=0, bytes_out=0, bytes_err=0)


def exited(channel: int, **facts: Any) -> tuple[int, bytes]:
    return note("exit", channel=channel, **facts)


BEGIN = (HEADER, b'{"format": 1, "user": "alice", "started": 0}')
STOP = (END, b'{"reason": "client closed"}')


def brief(event: dict[str, Any]) -> tuple[Any, ...]:
    kind, channel = event["kind"], event.get("channel")
    if kind == "exec":
        outcome = "refused" if event.get("refused") else event["exit_status"]
        return kind, channel, event["command"], event.get("exit_signal", outcome)
    if kind in ("output", "input"):
        return kind, channel, event["data"]
    return (kind,) if channel is None else (kind, channel)


def exec_(channel: int, text: str, outcome: Any) -> tuple[Any, ...]:
    return "exec", channel, text, outcome


DIALOGUES: dict[str, tuple[list[tuple[int, bytes]], list[tuple[Any, ...]]]] = {
    "a command": (
        [BEGIN, command(1, "ls"), output(1, b"a\n"), exited(1, exit_status=0), closed(1), STOP],
        [("start",), ("channel", 1), ("output", 1, "a\n"), exec_(1, "ls", 0), ("closed", 1),
         ("end",)],
    ),
    "a command that a signal ended": (
        [command(1, "x"), exited(1, exit_signal="KILL", core_dumped=False), closed(1)],
        [("channel", 1), exec_(1, "x", "KILL"), ("closed", 1)],
    ),
    "output behind the exit status": (
        [command(1, "x"), exited(1, exit_status=3), output(1, b"late"), closed(1)],
        [("channel", 1), ("output", 1, "late"), exec_(1, "x", 3), ("closed", 1)],
    ),
    "a command that the target refused": (
        [command(1, "x"), note("refused", channel=1, request="exec"), closed(1)],
        [("channel", 1), exec_(1, "x", "refused"), ("refused", 1), ("closed", 1)],
    ),
    "another request that the target refused": (
        [command(1, "x"), note("refused", channel=1, request="env"), closed(1)],
        [("channel", 1), ("refused", 1), exec_(1, "x", None), ("closed", 1)],
    ),
    "a command after one that was refused": (
        [command(1, "x"), note("refused", channel=1, request="exec"), command(1, "y"),
         exited(1, exit_status=0), closed(1)],
        [("channel", 1), exec_(1, "x", "refused"), ("refused", 1), ("channel", 1),
         exec_(1, "y", 0), ("closed", 1)],
    ),
    "two commands at once": (
        [command(1, "x"), command(1, "y"), note("refused", channel=1, request="exec"),
         exited(1, exit_status=0), closed(1)],
        [("channel", 1), ("channel", 1), exec_(1, "y", "refused"), ("refused", 1),
         exec_(1, "x", 0), ("closed", 1)],
    ),
    "a command that the role does not allow": (
        [note("denied", channel=1, request="exec"), closed(1)],
        [("denied", 1), ("closed", 1)],
    ),
    "a shell": (
        [note("channel", channel=1, type="shell"), output(1, b"$ "), exited(1, exit_status=0),
         closed(1)],
        [("channel", 1), ("output", 1, "$ "), ("exit", 1), ("closed", 1)],
    ),
    "many channels through one connection": (
        [command(1, "a"), command(2, "b"), note("channel", channel=3, type="shell"),
         output(2, b"2"), exited(1, exit_status=1), output(3, b"3"), output(1, b"1"), closed(1),
         exited(2, exit_status=2), exited(3, exit_status=3), closed(3), closed(2)],
        [("channel", 1), ("channel", 2), ("channel", 3), ("output", 2, "2"), ("output", 3, "3"),
         ("output", 1, "1"), exec_(1, "a", 1), ("closed", 1), ("exit", 3), ("closed", 3),
         exec_(2, "b", 2), ("closed", 2)],
    ),
    "commands that never end": (
        [command(1, "a"), command(2, "b"), output(2, b"2"), STOP],
        [("channel", 1), ("channel", 2), ("output", 2, "2"), exec_(1, "a", None),
         exec_(2, "b", None), ("end",)],
    ),
    "records that are missing at the end": (
        [command(1, "a"), command(2, "b"), exited(2, exit_status=2), output(2, b"2")],
        [("channel", 1), ("channel", 2), ("output", 2, "2"), exec_(1, "a", None),
         exec_(2, "b", 2)],
    ),
    "output that is no text, or half of one": (
        [output(1, b"\xc3\xa9\xc3"), output(1, b"\xa9", 1), (INPUT, uint32(2) + b"\xff")],
        [("output", 1, {"base64": "w6nD"}), ("output", 1, {"base64": "qQ=="}),
         ("input", 2, {"base64": "/w=="})],
    ),
    "keys": ([(INPUT, uint32(1) + b"ls\r")], [("input", 1, "ls\r")]),
    "files, forwards, sizes": (
        [note("file", channel=1, operation="read"), note("forward", channel=2, to="db:80"),
         note("resize", channel=1, columns=1, rows=2)],
        [("file", 1), ("forward", 2), ("resize", 1)],
    ),
    "what this version does not know": (
        [(250, b"?"), note("something new", channel=1)],
        [("something new", 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIALOGUES)
def test_dialogue(case: str) -> None:
    script, expected = DIALOGUES[case]
    assert [brief(event) for event in told(*script)] == expected


@pytest.mark.parametrize("case", DIALOGUES)
def test_a_torn_transcript_has_all_commands_all_the_same(case: str) -> None:
    script, _ = DIALOGUES[case]
    for length in range(len(script)):
        torn = script[:length]
        begun = sum(b'"exec", "pty"' in payload for _, payload in torn)
        assert [event["kind"] for event in told(*torn)].count("exec") == begun


def test_a_command_in_full() -> None:
    script = [
        BEGIN,
        command(1, "sleep 1"),
        output(1, b"oops", stream=1),
        exited(1, exit_status=7),
        closed(1),
        (END, b'{"reason": "killed", "detail": "by carol", "statements": 1}'),
    ]
    assert told(*script) == [
        {"at": 0.0, "kind": "start", "user": "alice", "started": "1970-01-01T00:00:00.000+00:00"},
        {
            "at": 0.001, "kind": "channel", "channel": 1, "type": "exec", "pty": None,
            "environment": {}, "command": "sleep 1",
        },
        {"at": 0.002, "kind": "output", "channel": 1, "stream": "stderr", "data": "oops"},
        {
            "at": 0.001, "kind": "exec", "channel": 1, "command": "sleep 1", "exit_status": 7,
            "duration_ms": 2.0,
        },
        {
            "at": 0.004, "kind": "closed", "channel": 1, "bytes_in": 0, "bytes_out": 0,
            "bytes_err": 0,
        },
        {"at": 0.005, "kind": "end", "reason": "killed", "detail": "by carol", "statements": 1},
    ]  # fmt: skip


def recorded() -> list[tuple[int, bytes]]:
    """What the notes of two channels become."""
    records: list[tuple[int, bytes]] = []
    notes = Notes(lambda *record: records.append(record), typed=True)
    shell, run = (notes.channel(b"session", "") for _ in range(2))
    _on_a_terminal(shell)
    run.asks(b"exec", string(b"ls \xff"))
    shell.data(0, b"w")
    run.data(1, b"file")
    shell.data(1, b"w")
    run.told(b"exit-signal", Reader(string(b"TERM") + b"\0", 0))
    for channel in (run, shell):
        channel.close()
    return records


def _on_a_terminal(channel: ChannelNotes) -> None:
    channel.asks(b"pty-req", string(b"xterm") + b"".join(map(uint32, (80, 24))))
    channel.asks(b"shell", b"")


def test_what_is_noted_is_told() -> None:
    assert [brief(event) for event in told(*recorded())] == [
        ("channel", 1),
        ("channel", 2),
        ("output", 2, "file"),
        ("input", 1, "w"),
        ("output", 1, "w"),
        exec_(2, {"base64": "bHMg/w=="}, "TERM"),
        ("closed", 2),
        ("closed", 1),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NOTES = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["channel", "exit", "closed", "refused", "denied", "exec"]) | JSON,
        "channel": st.integers(1, 2) | JSON,
        "type": st.sampled_from(["exec", "shell"]) | JSON,
        "request": st.just("exec") | JSON,
        "command": JSON,
        "exit_status": JSON,
        "at": JSON,
        "started": JSON,
    },
).map(lambda facts: json.dumps(facts).encode())
RECORDS = st.tuples(
    st.sampled_from([HEADER, NOTE, OUTPUT, INPUT, END]) | st.integers(0, 255),
    NOTES | st.binary(max_size=12),
)


@given(st.lists(RECORDS, max_size=12))
def test_anything_is_told(script: list[tuple[int, bytes]]) -> None:
    for event in told(*script):
        assert list(event)[:2] == ["at", "kind"]
        assert isinstance(event["at"], float)
        assert isinstance(event["kind"], str)
