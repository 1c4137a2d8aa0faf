"""Whatever is done to a transcript is seen, and a crash is told from tampering."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.record.format import HEADER_BYTES, NOTE, TAG, BatchReader, framed, record_head
from gateway.record.log import FileLog
from gateway.record.verify import Verdict, verify
from tests.record.files import END, KEY, KEYS, SECRET, judged

Made = tuple[Path, str | None]


def ended(path: Path) -> str | None:
    log = FileLog(path, KEYS, {"id": path.stem})
    for number in range(3):
        log.add(3, b"statement %d" % number)
        log.flush()
        log._due = 0  # a second has passed
        log.tick()
    digest = log.finish(END, 3, 4, 5)
    log.abandon()
    return digest


def crashed(path: Path) -> str | None:
    """A seal, and then a tail without one."""
    log = FileLog(path, KEYS, {"id": path.stem})
    log._due = 0
    log.tick()
    for number in range(3):
        log.add(3, b"statement %d" % number)
        log.flush()
    log.abandon()
    return None


def bounds(data: bytes) -> list[int]:
    """Where batches begin, and the end."""
    reader = BatchReader()
    reader.feed(data)
    offsets = []
    while (batch := reader.next()) is not None:
        offsets.append(batch.offset)
    return [*offsets, len(data)]


@pytest.mark.parametrize(("make", "status"), [(ended, "ok"), (crashed, "truncated")])
def test_every_flipped_byte_is_seen(tmp_path: Path, make: Callable, status: str) -> None:
    path = tmp_path / "s1.gwt"
    digest = make(path)
    assert judged(path, digest).status == status
    data = path.read_bytes()
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        assert judged(path).status == "altered", f"byte {index}"


@pytest.mark.parametrize("make", [ended, crashed])
def test_every_torn_end_is_a_truncation_unless_the_session_is_known_to_have_ended(
    tmp_path: Path, make: Callable
) -> None:
    path = tmp_path / "s1.gwt"
    digest = make(path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        verdict = judged(path)
        assert verdict.status == "truncated", f"{length} bytes: {verdict}"
        assert verdict.sealed_bytes <= length
        if digest:
            assert judged(path, digest).status == "altered"


def test_blocks_that_are_removed_swapped_repeated_or_foreign_are_seen(tmp_path: Path) -> None:
    path, other = tmp_path / "s1.gwt", tmp_path / "s2.gwt"
    ended(path)
    ended(other)
    data, foreign = path.read_bytes(), other.read_bytes()
    at = bounds(data)
    blocks = [data[a:b] for a, b in pairwise(at)]
    theirs = [foreign[a:b] for a, b in pairwise(at)]
    assert len(blocks) == len(theirs) == 9
    for index in range(len(blocks)):
        before, after = blocks[:index], blocks[index + 1 :]
        variants = {
            "repeated": [*before, blocks[index], blocks[index], *after],
            "foreign": [*before, theirs[index], *after],
        }
        if after:
            variants["removed"] = [*before, *after]
            variants["swapped"] = [*before, after[0], blocks[index], *after[1:]]
        for what, variant in variants.items():
            path.write_bytes(data[: at[0]] + b"".join(variant))
            assert judged(path).status == "altered", f"{what} at {index}"


def test_another_name_key_secret_or_digest_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    digest = ended(path)
    stranger = Ed25519PrivateKey.generate().public_key()
    assert verify(path, stranger, SECRET).status == "altered"
    assert verify(path, KEY.public_key(), b"x" * 32).status == "altered"
    assert judged(path, "00" * 32).status == "altered"
    assert judged(path.rename(tmp_path / "s2.gwt"), digest).status == "altered"


def test_another_name_is_told_from_an_alteration(tmp_path: Path) -> None:
    for make in (ended, crashed):
        path = tmp_path / "s1.gwt"
        digest = make(path)
        data = path.read_bytes()
        copy = path.rename(tmp_path / "copy.of.s1")
        told = "the file is called copy.of.s1, and the transcript in it is of s1"
        for judge in (judged, by_seals):
            for known in (None, digest, "00" * 32):
                verdict = judge(copy, known)
                assert (verdict.status, verdict.detail) == ("altered", told)
            for index in range(0, bounds(data)[-3 if make is ended else 1], 7):
                flipped = bytearray(data)
                flipped[index] ^= 1
                copy.write_bytes(flipped)
                verdict = judge(copy, None)
                assert (verdict.status, verdict.detail != told) == ("altered", True)
            copy.write_bytes(data)


@pytest.mark.parametrize(
    "meant", [None, 5, "", "s1", "\x1b[2J", "\ud800", "ü", "n" * 70_000, ["s1"], {}]
)
def test_whatever_a_header_says_it_is_of_is_only_what_it_says(
    tmp_path: Path, meant: object
) -> None:
    path = tmp_path / "s2.gwt"
    log = FileLog(path, KEYS, {"id": meant})
    log.finish(END, 0, 0, 0)
    log.abandon()
    assert (judged(path).status, by_seals(path).status) == ("ok", "ok")
    assert judged(path).header["id"] == meant
    for judge in (judged, by_seals):
        verdict = judge(path.rename(tmp_path / "s3.gwt"))
        assert verdict.status == "altered"
        assert not verdict.detail.startswith("the file is called")
        path = tmp_path / "s3.gwt"


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    ended(path)
    assert judged(path.rename(tmp_path / "\udcff.gwt")).status == "altered"


# -- with the public key alone -------------------------------------------------------------


def by_seals(path: Path, digest: str | None = None) -> Verdict:
    """As an auditor judges, who has not the tags' secret."""
    return verify(path, KEY.public_key(), None, digest)


