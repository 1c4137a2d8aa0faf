"""What is told of an SFTP session is what happened, however its bytes were split."""

from __future__ import annotations

import base64
import hashlib
import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ssh import files
from gateway.ssh import sftp as sftp_module
from gateway.ssh.files import Event
from gateway.ssh.sftp import SftpWatch
from gateway.ssh.sftp_packets import EOF, MAX_HANDLE, MAX_NAMES, MAX_PACKET, OK, Kind
from tests.ssh.conversations import Speech, Tee, cut, joined, sftp, show, watched
from tests.ssh.packets import attrs, packet, string, u32, u64

READ, WRITE, CREATE_TRUNCATE = 1, 2, 0x18
SMALL = b"three thousand bytes, or thereabouts\n" * 80
UPLOAD = ["write", "create", "truncate"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def events_of(speech) -> list[Event]:
    events: list[Event] = []
    return watched(SftpWatch(events.append), events, speech)


# -- the real programs ---------------------------------------------------------------------

BATCH = b"""
put small up
put empty nothing
get up down
-get nofile
mkdir dir
-mkdir dir
put -p small dir/kept
rename dir/kept dir/"new name"
ln up hard
ln -s nowhere soft
chmod 640 hard
ls dir
cp hard copy
df
put small "f\xff"
rm hard
-rm dir
rm "dir/new name"
rmdir dir
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    (directory / "small").write_bytes(SMALL)
    (directory / "empty").touch()
    return directory


@pytest.fixture(scope="module")
def session(directory: Path, tmp_path_factory) -> Speech:
    return joined(sftp(Tee(tmp_path_factory.mktemp("tee")), directory, BATCH))


@pytest.fixture(scope="module")
def expected(session: Speech) -> list[Event]:
    return events_of(session)


def shape(told: Event, directory: Path) -> tuple:
    """Operation, path and whatever else there is, without the directory."""
    facts = {key: value for key, value in told.items() if value is not None}
    for key in ("path", "to"):
        if isinstance(facts.get(key), str):
            facts[key] = facts[key].removeprefix(f"{directory}/")
    return facts.pop("operation"), facts.pop("path"), facts


def test_a_session_of_openssh(expected: list[Event], directory: Path) -> None:
    times = int((directory / "small").stat().st_mtime)
    moved = {"bytes": len(SMALL), "sha256": sha256(SMALL)}
    written = moved | {"flags": UPLOAD, "mode": "0644"}
    opened = {"bytes": 0, "flags": UPLOAD}
    odd = base64.b64encode(bytes(directory) + b"/f\xff").decode()
    kept = {"mode": "0644", "atime": times, "mtime": times}
    assert [shape(event, directory) for event in expected] == [
        ("write", "up", written),
        ("open", "nothing", opened | {"mode": "0644"}),
        ("read", "up", moved),
        ("mkdir", "dir", {"mode": "0777"}),
        ("mkdir", "dir", {"mode": "0777", "error": "SSH_FX_FAILURE"}),
        ("setstat", "dir/kept", {"attributes": kept}),
        ("write", "dir/kept", written),
        ("rename", "dir/kept", {"to": "dir/new name"}),
        ("link", "hard", {"to": "up"}),
        ("symlink", "soft", {"to": "nowhere"}),
        ("setstat", "hard", {"attributes": {"mode": "0640"}}),
        ("list", "dir/", {"entries": 3}),
        ("copy", "hard", {"to": "copy"}),
        ("open", "hard", {"bytes": 0}),
        ("open", "copy", opened | {"mode": "0640"}),
        ("write", {"base64": odd}, written),
        ("remove", "hard", {}),
        ("remove", "dir", {"error": "SSH_FX_FAILURE"}),
        ("remove", "dir/new name", {}),
        ("rmdir", "dir", {}),
    ]


def test_a_session_byte_by_byte(session: Speech, expected: list[Event]) -> None:
    assert events_of(cut(session, [1])) == expected


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_no_split_changes_what_is_told(session, expected, sizes: list[int]) -> None:
    assert events_of(cut(session, sizes)) == expected


@settings(max_examples=40, deadline=None)
@given(turns=st.integers(0, 1000), noise=st.binary(min_size=1, max_size=50), side=st.booleans())
def test_noise_takes_back_nothing(session, expected, turns, noise, side) -> None:
    events: list[Event] = []
    watch = SftpWatch(events.append)
    show(watch, session[: turns % len(session)])
    before = len(events)
    watched(watch, events, [(side, noise)])
    assert events[:before] == expected[:before]
    assert all("unfinished" in told or "reason" in told for told in events[before:])


def test_many_requests_at_once(directory: Path, tmp_path: Path) -> None:
    data = b"".join(u32(number) for number in range(400_000))
    (directory / "big").write_bytes(data)
    speech = sftp(Tee(tmp_path), directory, b"put big big2\nget big2 big3\n")
    for chunks in (speech, joined(speech), cut(speech, [100_003, 77])):
        facts = [(told["operation"], told["bytes"], told["sha256"]) for told in events_of(chunks)]
        assert facts == [(way, len(data), sha256(data)) for way in ("write", "read")]


def test_going_on_with_a_file_leaves_no_hash(directory: Path, tmp_path: Path) -> None:
    (directory / "part").write_bytes(SMALL[:1000])
    (directory / "part2").write_bytes(SMALL[:1000])
    speech = sftp(Tee(tmp_path), directory, b"get -a small part\nput -a small part2\n")
    facts = [(told["operation"], told["bytes"], told["sha256"]) for told in events_of(speech)]
    assert facts == [(way, len(SMALL) - 1000, None) for way in ("read", "write")]


# -- a client and a target made by hand ----------------------------------------------------


class Session:
    """Both sides of one session."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.watch = SftpWatch(self.events.append)
        self._numbers = itertools.count(1)

    def ask(self, kind: int, *fields: bytes) -> int:
        """The id of the request."""
        number = next(self._numbers)
        self.watch.from_client(packet(kind, u32(number) + b"".join(fields)))
        return number

    def answer(self, kind: int, number: int, *fields: bytes) -> None:
        self.watch.from_target(packet(kind, u32(number) + b"".join(fields)))

    def status(self, number: int, code: int = OK) -> None:
        self.answer(Kind.STATUS, number, u32(code), string(b"words"), string(b"en"))

    def open(self, path: bytes = b"f", flags: int = READ, handle: bytes = b"h") -> None:
        number = self.ask(Kind.OPEN, string(path), u32(flags), attrs(permissions=0o644))
        self.answer(Kind.HANDLE, number, string(handle))

    def read(self, offset: int, length: int = 32768, handle: bytes = b"h") -> int:
        return self.ask(Kind.READ, string(handle), u64(offset), u32(length))

    def data(self, number: int, data: bytes) -> None:
        self.answer(Kind.DATA, number, string(data))

    def write(self, offset: int, data: bytes, handle: bytes = b"h") -> int:
        return self.ask(Kind.WRITE, string(handle), u64(offset), string(data))

    def close(self, handle: bytes = b"h") -> Event:
        """The event of the file that was closed."""
        self.status(self.ask(Kind.CLOSE, string(handle)))
        return self.events[-1]

    def undecoded(self) -> bool:
        """It is, and nothing is told any more."""
        told = [told["operation"] for told in self.events]
        self.watch.from_client(packet(Kind.REMOVE, u32(999_999) + string(b"f")))
        self.watch.from_target(packet(Kind.STATUS, u32(999_999) + u32(OK)))
        self.watch.close()
        return told.count("undecoded") == 1 and [e["operation"] for e in self.events] == told


def test_answers_out_of_order_are_put_in_order() -> None:
    session = Session()
    session.open()
    blocks = [bytes([number]) * 1000 for number in range(8)]
    numbers = [session.read(1000 * at, 1000) for at in range(8)]
    for at in (1, 0, 4, 7, 3, 2, 6, 5):
        session.data(numbers[at], blocks[at])
    session.status(session.read(8000), EOF)
    assert session.close() == {
        "operation": "read", "path": "f", "bytes": 8000, "sha256": sha256(b"".join(blocks)),
    }  # fmt: skip


def test_answers_far_out_of_order_leave_no_hash() -> None:
    session = Session()
    session.open()
    count = files.MAX_EARLY // 32768 + 1
    numbers = [session.read(32768 * at) for at in range(count + 1)]
    for number in (*numbers[1:], numbers[0]):
        session.data(number, bytes(32768))
    told = session.close()
    assert (told["bytes"], told["sha256"]) == (32768 * (count + 1), None)


def test_short_answers_asked_for_again() -> None:
    session = Session()
    session.open()
    first, second = session.read(0, 100), session.read(100, 100)
    session.data(first, b"a" * 60)
    rest = session.read(60, 40)
    session.data(second, b"b" * 100)
    session.data(rest, b"c" * 40)
    assert session.close()["sha256"] == sha256(b"a" * 60 + b"c" * 40 + b"b" * 100)


@pytest.mark.parametrize("offsets", [(1, 2), (0, 0), (0, 2), (0, 1, 1), (3, 2, 1)])
def test_bytes_that_are_no_run_from_the_start_have_no_hash(offsets) -> None:
    session = Session()
    session.open(flags=WRITE)
    for offset in offsets:
        session.status(session.write(offset, b"x"))
    told = session.close()
    assert (told["operation"], told["bytes"], told["sha256"]) == ("write", len(offsets), None)


@pytest.mark.parametrize("code", [EOF, 2, 4, 99])
def test_whatever_the_refusal_a_write_leaves_no_hash(code: int) -> None:
    session = Session()
    session.open(flags=WRITE)
    session.status(session.write(0, b"abc"), code)
    told = session.close()
    assert (told["sha256"], "error" in told) == (None, True)


def test_a_refused_write_leaves_no_hash() -> None:
    session = Session()
    session.open(flags=WRITE | CREATE_TRUNCATE)
    session.status(session.write(0, b"abc"))
    session.status(session.write(3, b"def"), 4)
    session.status(session.write(6, b"ghi"), 3)
    assert session.close() == {
        "operation": "write", "path": "f", "bytes": 9, "sha256": None,
        "flags": UPLOAD, "mode": "0644", "error": "SSH_FX_FAILURE",
    }  # fmt: skip


def test_a_refused_read_does_not_take_the_hash_of_what_was_read() -> None:
    session = Session()
    session.open()
    session.data(session.read(0), b"abc")
    session.status(session.read(3), 4)
    told = session.close()
    assert (told["sha256"], told["error"]) == (sha256(b"abc"), "SSH_FX_FAILURE")


def test_a_file_that_was_read_and_written_is_told_as_both() -> None:
    session = Session()
    session.open(flags=READ | WRITE)
    session.data(session.read(0), b"was")
    session.status(session.write(0, b"is"))
    session.close()
    assert [(e["operation"], e["bytes"], e["sha256"], e["flags"]) for e in session.events] == [
        ("read", 3, sha256(b"was"), ["read", "write"]),
        ("write", 2, sha256(b"is"), ["read", "write"]),
    ]


def test_what_trails_behind_the_data_of_a_packet_is_no_data() -> None:
    session = Session()
    session.open(flags=READ | WRITE)
    session.answer(Kind.DATA, session.read(0), string(b"abc"), b"?" * 1000)
    body = string(b"h") + u64(0) + string(b"abc") + b"?" * 1000
    session.status(session.ask(Kind.WRITE, body))
    session.close()
    assert [(told["bytes"], told["sha256"]) for told in session.events] == [(3, sha256(b"abc"))] * 2


def test_a_close_that_fails_is_told() -> None:
    session = Session()
    session.open()
    session.status(session.ask(Kind.CLOSE, string(b"h")), 4)
    assert session.events == [
        {"operation": "open", "path": "f", "bytes": 0, "sha256": None, "error": "SSH_FX_FAILURE"}
    ]


@pytest.mark.parametrize(("code", "error"), [(2, "SSH_FX_NO_SUCH_FILE"), (31, 31)])
def test_what_is_refused_is_told(code: int, error) -> None:
    session = Session()
    session.status(session.ask(Kind.OPEN, string(b"f"), u32(READ), attrs()), code)
    session.status(session.ask(Kind.OPENDIR, string(b"d")), code)
    session.status(session.ask(Kind.RENAME, string(b"a"), string(b"b")), code)
    for event in session.events:
        assert event.pop("error") == error
    assert [(told["operation"], told["path"], told["bytes"]) for told in session.events] == [
        ("open", "f", None),
        ("list", "d", None),
        ("rename", "a", None),
    ]


def test_a_directory_is_told_once_with_its_entries() -> None:
    session = Session()
    session.answer(Kind.HANDLE, session.ask(Kind.OPENDIR, string(b"d")), string(b"h"))
    for count in (3, 2):
        names = (string(b"name") + string(b"-rw name") + attrs()) * count
        session.answer(Kind.NAME, session.ask(Kind.READDIR, string(b"h")), u32(count), names)
    session.status(session.ask(Kind.READDIR, string(b"h")), EOF)
    assert session.close() == {
        "operation": "list", "path": "d", "bytes": None, "sha256": None, "entries": 5,
    }  # fmt: skip


def test_questions_are_not_told() -> None:
    session = Session()
    session.open()
    name = string(b"x") + string(b"y") + attrs()
    for kind in (Kind.REALPATH, Kind.READLINK):
        session.answer(Kind.NAME, session.ask(kind, string(b"x")), u32(1), name)
    for kind in (Kind.STAT, Kind.LSTAT, Kind.FSTAT):
        session.answer(Kind.ATTRS, session.ask(kind, string(b"h")), attrs(size=1))
    for extension in (b"limits@openssh.com", b"statvfs@openssh.com"):
        number = session.ask(Kind.EXTENDED, string(extension), string(b"/"))
        session.answer(Kind.EXTENDED_REPLY, number, bytes(88))
    number = session.ask(Kind.EXTENDED, string(b"expand-path@openssh.com"), string(b"~"))
    session.answer(Kind.NAME, number, u32(1), name)
    session.status(session.ask(Kind.EXTENDED, string(b"fsync@openssh.com"), string(b"h")), 8)
    assert session.events == []
    assert session.close()["operation"] == "open"


def test_extensions_are_told_as_what_they_do() -> None:
    session = Session()
    fields = {
        b"posix-rename@openssh.com": string(b"old") + string(b"new"),
        b"hardlink@openssh.com": string(b"there") + string(b"here"),
        b"lsetstat@openssh.com": string(b"f") + attrs(ids=(0, 0)),
        b"open-a-door@example.com": string(b"front"),
    }
    for extension, body in fields.items():
        session.status(session.ask(Kind.EXTENDED, string(extension), body))
    number = session.ask(Kind.EXTENDED, string(b"x\xff"))
    session.answer(Kind.EXTENDED_REPLY, number, b"?")
    assert [
        {key: value for key, value in told.items() if value is not None} for told in session.events
    ] == [
        {"operation": "rename", "path": "old", "to": "new"},
        {"operation": "link", "path": "here", "to": "there"},
        {"operation": "setstat", "path": "f", "attributes": {"uid": 0, "gid": 0}},
        {"operation": "extended", "extension": "open-a-door@example.com"},
        {"operation": "extended", "extension": {"base64": "eP8="}},
    ]


def test_a_copy_inside_the_target() -> None:
    session = Session()
    session.open(b"from", READ, b"a")
    session.open(b"to", WRITE, b"b")
    session.status(session.write(0, b"head", b"b"))
    copy = string(b"a") + u64(0) + u64(100) + string(b"b") + u64(4)
    session.status(session.ask(Kind.EXTENDED, string(b"copy-data"), copy))
    assert session.events[-1] == {
        "operation": "copy", "path": "from", "bytes": 100, "sha256": None, "to": "to",
    }  # fmt: skip
    told = session.close(b"b")
    assert (told["bytes"], told["sha256"]) == (4, None)


def test_attributes_of_an_open_file() -> None:
    session = Session()
    session.open(b"f", WRITE)
    session.status(session.ask(Kind.FSETSTAT, string(b"h"), attrs(size=0)))
    session.status(session.ask(Kind.FSETSTAT, string(b"?"), attrs(size=0)), 4)
    assert [(told["path"], told["attributes"]) for told in session.events] == [
        ("f", {"size": 0}),
        (None, {"size": 0}),
    ]


def test_a_handle_may_be_another_files_as_soon_as_its_close_is_asked_for() -> None:
    session = Session()
    session.open(b"one")
    closing = session.ask(Kind.CLOSE, string(b"h"))
    session.open(b"two")
    session.status(closing)
    assert session.events[-1]["path"] == "one"
    session.data(session.read(0), b"abc")
    assert session.close()["path"] == "two"


def test_a_handle_given_twice_ends_the_first_file() -> None:
    session = Session()
    session.open(b"one")
    session.open(b"two")
    assert [(e["path"], e["unfinished"]) for e in session.events] == [("one", True)]
    assert session.close()["path"] == "two"


def test_the_end_of_the_stream_tells_what_was_under_way() -> None:
    session = Session()
    session.open(b"read", READ, b"a")
    session.data(session.read(0, handle=b"a"), b"abc")
    session.open(b"closing", READ, b"b")
    session.ask(Kind.CLOSE, string(b"b"))
    session.ask(Kind.OPEN, string(b"opening"), u32(READ), attrs())
    session.ask(Kind.REMOVE, string(b"gone?"))
    session.ask(Kind.STAT, string(b"asked"))
    for _ in range(2):
        session.watch.close()
    assert all(told["unfinished"] for told in session.events)
    assert [(e["operation"], e["path"], e["bytes"], e["sha256"]) for e in session.events] == [
        ("read", "read", 3, sha256(b"abc")),
        ("open", "closing", 0, None),
        ("open", "opening", None, None),
        ("remove", "gone?", None, None),
    ]


def test_a_write_that_ends_in_the_middle() -> None:
    session = Session()
    session.open(flags=WRITE)
    whole = packet(Kind.WRITE, u32(9) + string(b"h") + u64(0) + string(b"x" * 1000))
    session.watch.from_client(whole[:-300])
    session.watch.close()
    (told,) = session.events
    assert (told["bytes"], told["sha256"], told["unfinished"]) == (700, sha256(b"x" * 700), True)


@pytest.mark.parametrize("version", [0, 3, 4, 6, 0xFFFFFFFF])
def test_versions_beyond_3_are_not_decoded(version: int) -> None:
    session = Session()
    session.watch.from_client(packet(Kind.INIT, u32(6) + string(b"newline") + string(b"\n")))
    session.watch.from_target(packet(Kind.VERSION, u32(version)))
    assert session.undecoded() == (version > 3)


def _garbage_from_a_shell(session: Session) -> None:
    session.watch.from_target(b"Welcome to web!\n")


def _unknown_type(session: Session) -> None:
    session.watch.from_client(packet(21, u32(1)))


def _an_answer_as_a_request(session: Session) -> None:
    session.watch.from_client(packet(Kind.STATUS, u32(1) + u32(0)))


def _too_long(session: Session) -> None:
    session.watch.from_client(u32(MAX_PACKET + 1) + bytes([Kind.WRITE]))


def _an_id_twice(session: Session) -> None:
    for _ in range(2):
        session.watch.from_client(packet(Kind.REMOVE, u32(7) + string(b"f")))


def _an_answer_to_nothing(session: Session) -> None:
    session.status(1234)


def _data_for_a_rename(session: Session) -> None:
    session.data(session.ask(Kind.RENAME, string(b"a"), string(b"b")), b"x")


def _a_handle_for_a_question(session: Session) -> None:
    session.answer(Kind.NAME, session.read(0), u32(1))


def _a_write_to_nothing_that_works(session: Session) -> None:
    session.status(session.write(0, b"x", b"?"))


def _a_read_from_nothing_that_works(session: Session) -> None:
    session.data(session.read(0, handle=b"?"), b"x")


def _more_data_than_the_packet_holds(session: Session) -> None:
    session.ask(Kind.WRITE, string(b"h"), u64(0), u32(100), b"x")


def _more_data_than_the_answer_holds(session: Session) -> None:
    session.answer(Kind.DATA, session.read(0), u32(100), b"x")


def _a_long_handle(session: Session) -> None:
    session.open(handle=b"x" * (MAX_HANDLE + 1))


def _a_torn_request(session: Session) -> None:
    session.ask(Kind.RENAME, string(b"a"), u32(5))


@pytest.mark.parametrize(
    "act",
    [
        _garbage_from_a_shell,
        _unknown_type,
        _an_answer_as_a_request,
        _too_long,
        _an_id_twice,
        _an_answer_to_nothing,
        _data_for_a_rename,
        _a_handle_for_a_question,
        _a_write_to_nothing_that_works,
        _a_read_from_nothing_that_works,
        _more_data_than_the_packet_holds,
        _more_data_than_the_answer_holds,
        _a_long_handle,
        _a_torn_request,
    ],
)
def test_what_cannot_be_understood_is_told_once(act) -> None:
    session = Session()
    session.open(b"before", handle=b"h")
    act(session)
    assert session.undecoded()
    assert session.events[0]["unfinished"]
    assert session.events[-1]["reason"]


def test_what_a_target_refuses_does_no_harm() -> None:
    """Handles that nobody opened, longer ones than there are: an honest target says no."""
    session = Session()
    for handle in (b"?", b"x" * 1000):
        session.status(session.read(0, handle=handle), 4)
        session.status(session.write(0, b"abc", handle), 4)
        session.status(session.ask(Kind.CLOSE, string(handle)), 4)
        session.status(session.ask(Kind.READDIR, string(handle)), 4)
    assert session.events == []
    session.open()
    assert session.close()["operation"] == "open"


def test_a_longer_name_than_is_kept_is_cut() -> None:
    session = Session()
    session.status(session.ask(Kind.REMOVE, string(b"x" * 200_000)), 4)
    session.status(session.ask(Kind.RENAME, string(b"x" * 200_000), string(b"y")), 4)
    for event in session.events:
        assert event["cut"]
        assert event["path"] == "x" * (MAX_NAMES - 8)
    session.open()
    assert session.close()["operation"] == "open"


# -- bounds --------------------------------------------------------------------------------


def test_a_whole_file_may_be_asked_for_at_once() -> None:
    session = Session()
    session.open()
    fields = ((1000 + at, string(b"h"), u64(at), u32(1)) for at in range(150_000))
    reads = (packet(Kind.READ, u32(number) + b"".join(rest)) for number, *rest in fields)
    session.watch.from_client(b"".join(reads))
    session.data(1000, b"x")
    assert session.close()["operation"] == "read"


@pytest.mark.parametrize("what", ["requests", "names", "files", "directories"])
def test_what_is_held_is_bounded(monkeypatch, what: str) -> None:
    monkeypatch.setattr(sftp_module, "MAX_HELD", 1 << 20)
    session = Session()
    step = {
        "requests": lambda at: session.ask(Kind.STAT, string(b"x")),
        "names": lambda at: session.ask(Kind.REMOVE, string(b"x" * 40_000)),
        "files": lambda at: session.open(handle=u32(at)),
        "directories": lambda at: session.answer(
            Kind.HANDLE, session.ask(Kind.OPENDIR, string(b"x")), string(u32(at))
        ),
    }[what]
    for at in range(10_000):
        step(at)
        if session.events and session.events[-1]["operation"] == "undecoded":
            break
    assert session.events[-1]["reason"] == "too much is open or unanswered"
    assert session.undecoded()


def test_what_was_held_is_let_go(monkeypatch) -> None:
    monkeypatch.setattr(sftp_module, "MAX_HELD", 10_000)
    session = Session()
    for _ in range(100):
        session.open()
        session.open()  # the same handle: the first is given up
        session.data(session.read(0), b"x")
        session.status(session.write(0, b"x"))
        assert session.close()["operation"] == "write"
        session.status(session.ask(Kind.REMOVE, string(b"f")))
        session.status(session.ask(Kind.OPEN, string(b"f"), u32(1), attrs()), 2)


def peak(feed) -> int:
    tracemalloc.start()
    try:
        feed()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [Kind.REMOVE, Kind.STAT, Kind.EXTENDED, Kind.CLOSE, Kind.WRITE])
