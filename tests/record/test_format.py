"""The file format as bytes: fixed by vectors, read however it is split."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record import format as fmt
from gateway.record.format import MAGIC, Batch, BatchReader, Damaged, Record, Seal, Tags, framed

BODY = bytes.fromhex("03 0000000000000001 00000002") + b"hi"
TAG = b"t" * 16
BATCH = bytes.fromhex("0000000f fffffff0") + BODY + TAG


def read(*chunks: bytes) -> list[Batch]:
    reader, found = BatchReader(), []
    for chunk in chunks:
        reader.feed(chunk)
        while (batch := reader.next()) is not None:
            found.append(batch)
    return found


def test_version_one_stays_as_it_is() -> None:
    assert MAGIC == b"GWTRANS\x01"
    assert framed(BODY, TAG) == BATCH
    assert fmt.record_head(3, 1, 2) + b"hi" == BODY
    assert Tags(b"k" * 32, "0123").next(b"body").hex() == "d4175a7e9909eea8ab342458a2ffcff0"
    said = fmt.statement("ab", 1, 2, b"d" * 32, True)
    assert said == (b"gateway transcript seal 1\0\0\2ab" + struct.pack(">IQB", 1, 2, 1) + b"d" * 32)


def test_batches_are_read_whole_and_byte_by_byte_and_with_a_tail() -> None:
    data = MAGIC + BATCH + BATCH
    expected = [Batch(8, BODY, TAG), Batch(8 + len(BATCH), BODY, TAG)]
    assert read(data) == expected
    assert read(*(data[i : i + 1] for i in range(len(data)))) == expected
    assert read(data + BATCH[:-1]) == expected
    assert list(expected[0].records()) == [Record(3, 1, b"hi")]
    assert expected[0].raw == BATCH


@pytest.mark.parametrize(
    "data",
    [
        b"GWTRANS\x02",
        b"x",
        MAGIC + bytes(8),
        MAGIC + bytes.fromhex("0000000f fffffff1"),
        MAGIC + bytes.fromhex("7fffffff 80000000"),  # checks, but nobody writes that much
    ],
)
def test_what_no_torn_write_explains_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        read(data)


@pytest.mark.parametrize("body", [BODY[:5], BODY[:-1], BODY + b"\1"])
def test_a_body_that_is_not_made_of_records_is_damaged(body: bytes) -> None:
    with pytest.raises(Damaged):
        list(Batch(0, body, TAG).records())


def test_each_session_has_tags_of_its_own() -> None:
    tags = [Tags(b"k" * 32, "a"), Tags(b"k" * 32, "b"), Tags(b"l" * 32, "a"), Tags(b"k" * 32, "a")]
    firsts = [tag.next(b"body") for tag in tags]
    assert len(set(firsts)) == 3
    assert tags[0].next(b"body") != firsts[0], "each rests on the one before"


def test_a_seal_is_read_back() -> None:
    seal = Seal(7, True, b"s" * 64)
    assert Seal.parse(seal.pack()) == seal
    with pytest.raises(Damaged):
        Seal.parse(seal.pack()[1:])


@given(st.lists(st.binary(max_size=100)))
def test_any_bytes_are_batches_damage_or_not_enough(chunks: list[bytes]) -> None:
    for head in (b"", MAGIC):
        try:
            for batch in read(head, *chunks):
                list(batch.records())
        except Damaged:
            continue
