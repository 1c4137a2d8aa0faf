"""The scanners: what is recorded of a stream does not depend on how it was split."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.pg import scan
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.scan import Scanner
from gateway.record.format import CLIENT, COPIED, CUT, ROWS, TARGET


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack(">I", len(body) + 4) + body


def scanned(scanner_class: type[Scanner], chunks: Iterable[bytes]) -> tuple[Scanner, list]:
    """The scanner afterwards, and its records with neighbours of one kind joined."""
    records: list[tuple[int, bytes]] = []

    def add(kind: int, payload: bytes) -> None:
        if records and records[-1][0] == kind and kind in (CLIENT, TARGET):
            records[-1] = kind, records[-1][1] + payload
        else:
            records.append((kind, bytes(payload)))

    scanner = scanner_class(add)
    for chunk in chunks:
        scanner.scan(chunk)
    return scanner, records


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


ROW = frame("D", b"\0\1\0\0\0\3abc")
DONE = frame("C", b"SELECT 2\0")
READY = frame("Z", b"I")
QUERY = frame("Q", b"SELECT 1\0")

CLIENT_CASES = {
    "one query": (QUERY, [(CLIENT, QUERY)]),
    "a pipeline": (
        frame("P", b"\0SELECT $1\0\0\0")
        + frame("B", b"x" * 9)
        + frame("E", b"\0" * 5)
        + frame("S"),
        [
            (
                CLIENT,
                frame("P", b"\0SELECT $1\0\0\0")
                + frame("B", b"x" * 9)
                + frame("E", b"\0" * 5)
                + frame("S"),
            )
        ],
    ),
    "copy in": (
        QUERY + frame("d", b"1\t2\n") * 3 + frame("c") + QUERY,
        [
            (CLIENT, QUERY),
            (COPIED, struct.pack(">BQQ", 0, 3, 12)),
            (CLIENT, frame("c") + QUERY),
        ],
    ),
    "a copy that fails": (
        frame("d", b"xy") + frame("f", b"no\0"),
        [(COPIED, struct.pack(">BQQ", 0, 1, 2)), (CLIENT, frame("f", b"no\0"))],
    ),
}

TARGET_CASES = {
    "rows": (frame("T", b"..") + ROW * 2 + DONE + READY, [(TARGET, DONE + READY)]),
    "notices are not kept": (frame("N", b"hi\0") + DONE, [(TARGET, DONE)]),
    "suspended": (
        ROW * 5 + frame("s") + READY,
        [(ROWS, struct.pack(">Q", 5)), (TARGET, frame("s") + READY)],
    ),
    "rows of one statement are not those of the next": (
        ROW * 5 + DONE + ROW + frame("s"),
        [(TARGET, DONE), (ROWS, struct.pack(">Q", 1)), (TARGET, frame("s"))],
    ),
    "copy out": (
        frame("H", b"\0\0\0") + frame("d", b"line\n") * 40 + frame("c") + frame("C", b"COPY 40\0"),
        [
            (TARGET, frame("H", b"\0\0\0")),
            (COPIED, struct.pack(">BQQ", 1, 40, 200)),
            (TARGET, frame("c") + frame("C", b"COPY 40\0")),
        ],
    ),
}


@pytest.mark.parametrize("split", [lambda data: [data], byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", CLIENT_CASES)
def test_what_the_client_sends(case: str, split) -> None:
    data, expected = CLIENT_CASES[case]
    scanner, records = scanned(ClientScanner, split(data))
    assert records == expected
    assert scanner.at_boundary


@pytest.mark.parametrize("split", [lambda data: [data], byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", TARGET_CASES)
def test_what_the_target_sends(case: str, split) -> None:
    data, expected = TARGET_CASES[case]
    scanner, records = scanned(TargetScanner, split(data))
    assert records == expected
    assert scanner.at_boundary


@pytest.mark.parametrize("scanner_class", [ClientScanner, TargetScanner])
@pytest.mark.parametrize(
    "bad",
    [
        b"p\0\0\0\4",  # a password has no place in a session
        b"\0\0\0\0\4",
        b"Z\0\0\0\3",
        b"Q\0\0\0\0",
        b"d\x80\0\0\0",
        b"D\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff",
    ],
)
def test_a_frame_that_cannot_be_is_a_violation(scanner_class, bad: bytes) -> None:
    for chunks in ([bad], byte_by_byte(bad)):
        with pytest.raises(ProtocolViolation):
            scanned(scanner_class, chunks)


def test_what_is_asked_and_what_is_answered_is_counted() -> None:
    client, _ = scanned(ClientScanner, [QUERY + frame("E", b"\0" * 5) + frame("S") + frame("X")])
    target, _ = scanned(TargetScanner, [READY + frame("Z", b"T")])
    assert (client.statements, client.asked, client.terminated) == (2, 2, True)
    assert (target.ready, chr(target.status)) == (2, "T")


@pytest.mark.parametrize("body", [b"", b"II"])
def test_a_ready_for_query_has_one_byte(body: bytes) -> None:
    for chunks in ([DONE + frame("Z", body)], byte_by_byte(DONE + frame("Z", body))):
        with pytest.raises(ProtocolViolation, match="0x5a"):
            scanned(TargetScanner, chunks)


EXECUTE, SYNC, FLUSH = frame("E", b"\0" * 5), frame("S"), frame("H")


@pytest.mark.parametrize("split", [lambda data: [data], byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize(
    ("data", "asked", "unsynced"),
    [
        (QUERY, 1, False),
        (frame("F", b"\0" * 8), 1, False),
        (EXECUTE, 0, True),
        (EXECUTE + FLUSH, 0, True),
        (EXECUTE + SYNC, 1, False),
        (EXECUTE + SYNC + EXECUTE, 1, True),
        (EXECUTE * 2 + SYNC * 2, 2, False),
        (EXECUTE + QUERY, 1, False),
        (frame("P", b"\0\0\0\0"), 0, False),
    ],
)
def test_what_still_runs(data: bytes, asked: int, unsynced: bool, split) -> None:
    client, _ = scanned(ClientScanner, split(data))
    assert (client.asked, client.unsynced) == (asked, unsynced)


@pytest.mark.parametrize("split", [lambda data: [data], byte_by_byte], ids=["whole", "bytes"])
@pytest.mark.parametrize(
    ("call", "during", "after"),
    [
        (QUERY, (1, False), (1, False)),
        (EXECUTE + SYNC, (0, True), (1, False)),
        (EXECUTE, (0, True), (1, False)),
        (QUERY + EXECUTE + SYNC, (1, True), (2, False)),
    ],
)
def test_a_sync_behind_a_copy_gets_no_answer(call, during, after, split) -> None:
    client = ClientScanner(lambda kind, payload: None)
    target = TargetScanner(lambda kind, payload: None, client.copy_began)
    client.scan(call)
    for chunk in split(frame("G", b"\0\0\0")):
        target.scan(chunk)
    assert (client.asked, client.unsynced, client.copying) == (*during, True)
    end = frame("d", b"x") + frame("c") + (b"" if call == QUERY else SYNC)
    for chunk in split(end):
        client.scan(chunk)
    assert (client.asked, client.unsynced, client.copying) == (*after, False)


def test_a_copy_that_failed_is_over_with_the_next_statement() -> None:
    client, _ = scanned(ClientScanner, [QUERY])
    client.copy_began()
    client.scan(frame("d", b"x") + QUERY)
    assert (client.asked, client.copying) == (2, False)


@pytest.mark.parametrize("cut", range(len(ROW)))
def test_what_raises_leaves_the_boundary_where_it_was(cut: int) -> None:
    scanner, _ = scanned(TargetScanner, [ROW[:cut]])
    before = scanner.to_boundary(ROW[cut:])
    for bad in (ROW[cut:] + b"\0\0\0\0\4", ROW[cut:] + frame("Z")):
        with pytest.raises(ProtocolViolation):
            scanner.scan(bad)
        assert scanner.to_boundary(ROW[cut:]) == before == (len(ROW) - cut if cut else 0)


@pytest.mark.parametrize("split", [lambda data: [data], byte_by_byte], ids=["whole", "bytes"])
def test_a_long_statement_is_cut_with_its_length_and_hash(monkeypatch, split) -> None:
    monkeypatch.setattr(scan, "CAPTURE", 100)
    body = bytes(range(256)) * 4
    data = frame("Q", body)
    parts = [data[:60], *split(data[60:])]
    _, records = scanned(ClientScanner, parts)
    head = struct.pack(">BBQ32s", 0, ord("Q"), len(body), hashlib.sha256(body).digest())
    assert records == [(CUT, head + body[:100])]


FRAMES = st.lists(
    st.one_of(
        st.sampled_from([ROW, DONE, READY, frame("s"), frame("d", b"abc"), frame("c")]),
        st.integers(0, 60).map(lambda n: frame("D", b"x" * n)),
        st.integers(1, 40).map(lambda n: ROW * n),
    ),
    max_size=30,
).map(b"".join)


@given(FRAMES, st.lists(st.integers(0, 2000)))
def test_no_split_changes_what_is_recorded(data: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[a:b] for a, b in pairwise(at)]
    _, whole = scanned(TargetScanner, [data])
    scanner, parts = scanned(TargetScanner, chunks)
    assert parts == whole
    assert scanner.at_boundary


@given(st.binary(max_size=300))
def test_garbage_is_a_violation_or_waits_for_more(data: bytes) -> None:
    for scanner_class in (ClientScanner, TargetScanner):
        try:
            scanned(scanner_class, byte_by_byte(data))
        except ProtocolViolation:
            continue


@given(FRAMES, st.integers(0, 2000))
def test_the_next_boundary_is_found(data: bytes, cut: int) -> None:
    scanner, _ = scanned(TargetScanner, [data[:cut]])
    rest = data[cut:]
    boundary = scanner.to_boundary(rest)
    assert boundary is not None
    scanner.scan(rest[:boundary])
    assert scanner.at_boundary
    assert scanner.to_boundary(b"") == 0


@given(st.binary(max_size=4), st.binary(max_size=8))
@example(b"D\0\0\0", b"\0rows")
def test_a_boundary_is_inside_or_beyond(head: bytes, data: bytes) -> None:
    scanner = TargetScanner(lambda kind, payload: None)
    scanner.scan(head)
    boundary = scanner.to_boundary(data)
    assert boundary is None or 0 <= boundary <= len(data)
