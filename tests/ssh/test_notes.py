"""What of a session goes into its transcript."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.record.format import INPUT, NOTE, OUTPUT
from gateway.ssh.messages import Reader, string, uint32
from gateway.ssh.notes import MAX_ENVIRONMENT, MAX_TERM, MAX_TO, PRINTED, ChannelNotes, Notes
from tests.ssh.conversations import CLIENT, TARGET, Speech, Tee, cut, scp, sftp

CONTENTS = b"what is in a file is nobody's business\n" * 100
DIGEST = hashlib.sha256(CONTENTS).hexdigest()
PTY = string(b"xterm") + b"".join(map(uint32, (80, 24, 0, 0))) + string(b"")


@define
class Told:
    """A channel, and what it is told."""

    typed: bool = False
    kind: bytes = b"session"
    to: str = ""
    records: list[tuple[int, bytes]] = field(factory=list)
    channel: ChannelNotes = field(init=False)

    def __attrs_post_init__(self) -> None:
        notes = Notes(lambda *record: self.records.append(record), typed=self.typed)
        self.channel = notes.channel(self.kind, self.to)

    def asks(self, request: bytes, *fields: bytes) -> None:
        self.channel.asks(request, b"".join(map(string, fields)))

    def says(self, speech: Speech) -> None:
        for side, data in speech:
            self.channel.data(side, data)

    def ends(self, status: int = 0) -> None:
        self.channel.told(b"exit-status", Reader(uint32(status), 0))
        self.channel.close()

    def notes(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(payload) for what, payload in self.records if what == NOTE]
        return [note for note in found if kind in (None, note["kind"])]

    def printed(self, stream: int = 0) -> bytes:
        head = uint32(1) + bytes((stream,))
        return b"".join(
            data[5:] for kind, data in self.records if kind == OUTPUT and data[:5] == head
        )

    def kept(self) -> bytes:
        return b"".join(data[4:] for kind, data in self.records if kind == INPUT)


def opened(**facts: Any) -> dict[str, Any]:
    return {"kind": "channel", "channel": 1, "pty": None, "environment": {}, **facts}


def closed(received: int = 0, out: int = 0, err: int = 0) -> dict[str, Any]:
    return {
        "kind": "closed", "channel": 1, "bytes_in": received, "bytes_out": out, "bytes_err": err,
    }  # fmt: skip


def test_a_command() -> None:
    here = Told()
    here.asks(b"env", b"LANG", b"C.UTF-8")
    here.asks(b"env", b"LC_ALL", b"\xff")
    here.asks(b"exec", b"cat; exit 3")
    here.channel.data(CLIENT, b"in")
    here.channel.data(TARGET, b"\xff\0out")
    here.channel.stderr(b"err\n")
    here.ends(3)
    environment = {"LANG": "C.UTF-8", "LC_ALL": {"base64": "/w=="}}
    assert here.notes() == [
        opened(type="exec", command="cat; exit 3", environment=environment),
        {"kind": "exit", "channel": 1, "exit_status": 3},
        closed(2, 5, 4),
    ]
    assert (here.printed(), here.printed(1), here.kept()) == (b"\xff\0out", b"err\n", b"")


def test_a_shell_on_a_terminal() -> None:
    here = Told()
    here.channel.asks(b"pty-req", PTY)
    here.asks(b"shell")
    here.channel.asks(b"window-change", b"".join(map(uint32, (100, 30, 0, 0))))
    here.asks(b"signal", b"INT")
    here.asks(b"auth-agent-req@openssh.com")
    here.channel.asks(b"x11-req", b"\0")
    here.asks(b"break")
    here.channel.told(
        b"exit-signal", Reader(string(b"KILL") + b"\1" + string(b"why") + string(b""), 0)
    )
    here.channel.told(b"xon-xoff", Reader(b"", 0))
    here.channel.close()
    assert here.notes() == [
        opened(type="shell", pty={"term": "xterm", "columns": 80, "rows": 24}),
        {"kind": "resize", "channel": 1, "columns": 100, "rows": 30},
        {"kind": "signal", "channel": 1, "signal": "INT"},
        {"kind": "agent", "channel": 1},
        {"kind": "x11", "channel": 1},
        {"kind": "exit", "channel": 1, "exit_signal": "KILL", "core_dumped": True},
        closed(),
    ]


def test_what_was_not_allowed_and_what_was_refused() -> None:
    here = Told()
    here.channel.denied(b"exec")
    here.channel.refused(b"shell")
    here.channel.denied(b"\xff@example.com")
    here.channel.denied(b"winadj@putty.projects.tartarus.org")  # hundreds of them
    assert here.notes() == [
        {"kind": "denied", "channel": 1, "request": "exec"},
        {"kind": "refused", "channel": 1, "request": "shell"},
        {"kind": "denied", "channel": 1, "request": {"base64": "/0BleGFtcGxlLmNvbQ=="}},
    ]


@pytest.mark.parametrize("command", [b"ls \xff", b"\xc3", b"caf\xe9 \0"])
def test_commands_that_are_not_text(command: bytes) -> None:
    here = Told()
    here.asks(b"exec", command)
    assert here.notes() == [
        opened(type="exec", command={"base64": b64encode(command).decode()}),
    ]


def test_a_long_command_is_kept_whole() -> None:
    here = Told()
    command = "true;" * 50_000 + "é"
    here.asks(b"exec", command.encode())
    assert here.notes()[0]["command"] == command


# -- how much is kept ----------------------------------------------------------------------


def test_output_without_a_terminal_is_kept_up_to_a_cap() -> None:
    here = Told()
    here.asks(b"exec", b"cat /dev/sda")
    for _ in range(PRINTED // 30_000 + 2):
        here.channel.data(TARGET, b"x" * 30_000)
        here.channel.stderr(b"y" * 10_000)
    assert here.printed() == b"x" * PRINTED
    assert len(here.printed(1)) < PRINTED
    count = len(here.records)
    here.channel.data(TARGET, b"more")
    assert len(here.records) == count
    here.channel.close()
    assert here.notes("closed")[0]["bytes_out"] > PRINTED


def test_output_of_a_terminal_is_kept_whole() -> None:
    here = Told()
    here.channel.asks(b"pty-req", PTY)
    here.asks(b"shell")
    for _ in range(PRINTED // 30_000 + 2):
        here.channel.data(TARGET, b"x" * 30_000)
    assert len(here.printed()) > PRINTED


def test_variables_are_all_kept_or_the_session_ends() -> None:
    here = Told()
    for number in range(200):
        here.asks(b"env", b"LC_A" + b"%d" % number, b"x" * 300)
    with pytest.raises(ProtocolViolation, match="environment"):
        here.asks(b"env", b"LC_B", b"x" * (MAX_ENVIRONMENT - 200 * 300))
    here.asks(b"shell")
    assert len(here.notes()[0]["environment"]) == 200


def test_names_that_are_kept_while_a_channel_lasts_are_short() -> None:
    here = Told()
    here.channel.asks(b"pty-req", string(b"x" * 9999) + uint32(1) + uint32(2))
    here.asks(b"shell")
    assert here.notes()[0]["pty"]["term"] == "x" * MAX_TERM
    there = Told(kind=b"forwarded-tcpip", to="x" * 9999)
    there.channel.close()
    assert there.notes()[0]["to"] == "x" * MAX_TO


# -- what is typed -------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("pty", [True, False])
def test_keys_are_kept_if_wanted_on_a_terminal_that_shows_them(typed: bool, pty: bool) -> None:
    here = Told(typed=typed)
    if pty:
        here.channel.asks(b"pty-req", PTY)
    here.asks(b"shell")
    here.says([(CLIENT, b"l"), (TARGET, b"l"), (CLIENT, b"s"), (TARGET, b"s"), (CLIENT, b"\r")])
    here.says([(TARGET, b"\r\nPassword: "), (CLIENT, b"hidden\r"), (TARGET, b"\r\n$ ")])
    assert here.kept() == (b"ls\r" if typed and pty else b"")
    assert here.printed() == b"ls\r\nPassword: \r\n$ "
    inputs = [data[:4] for kind, data in here.records if kind == INPUT]
    assert inputs == [uint32(1)] * len(inputs)


# -- files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    (directory / "file").write_bytes(CONTENTS)
    return directory


@pytest.fixture(scope="module")
def moved(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Speech:
    tee = Tee(tmp_path_factory.mktemp("sftp"))
    return sftp(tee, directory, b"put file up\nget up down\nmkdir new\n")


@pytest.fixture(scope="module")
def copied(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Speech]:
    return scp(Tee(tmp_path_factory.mktemp("scp")), directory, "h:file", "copy")


def contents_are_nowhere(here: Told) -> bool:
    return not any(b"nobody" in payload for _, payload in here.records)


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_an_sftp_session_of_openssh(moved: Speech, directory: Path, size: int) -> None:
    here = Told(typed=True)
    here.asks(b"subsystem", b"sftp")
    here.says(list(cut(moved, [size])))
    here.ends()
    operations = [
        (note["operation"], note["path"].removeprefix(f"{directory}/"), note["sha256"])
        for note in here.notes("file")
    ]
    assert operations == [("write", "up", DIGEST), ("read", "up", DIGEST), ("mkdir", "new", None)]
    assert {note["channel"] for note in here.notes("file")} == {1}
    assert here.notes()[0] == opened(type="subsystem", subsystem="sftp")
    sent = [sum(len(data) for side, data in moved if side == way) for way in (CLIENT, TARGET)]
    assert here.notes()[-1] == closed(*sent)
    assert min(sent) > len(CONTENTS)
    assert contents_are_nowhere(here)
    assert here.printed() == here.kept() == b""


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_an_scp_session_of_openssh(copied: tuple[bytes, Speech], size: int) -> None:
    command, speech = copied
    here = Told()
    here.asks(b"exec", command)
    here.says(list(cut(speech, [size])))
    here.channel.stderr(b"warning\n")
    here.ends()
    (note,) = here.notes("file")
    assert (note["operation"], note["bytes"], note["sha256"]) == ("read", len(CONTENTS), DIGEST)
    assert contents_are_nowhere(here)
    assert (here.printed(), here.printed(1)) == (b"", b"warning\n")


def test_what_is_under_way_is_told_when_the_channel_closes() -> None:
    here = Told()
    here.asks(b"exec", b"scp -t /tmp/x")
    here.says([(TARGET, b"\0"), (CLIENT, b"C0644 9999 x\n"), (TARGET, b"\0"), (CLIENT, b"nobody")])
    here.channel.close()
    file, end = here.notes()[1:]
    assert (file["operation"], file["bytes"], file["unfinished"]) == ("write", 6, True)
    assert end["kind"] == "closed"
    assert contents_are_nowhere(here)


SHELL = [(TARGET, b"$ "), (CLIENT, b"id\n"), (TARGET, b"uid=0(root)\n$ ")]


def test_a_shell_behind_a_subsystem_that_was_refused() -> None:
    here = Told()
    here.asks(b"subsystem", b"sftp")
    here.channel.refused(b"subsystem")
    here.asks(b"shell")
    here.says(SHELL)
    assert here.printed() == b"$ uid=0(root)\n$ "
    assert here.notes("file") == []


def test_files_behind_a_subsystem_that_was_refused(copied: tuple[bytes, Speech]) -> None:
    """As PuTTY's pscp does."""
    command, speech = copied
    here = Told()
    here.asks(b"subsystem", b"sftp")
    here.channel.refused(b"subsystem")
    here.asks(b"exec", command)
    here.says(speech)
    here.channel.close()
    assert len(here.notes("file")) == 1
    assert contents_are_nowhere(here)


