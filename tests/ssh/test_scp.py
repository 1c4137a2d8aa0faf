"""What is told of an scp session is what happened, however its bytes were split."""

from __future__ import annotations

import hashlib
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ssh.files import Event
from gateway.ssh.scp import MAX_LINE, MAX_PATH, MAX_PENDING, ScpWatch, scp_request
from tests.ssh.conversations import CLIENT, TARGET, Speech, Tee, cut, joined, scp, show, watched

SMALL = b"a record says how long I am\n" * 100
EMPTY = hashlib.sha256(b"").hexdigest()
DIGEST = hashlib.sha256(SMALL).hexdigest()


def events_of(request: tuple[bool, bytes], speech) -> list[Event]:
    events: list[Event] = []
    return watched(ScpWatch(events.append, *request), events, speech)


def facts(told: Event) -> tuple:
    rest = {key: value for key, value in told.items() if value is not None}
    return rest.pop("operation"), rest.pop("path"), rest


# -- the real programs ---------------------------------------------------------------------


class Scp:
    """A directory to copy in, and what is said meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "files"
        (self.directory / "tree/sub").mkdir(parents=True)
        (self.directory / "small").write_bytes(SMALL)
        (self.directory / "tree/a").write_bytes(SMALL)
        (self.directory / "tree/sub/empty").touch()
        self.tee = Tee(root)

    def copy(self, *args: str, status: int = 0) -> tuple[tuple[bool, bytes], Speech]:
        """What was asked for, and what was said."""
        command, speech = scp(self.tee, self.directory, *args, status=status)
        request = scp_request(command)
        assert request is not None
        return request, joined(speech)

    def told(self, *args: str, status: int = 0) -> list[tuple]:
        request, speech = self.copy(*args, status=status)
        events = events_of(request, speech)
        assert events_of(request, cut(speech, [1])) == events
        return sorted((facts(told) for told in events), key=lambda told: str(told[1]))


@pytest.fixture
def real(tmp_path: Path) -> Scp:
    return Scp(tmp_path)


def test_an_upload(real: Scp) -> None:
    moved = {"bytes": len(SMALL), "sha256": DIGEST, "mode": "0644"}
    assert real.told("small", "h:new") == [("write", "new/small", moved | {"or_path": "new"})]
    assert real.told("small", "h:tree/") == [("write", "tree/small", moved)]


def test_an_upload_of_several(real: Scp) -> None:
    moved = {"bytes": len(SMALL), "sha256": DIGEST, "mode": "0644"}
    nothing = {"bytes": 0, "sha256": EMPTY, "mode": "0644"}
    assert real.told("small", "tree/sub/empty", "h:tree") == [
        ("write", "tree/empty", nothing),
        ("write", "tree/small", moved),
    ]


def test_an_upload_of_a_tree(real: Scp) -> None:
    assert [told[:2] for told in real.told("-rp", "tree", "h:there/")] == [
        ("mkdir", "there/tree"),
        ("write", "there/tree/a"),
        ("mkdir", "there/tree/sub"),
        ("write", "there/tree/sub/empty"),
    ]


def test_a_download_of_a_tree(real: Scp) -> None:
    directory = {"mode": "0755"}
    assert real.told("-r", f"h:{real.directory}/./tree/", "copy") == [
        ("list", f"{real.directory}/./tree", directory),
        (
            "read",
            f"{real.directory}/./tree/a",
            {"bytes": len(SMALL), "sha256": DIGEST, "mode": "0644"},
        ),
        ("list", f"{real.directory}/./tree/sub", directory),
        (
            "read",
            f"{real.directory}/./tree/sub/empty",
            {"bytes": 0, "sha256": EMPTY, "mode": "0644"},
        ),
    ]


def test_a_download_by_pattern(real: Scp) -> None:
    (real.directory / "tree/b").write_bytes(SMALL)
    assert [told[:2] for told in real.told("h:tree/[ab]", ".")] == [
        ("read", "tree/a"),
        ("read", "tree/b"),
    ]


def test_what_is_not_there(real: Scp) -> None:
    missing = "No such file or directory"
    assert real.told("h:none", ".", status=1) == [
        ("read", "none", {"error": f"scp: none: {missing}"})
    ]
    assert real.told("small", "h:no/where", status=1) == [
        (
            "write",
            "no/where/small",
            {"error": f"scp: no/where: {missing}", "mode": "0644", "or_path": "no/where"},
        )
    ]
    assert real.told("small", "tree/a", "h:small", status=1) == [
        ("write", "small/", {"error": "scp: small: Not a directory"})
    ]


def test_what_is_refused_in_between(real: Scp) -> None:
    (real.directory / "there/tree/a").mkdir(parents=True)
    told = real.told("-r", "tree", "h:there", status=1)
    assert [(way, path, rest.get("error")) for way, path, rest in told] == [
        ("mkdir", "there/tree", None),
        ("write", "there/tree/a", "scp: there/tree/a: Is a directory"),
        ("mkdir", "there/tree/sub", None),
        ("write", "there/tree/sub/empty", None),
    ]


def test_a_source_that_does_not_wait(real: Scp) -> None:
    told = b"D0755 0 sub\nC0644 5 x\nhello\0T1 0 2 0\nC0600 0 y\n\0E\nC0644 2 z\nhi\0"
    subprocess.run(
        [real.tee.program, "ssh", "scp -r -t tree"], input=told, check=True, cwd=real.directory
    )
    assert [facts(told)[:2] for told in events_of((True, b"tree/"), real.tee.heard())] == [
        ("mkdir", "tree/sub"),
        ("write", "tree/sub/x"),
        ("write", "tree/sub/y"),
        ("write", "tree/z"),
    ]
    assert (real.directory / "tree/sub/x").read_bytes() == b"hello"


@pytest.fixture(scope="module")
def upload(tmp_path_factory) -> tuple[tuple[bool, bytes], Speech]:
    return Scp(tmp_path_factory.mktemp("scp")).copy("-rp", "tree", "h:there")


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_no_split_changes_what_is_told(upload, sizes: list[int]) -> None:
    request, speech = upload
    assert events_of(request, cut(speech, sizes)) == events_of(request, speech)


@settings(max_examples=40, deadline=None)
@given(turns=st.integers(0, 1000), noise=st.binary(min_size=1, max_size=50), side=st.booleans())
def test_noise_takes_back_nothing(upload, turns: int, noise: bytes, side: bool) -> None:
    request, speech = upload
    events: list[Event] = []
    watch = ScpWatch(events.append, *request)
    show(watch, speech[: turns % len(speech)])
    before = events_of(request, speech)[: len(events)]
    watched(watch, events, [(int(side), noise)])
    assert events[: len(before)] == before


# -- a source and a sink made by hand ------------------------------------------------------

SIDES = {"<": CLIENT, ">": TARGET}  # of an upload: the source, the sink


def said(*turns: str) -> Speech:
    """``<`` the source, ``>`` the sink; ``0``, ``1`` and ``2`` are those bytes."""
    control = str.maketrans({"0": "\0", "1": "\1", "2": "\2"})
    return [(SIDES[turn[0]], (turn[1:2].translate(control) + turn[2:]).encode()) for turn in turns]


def summary(events: list[Event]) -> list[tuple]:
    return [(e["operation"], e["path"], e["bytes"], e.get("error")) for e in events]


FILE = ("<C0644 3 f\n", ">0", "<abc", "<0", ">0")

CASES = {
    "a file": ((">0", *FILE), [("write", "d/f", 3, None)]),
    "the source could not read all": (
        (">0", "<C0644 3 f\n", ">0", "<abc", "<1read error\n", ">0"),
        [("write", "d/f", 3, "read error")],
    ),
    "the sink could not write all": (
        (">0", "<C0644 3 f\n", ">0", "<abc", "<0", ">1disk full\n"),
        [("write", "d/f", 3, "disk full")],
    ),
    "a refused file": (
        (">0", "<C0644 3 f\n", ">1no\n", *FILE),
        [("write", "d/f", None, "no"), ("write", "d/f", 3, None)],
    ),
    "a refused empty file": (
        (">0", "<C0644 0 f\n", ">1no\n", *FILE),
        [("write", "d/f", None, "no"), ("write", "d/f", 3, None)],
    ),
    "a refused directory": (
        (">0", "<D0755 0 x\n", ">1no\n", *FILE),
        [("mkdir", "d/x", None, "no"), ("write", "d/f", 3, None)],
    ),
    "a refused time": (
        (">0", "<T1 0 1 0\n", ">1no\n", *FILE),
        [("write", "d/", None, "no"), ("write", "d/f", 3, None)],
    ),
    "an error instead of a record": (
        (">0", "<D0755 0 x\n", ">0", "<1no\n", "<E\n", ">0", *FILE),
        [("mkdir", "d/x", None, None), ("write", "d/x", None, "no"), ("write", "d/f", 3, None)],
    ),
    "the sink gives up": ((">0", ">2bye\n"), [("write", "d/", None, "bye")]),
    "it is not even there": ((">sh: scp?\n",), [("write", "d/", None, "sh: scp?")]),
    "an end before the data": (
        (">0", "<D0755 0 x\n", "<C0644 3 f\n"),
        [("mkdir", "d/x", None, None), ("write", "d/x/f", 0, None)],
    ),
    "an end in the data": ((">0", "<C0644 3 f\n", ">0", "<ab"), [("write", "d/f", 2, None)]),
    "an end before the last answer": ((">0", *FILE[:-1]), [("write", "d/f", 3, None)]),
    "a name that no sink would take": (
        (">0", "<C0644 0 ../f\n", ">2unexpected filename\n"),
        [("write", "d/../f", None, "unexpected filename")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_turns_of_an_upload(case: str) -> None:
    turns, expected = CASES[case]
    for speech in (said(*turns), cut(said(*turns), [1])):
        events = events_of((True, b"d/"), speech)
        assert summary(events) == expected
        ended = case.startswith("an end")
        assert all(told.get("unfinished", False) == ended for told in events)


@pytest.mark.parametrize("case", ["a file", "a refused directory", "an error instead of a record"])
def test_a_download_is_an_upload_the_other_way(case: str) -> None:
    turns, expected = CASES[case]
    mirrored = [(1 - side, data) for side, data in said(*turns)]
    words = {"write": "read", "mkdir": "list"}
    assert summary(events_of((False, b"d/."), mirrored)) == [
        (words[way], "d/." if path == "d/" else path, *rest) for way, path, *rest in expected
    ]


def test_hashes_tell_the_truth_or_nothing() -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    part = hashlib.sha256(b"ab").hexdigest()
    expected = {
        "a file": [digest],
        "the source could not read all": [digest],  # what moved is what was written
        "the sink could not write all": [None],
        "an end before the data": [None, None],
        "an end in the data": [part],
    }
    for case, digests in expected.items():
        events = events_of((True, b"d/"), said(*CASES[case][0]))
        assert [told["sha256"] for told in events] == digests


RECORD = "a record that scp does not have"
BEHIND = "more came behind a record that was refused"
LINE = "a line is too long"
OUT = "the end of a directory that was not begun"

UNDECODED = {
    "no record": (RECORD, ">0", "<Z0644 3 f\n"),
    "a zero byte as a record": (RECORD, ">0", "<0\n"),
    "no mode": (RECORD, ">0", "<C999 3 f\n"),
    "no size": (RECORD, ">0", "<C0644 x f\n"),
    "a size beyond any file": (RECORD, ">0", "<C0644 9999999999999999999 f\n"),
    "a size of many digits": (RECORD, ">0", f"<C0644 {'9' * 5000} f\n"),
    "out of nowhere": (OUT, ">0", "<E\n"),
    "out of a directory twice": (OUT, ">0", "<D0755 0 x\n", ">0", "<E\n", ">0", "<E\n"),
    "an endless line": (LINE, ">0", "<" + "C" * (MAX_LINE + 1)),
    "an endless answer": (LINE, ">" + "1" * (MAX_LINE + 1)),
    "a path beyond any tree": ("a path is too long", ">0", f"<D0755 0 {'x' * MAX_PATH}\n"),
    "an answer to nothing": ("an answer to no record", ">0", ">0"),
    "a refused file whose data are here": (BEHIND, ">0", "<C0644 3 f\n", "<a", ">1no\n"),
    "a refused file that is all here": (BEHIND, ">0", "<C0644 0 f\n", "<0", ">1no\n"),
    "a refused file with a verdict begun": (BEHIND, ">0", "<C0644 0 f\n", "<1x", ">1no\n"),
    "a refused directory with a file": (BEHIND, ">0", "<D0755 0 x\n", "<C0644 3 f\n", ">1no\n"),
    "records without answers": (
        "too many records without an answer",
        ">0",
        "<" + "T1 0 1 0\n" * (MAX_PENDING + 1),
    ),
}


@pytest.mark.parametrize("case", UNDECODED)
def test_what_cannot_be_understood_is_told_once(case: str) -> None:
    reason, *turns = UNDECODED[case]
    speech = [*said(*turns), *said(*FILE)]
    for chunks in (speech, cut(speech, [1])):
        events = events_of((True, b"d/"), chunks)
        assert [told["operation"] for told in events].count("undecoded") == 1
        assert (events[-1]["operation"], events[-1]["reason"]) == ("undecoded", reason)


def test_names_that_are_not_utf8() -> None:
    speech = [(TARGET, b"\0"), (CLIENT, b"C0644 0 f\xff\n"), (TARGET, b"\0")]
    (told,) = events_of((True, b"d/"), speech)
    assert told["path"] == {"base64": "ZC9m/w=="}


def test_a_name_ends_where_the_sink_sees_its_end() -> None:
    (told,) = events_of((True, b"d/"), [(CLIENT, b"C0644 0 f\0.txt\n")])
    assert told["path"] == "d/f"


@pytest.mark.parametrize(
    ("base", "upload", "path", "or_path"),
    [
        (b"", True, "f", None),
        (b".", True, "./f", None),
        (b"..", True, "../f", None),
        (b"~", True, "~/f", None),
        (b"/", True, "/f", None),
        (b"d", True, "d/f", "d"),
        (b"/etc/f", True, "/etc/f/f", "/etc/f"),
        ("d\udcff", True, {"base64": "ZP8vZg=="}, {"base64": "ZP8="}),
        (b"", False, "f", None),
        (b"f", False, "f", None),
        (b"/", False, "/f", None),
        (b"/f", False, "/f", None),
        (b"a/b/*", False, "a/b/f", None),
        (b"a/b//", False, "a/f", None),
    ],
)
def test_where_a_file_is(base, upload: bool, path, or_path) -> None:
    speech = [(TARGET if upload else CLIENT, b"\0"), (CLIENT if upload else TARGET, b"C0644 1 f\n")]
    (told,) = events_of((upload, base), speech)
    assert (told["path"], told.get("or_path")) == (path, or_path)


def test_a_huge_file_is_not_gathered() -> None:
    events: list[Event] = []
    watch = ScpWatch(events.append, True, b"d/")
    chunk = bytes(1 << 20)
    tracemalloc.start()
    try:
        watch.from_client(b"C0644 %d f\n" % (1 << 62))
        for _ in range(64):
            watch.from_client(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    watch.close()
    assert peak < 1 << 20
    assert events[0]["bytes"] == 64 << 20


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([CLIENT, TARGET]),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from([b"\0", b"\1no\n", b"E\n", b"T1 0 1 0\n", b"D0755 0 d\n"]),
                st.integers(0, 9).map(lambda size: b"C0644 %d f\n" % size),
            ),
        ),
        max_size=40,
    ),
)
def test_garbage_never_raises(upload: bool, turns: Speech) -> None:
    events = events_of((upload, b"d"), turns)
    assert "undecoded" not in [told["operation"] for told in events[:-1]]
    assert events_of((upload, b"d"), cut(turns, [1])) == events


# -- the command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "upload", "path"),
    [
        (b"scp -t x", True, b"x"),
        (b"scp -f x", False, b"x"),
        (b"scp -r -p -v -t -- x", True, b"x"),
        (b"scp -t -- -x", True, b"-x"),
        (b"/usr/bin/scp -qrpt x", True, b"x"),
        (b"  scp\t-f  x ", False, b"x"),
        (b"scp -d -t x", True, b"x/"),
        (b"scp -d -t x/", True, b"x//"),
        (b"scp -d -f x", False, b"x"),
        (b"scp -t ''", True, b""),
        (b"scp -t 'it is; $(here)'", True, b"it is; $(here)"),
        (b"""scp -t "a \\"b\\" \\$c \\d" """, True, b'a "b" $c \\d'),
        (b"scp -t a\\ b\\;c", True, b"a b;c"),
        (b"""'scp' -t a'b'"c"\\d""", True, b"abcd"),
        (b"scp -f ~/*.[ch] ", False, b"~/*.[ch]"),
        (b"scp -f $HOME/x", False, b"$HOME/x"),
        (b"scp -f a b", False, b""),
        (b"scp -t \xff", True, b"\xff"),
        (b"scp -ft x", False, b"x"),
    ],
)
def test_commands_that_are_scp(command: bytes, upload: bool, path: bytes) -> None:
    assert scp_request(command) == (upload, path)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"scp",
        b"scp -t",
        b"scp -t --",
        b"scp -r x",
        b"scp x y",
        b"scp x -t",
        b"scp -S evil -t x",
        b"scp -o ProxyCommand=evil -f x",
        b"scp --help -t x",
        b"rsync -t x",
        b"xscp -t x",
        b"scp -t x; evil",
        b"scp -t x & evil",
        b"scp -t x | evil",
        b"scp -t x > evil",
        b"scp -t < evil",
        b"scp -t x\nevil",
        b"scp -t $(evil)",
        b"scp -t `evil`",
        b'scp -t "$(evil)"',
        b'scp -t "`evil`"',
        b"scp -t x\\\nevil",
        b"scp -t 'x",
        b'scp -t "x',
        b"scp -t x\\",
        b"A=b scp -t x",
        b"(scp -t x)",
    ],
)
def test_commands_that_are_not_scp_or_not_only(command: bytes) -> None:
    assert scp_request(command) is None


@given(st.binary(max_size=200))
def test_any_command_is_read(command: bytes) -> None:
    scp_request(command)
    scp_request(b"scp -t " + command)


@pytest.mark.parametrize("piece", [b"'", b'"', b'"a', b"'a'", b"\\", b"\\a", b"a", b"a ", b'"$'])
def test_long_commands_are_read_in_time(piece: bytes) -> None:
    assert scp_request(b"scp -t " + piece * 100_000 + b"(") is None