def test_seals_alone_show_every_flipped_byte_that_they_cover(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    digest = ended(path)
    assert by_seals(path, digest) == judged(path, digest)
    data = path.read_bytes()
    last = bounds(data)[-2]
    at = last + HEADER_BYTES + 1
    free = {*range(at, at + 8), *range(len(data) - TAG, len(data))}  # the last seal's own time, tag
    for index in range(len(data)):
        for bit in (0, 1):
            flipped = bytearray(data)
            flipped[index] ^= 1 << bit
            path.write_bytes(flipped)
            status = by_seals(path).status
            if index < last:
                assert status == "altered", f"byte {index}"
            else:
                assert (status == "ok") == (index in free), f"byte {index}"


def test_what_no_seal_covers_is_told_and_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    crashed(path)
    data = path.read_bytes()
    sealed = bounds(data)[2]
    verdict = by_seals(path)
    assert (verdict.status, verdict.records, verdict.sealed_bytes) == ("truncated", 1, sealed)
    unknown = f"no seal covers the last {len(data) - sealed} bytes"
    assert verdict.detail == f"ends at {len(data)} bytes without a last seal; {unknown}"
    forged = bytearray(data)
    forged[-TAG - 1] ^= 1
    path.write_bytes(forged)
    assert by_seals(path) == verdict, "as it says, nothing is known of them"
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert by_seals(path).detail == f"still being written; {unknown}"
    path.write_bytes(data[:sealed])
    assert by_seals(path).detail == f"ends at {sealed} bytes without a last seal"
    path.write_bytes(data[: sealed - 1])
    assert by_seals(path).records == 0
    assert by_seals(path).sealed_bytes == 0
    path.write_bytes(b"")
    assert by_seals(path).detail == "ends inside a write at 0 bytes without a last seal"


def test_seals_alone_know_foreign_blocks_and_strangers(tmp_path: Path) -> None:
    path, other = tmp_path / "s1.gwt", tmp_path / "s2.gwt"
    ended(path)
    ended(other)
    stranger = Ed25519PrivateKey.generate().public_key()
    assert verify(path, stranger, None).status == "altered"
    assert by_seals(path, "00" * 32).status == "altered"
    assert by_seals(other.rename(path)).status == "altered"


@pytest.mark.parametrize("judge", [judged, by_seals])
def test_nothing_hides_behind_a_seal(tmp_path: Path, judge: Callable) -> None:
    """A reader would show it, and no signature covers it."""
    path = tmp_path / "s1.gwt"
    ended(path)
    data = path.read_bytes()
    last = bounds(data)[-2]
    seal = data[last + HEADER_BYTES : -TAG]
    hidden = seal + record_head(NOTE, 0, 2) + b"{}"
    path.write_bytes(data[:last] + framed(hidden, data[-TAG:]))
    assert judge(path).status == "altered"


def test_what_follows_the_last_seal_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    ended(path)
    with path.open("ab") as file:
        file.write(b"\0")
    assert judged(path).status == "altered"


def test_a_file_that_is_being_written_is_open(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    crashed(path)
    with path.open("ab") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert judged(path).status == "open"
        path.write_bytes(path.read_bytes()[:-1])
        assert judged(path).status == "open"
        data = bytearray(path.read_bytes())
        data[bounds(bytes(data))[1] + HEADER_BYTES] ^= 1
        path.write_bytes(data)
        assert judged(path).status == "altered"


def test_the_verdict_counts(tmp_path: Path) -> None:
    path = tmp_path / "s1.gwt"
    crashed(path)
    data = path.read_bytes()
    verdict = judged(path)
    assert verdict.records == 4  # the header and three statements
    assert verdict.sealed_bytes == bounds(data)[2]
    assert verdict.detail == f"ends at {len(data)} bytes without a last seal"
    path.write_bytes(data[: -TAG - 1])
    assert judged(path).records == 3