@pytest.mark.parametrize("first", [b"shell", b"subsystem"])
@pytest.mark.parametrize("told", [True, False])
def test_a_shell_is_not_hidden_by_a_subsystem_at_the_same_time(first: bytes, told: bool) -> None:
    here = Told()
    for request in (first, b"shell" if first == b"subsystem" else b"subsystem"):
        here.asks(request, *[b"sftp"] * (request == b"subsystem"))
    if told:
        here.channel.refused(b"subsystem")
    here.says(SHELL)
    assert here.printed() == b"$ uid=0(root)\n$ "


@pytest.mark.parametrize(
    ("request_", "name"),
    [(b"exec", b"scp -f x"), (b"exec", b"scp -t x"), (b"subsystem", b"sftp")],
)
def test_a_shell_by_the_name_of_something_else_is_recorded(request_: bytes, name: bytes) -> None:
    here = Told()
    here.asks(request_, name)
    here.says([(TARGET, b"\0\0\0\0 hello\n"), *SHELL])
    here.channel.close()
    assert b"hello" in here.printed()
    assert b"uid=0(root)" in here.printed()
    assert [note["operation"] for note in here.notes("file")][-1] == "undecoded"


def test_a_shell_behind_a_large_file_is_recorded() -> None:
    here = Told()
    here.asks(b"exec", b"scp -f x")
    here.says([(CLIENT, b"\0"), (TARGET, b"C0644 %d x\n" % PRINTED), (CLIENT, b"\0")])
    here.says([(TARGET, b"nobody" * (PRINTED // 6) + b"nobo"), (TARGET, b"\0"), (CLIENT, b"\0")])
    assert here.notes("file")[0]["bytes"] == PRINTED
    assert contents_are_nowhere(here)
    here.says(SHELL)
    assert b"uid=0(root)" in here.printed()


@pytest.mark.parametrize(
    ("request_", "name"), [(b"exec", b"scp -f x"), (b"subsystem", b"sftp"), (b"exec", b"scp -t x")]
)
def test_nothing_is_taken_for_files_on_a_terminal(request_: bytes, name: bytes) -> None:
    here = Told()
    here.channel.asks(b"pty-req", PTY)
    here.asks(request_, name)
    here.says(SHELL)
    here.channel.close()
    assert here.printed() == b"$ uid=0(root)\n$ "
    assert here.notes("file") == []


# -- forwards ------------------------------------------------------------------------------


def test_forwards() -> None:
    here = Told(kind=b"direct-tcpip", to="db:5432")
    here.channel.data(CLIENT, b"12345")
    here.channel.data(TARGET, b"123")
    here.asks(b"exec", b"nothing that a forward does")
    here.channel.close()
    assert here.notes() == [
        {
            "kind": "forward", "channel": 1, "type": "direct-tcpip", "to": "db:5432",
            "bytes_in": 5, "bytes_out": 3,
        },
    ]  # fmt: skip


def test_a_forward_that_the_target_refused() -> None:
    here = Told(kind=b"direct-tcpip", to="a\udcffb:80")
    here.channel.refused(b"open")
    here.channel.close()
    to = {"base64": b64encode(b"a\xffb:80").decode()}
    assert here.notes() == [
        {"kind": "forward", "channel": 1, "type": "direct-tcpip", "to": to, "refused": True}
    ]


def test_what_is_about_no_channel() -> None:
    records: list[tuple[int, bytes]] = []
    notes = Notes(lambda *record: records.append(record))
    notes.refused_open(b"x\xff", "a" * 2000)
    notes.listens("0.0.0.0:80", False)
    notes.listens("localhost:0", True)
    assert [json.loads(payload) for _, payload in records] == [
        {"kind": "forward", "type": {"base64": "eP8="}, "to": "a" * MAX_TO, "refused": True},
        {"kind": "forward", "listen": "0.0.0.0:80", "refused": True},
        {"kind": "forward", "listen": "localhost:0", "refused": False},
    ]
    assert [notes.channel(b"session", "").number for _ in range(3)] == [1, 2, 3]


# -- garbage -------------------------------------------------------------------------------

REQUESTS = [b"pty-req", b"env", b"window-change", b"signal", b"shell", b"subsystem", b"exec"]


@pytest.mark.parametrize("request_", [r for r in REQUESTS if r != b"shell"])
def test_a_torn_request_is_a_violation_and_not_told(request_: bytes) -> None:
    here = Told()
    for detail in (b"", b"\0\0\0", uint32(9) + b"sho"):
        with pytest.raises(ProtocolViolation):
            here.channel.asks(request_, detail)
    assert here.records == []


@pytest.mark.parametrize("told", [b"exit-status", b"exit-signal"])
def test_a_torn_end_is_a_violation(told: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Told().channel.told(told, Reader(b"\0\0\0", 0))


DETAIL = st.binary(max_size=30) | st.lists(st.binary(max_size=9)).map(
    lambda fields: b"".join(map(string, fields))
)
STEPS = st.one_of(
    st.tuples(st.just("asks"), st.sampled_from(REQUESTS) | st.binary(max_size=4), DETAIL),
    st.tuples(st.just("data"), st.sampled_from([CLIENT, TARGET]), st.binary(max_size=40)),
    st.tuples(st.just("stderr"), st.binary(max_size=40)),
    st.tuples(st.sampled_from(["denied", "refused"]), st.sampled_from(REQUESTS) | st.binary()),
    st.tuples(
        st.just("told"),
        st.sampled_from([b"exit-status", b"exit-signal", b"?"]),
        st.binary(max_size=20).map(lambda data: Reader(data, 0)),
    ),
    st.tuples(st.just("asks"), st.just(b"exec"), st.just(string(b"scp -t x"))),
    st.tuples(st.just("asks"), st.just(b"subsystem"), st.just(string(b"sftp"))),
)


@given(st.booleans(), st.sampled_from([b"session", b"direct-tcpip"]), st.lists(STEPS, max_size=20))
def test_garbage_is_told_or_a_violation(typed: bool, kind: bytes, steps: list[Any]) -> None:
    here = Told(typed=typed, kind=kind, to="x")
    for name, *args in steps:
        try:
            getattr(here.channel, name)(*args)
        except ProtocolViolation:
            assert name in ("asks", "told")
    here.channel.close()
    for note in here.notes():
        assert note["channel"] == 1
        json.dumps(note, allow_nan=False)
