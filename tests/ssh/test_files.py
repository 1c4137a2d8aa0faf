"""Hashes of contents are right or not there; a watch never stands in the way."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NotRecorded, ProtocolViolation
from gateway.ssh import files
from gateway.ssh.files import Contents, Early, Event, Watch, event, mode


def digest(pieces: list[tuple[int, bytes]], early: Early | None = None) -> str | None:
    contents = Contents(early or Early())
    for offset, data in pieces:
        contents.take(offset, memoryview(data))
    assert contents.bytes == sum(len(data) for _, data in pieces)
    return contents.digest()


def cut(data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    at = [0, *sorted({cut for cut in cuts if cut < len(data)} - {0}), len(data)]
    return [(a, data[a:b]) for a, b in itertools.pairwise(at)]


PIECES = st.binary(min_size=1, max_size=200).flatmap(
    lambda data: st.lists(st.integers(0, 200), max_size=8).map(lambda cuts: cut(data, cuts))
)


@given(PIECES.flatmap(lambda pieces: st.tuples(st.just(pieces), st.permutations(pieces))))
def test_no_order_changes_the_hash(case) -> None:
    pieces, shuffled = case
    whole = b"".join(data for _, data in pieces)
    assert digest(shuffled) == hashlib.sha256(whole).hexdigest()


@given(PIECES, st.data())
def test_what_is_missing_or_comes_twice_leaves_no_hash(pieces, data) -> None:
    odd = data.draw(st.sampled_from(pieces))
    twice = data.draw(st.permutations([*pieces, odd]))
    assert digest(twice) is None
    missing = [piece for piece in pieces if piece != odd]
    if missing and odd != pieces[-1]:
        assert digest(missing) is None


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, b"")],
        [(1, b"abc")],
        [(0, b"abc"), (2, b"cd")],
        [(4, b"e"), (0, b"abc"), (3, b"de")],
        [(2, b"cd"), (3, b"d"), (0, b"ab")],
        [(0, b"ab"), (5, b"f")],
    ],
)
def test_no_hash_rather_than_a_wrong_one(pieces) -> None:
    assert digest(pieces) is None


def test_what_overtakes_is_kept_up_to_a_bound_for_all_files_together() -> None:
    early = Early()
    one, other = Contents(early), Contents(early)
    half = bytes(files.MAX_EARLY // 2)
    one.take(1, memoryview(half))
    other.take(1, memoryview(half))  # one piece's own cost too much
    assert early.room == files.MAX_EARLY - len(half) - files.PIECE
    other.take(0, memoryview(b"x"))
    assert other.digest() is None
    one.take(0, memoryview(b"x"))
    assert one.digest() == hashlib.sha256(b"x" + half).hexdigest()
    assert early.room == files.MAX_EARLY


def test_tiny_pieces_cost_more_than_their_bytes() -> None:
    early = Early()
    contents = Contents(early)
    for number in range(files.MAX_EARLY // files.PIECE):
        contents.take(2 + 2 * number, memoryview(b"x"))
    assert contents.digest() is None
    assert early.room == files.MAX_EARLY


def test_what_comes_early_twice_is_not_kept() -> None:
    early = Early()
    contents = Contents(early)
    for data in (b"once", b"again"):
        contents.take(5, memoryview(data))
    assert early.room == files.MAX_EARLY
    assert contents.digest() is None


def test_nothing_is_kept_after_the_digest() -> None:
    early = Early()
    contents = Contents(early)
    contents.take(5, memoryview(b"never reached"))
    assert contents.digest() is None
    contents.take(99, memoryview(b"too late"))
    assert early.room == files.MAX_EARLY


def test_modes_as_json_has_them() -> None:
    assert mode(0o100644) == "0644"
    assert mode(0o4755) == "4755"
    assert event("rename", "a", to="b", mode=None) == {
        "operation": "rename", "path": "a", "bytes": None, "sha256": None, "to": "b",
    }  # fmt: skip


class Parrot(Watch):
    """Emits what the client says; cannot understand the target."""

    def _client(self, data: bytes) -> None:
        self._emit(event(data.decode(), None))

    def _target(self, data: bytes) -> None:
        raise ProtocolViolation("no target is understood")

    def _unfinished(self) -> list[Event]:
        return [event("song", "a")]

    def _forget(self) -> None:
        pass


def test_what_is_not_understood_ends_the_watch_with_one_event() -> None:
    events: list[Event] = []
    watch = Parrot(events.append)
    watch.from_client(b"hello")
    for _ in range(2):
        watch.from_target(b"?")
        watch.from_client(b"more")
        watch.close()
    assert events == [
        event("hello", None),
        event("song", "a", unfinished=True),
        event("undecoded", None, reason="no target is understood"),
    ]


def test_an_event_that_cannot_be_recorded_is_an_error() -> None:
    def full(_: Event) -> None:
        raise NotRecorded("disk full")

    with pytest.raises(NotRecorded):
        Parrot(full).from_client(b"hello")
    with pytest.raises(NotRecorded):
        Parrot(full).close()