def test_a_huge_request_is_not_gathered(kind: Kind) -> None:
    session = Session()
    session.open(flags=WRITE)
    chunk = bytes(1 << 20)
    length = {Kind.WRITE: string(b"h") + u64(0) + u32((64 << 20) + 4)}.get(kind, u32(64 << 20))
    head = u32(1 + 4 + len(length) + (64 << 20) + 4) + bytes([kind]) + u32(77) + length + b"head"

    def feed() -> None:
        session.watch.from_client(head)
        for _ in range(64):
            session.watch.from_client(chunk)

    assert peak(feed) < 1 << 20
    session.status(77)
    told = session.close()
    assert told["bytes"] == ((64 << 20) + 4 if kind == Kind.WRITE else 0)


@pytest.mark.parametrize("kind", [Kind.NAME, Kind.DATA])
def test_a_huge_answer_is_not_gathered(kind: Kind) -> None:
    session = Session()
    number = session.ask(Kind.OPENDIR if kind == Kind.NAME else Kind.OPEN, string(b"x"), u32(1))
    session.answer(Kind.HANDLE, number, string(b"h"))
    number = session.ask(Kind.READDIR, string(b"h")) if kind == Kind.NAME else session.read(0)
    chunk = bytes(1 << 20)

    def feed() -> None:
        session.watch.from_target(u32(9 + (64 << 20)) + bytes([kind]) + u32(number))
        session.watch.from_target(u32(64 << 20))
        for _ in range(64):
            session.watch.from_target(chunk)

    assert peak(feed) < 1 << 20
    told = session.close()
    assert (told["bytes"] or told["entries"]) == 64 << 20


# -- garbage -------------------------------------------------------------------------------

TURNS = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, number, body: packet(kind, u32(number) + body),
                st.sampled_from(Kind),
                st.integers(0, 3),
                st.one_of(
                    st.binary(max_size=40),
                    st.builds(
                        lambda name, rest: string(name) + rest,
                        st.sampled_from([b"h", b"copy-data", b"f\xff", b""]),
                        st.binary(max_size=40),
                    ),
                ),
            ),
        ),
    ),
    max_size=40,
)


@given(TURNS)
def test_garbage_never_raises(turns) -> None:
    events: list[Event] = []
    watch = SftpWatch(events.append)
    for side, data in turns:
        (watch.from_target if side else watch.from_client)(data)
    watch.close()
    operations = [told["operation"] for told in events]
    assert "undecoded" not in operations[:-1]
