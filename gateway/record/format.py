"""The transcript file, version 1. Sans-IO; integers are big-endian.

::

    file   = magic "GWTRANS", version u8; batch*
    batch  = length u32, length ^ 0xFFFFFFFF u32; body (length bytes); tag (16 bytes)
    body   = record+
    record = kind u8, at u64 (ns since the session began), length u32, payload

A batch is what one write put there. Its tag is a BLAKE2b-128 keyed for this one session,
over the previous tag and the body; the tag before the first is that of the magic. So a
torn last write is told from a flipped byte: a file that ends inside a header, or inside a
batch whose header checks, is *truncated*; a header that does not check and a whole batch
with a wrong tag are *altered*.

A SEAL is a batch of its own: an Ed25519 signature over session id, seal number, offset of
the seal, whether it is the last, and a SHA-256 that chains all the bytes before it. Tags
cover what no seal covers yet; seals convince those who must not hold the tags' key.

Payloads by kind:

HEADER  JSON object: ``format``, and what is known when the session begins
NOTE    JSON object with ``kind``: something the gateway did or saw
CLIENT  whole PostgreSQL frames as the client sent them (type, int32 length, body), all
        but CopyData
TARGET  whole frames of the target, of the types ``1 2 3 C E I s S Z G H W c V t``
ROWS    u64 DataRow messages since the last CommandComplete; stands before a TARGET that
        begins with PortalSuspended or ErrorResponse
COPIED  direction u8 (0 client to target, 1 back), CopyData messages u64, bytes u64; when
        a COPY ends
CUT     a frame beyond the capture cap: direction u8, type u8, length of its body u64,
        SHA-256 of its body (32 bytes), and the first bytes of its body
OUTPUT  SSH: channel u32, stream u8 (0 stdout, 1 stderr), what the target printed
INPUT   SSH: channel u32, what was typed at a terminal
END     JSON object: ``reason detail statements bytes_in bytes_out``
SEAL    number u32, last u8, signature (64 bytes)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from struct import Struct

from attrs import frozen

from gateway.errors import GatewayError

MAGIC = b"GWTRANS\x01"
FORMAT = 1
SUFFIX = ".gwt"

HEADER, NOTE, CLIENT, TARGET, ROWS, COPIED, CUT, END, SEAL, OUTPUT, INPUT = range(1, 12)

TAG = 16  # bytes: 128 bits, as every AEAD tag
MAX_BATCH = 16 << 20  # 16 MiB: writers flush at 256 KiB, one captured frame is about 1 MiB

COPIED_FACTS = Struct(">BQQ")  # the payload of COPIED
CUT_FACTS = Struct(">BBQ32s")  # what stands before a frame's first bytes in CUT

_header = Struct(">II")
_record = Struct(">BQI")
_seal = Struct(">IB64s")
_statement = Struct(">IQB32s")

HEADER_BYTES = _header.size
RECORD_BYTES = _record.size
record_head = _record.pack
"""Kind, nanoseconds, length of the payload that follows."""


class Damaged(GatewayError):
    """Bytes that no writer of this format wrote, torn write or not."""


@frozen
class Record:
    """``at`` is nanoseconds since the session began."""

    kind: int
    at: int
    payload: bytes


@frozen
class Batch:
    """One write; ``offset`` is where it stands in the file."""

    offset: int
    body: bytes
    tag: bytes

    @property
    def raw(self) -> bytes:
        return framed(self.body, self.tag)

    def records(self) -> Iterator[Record]:
        """:raises Damaged: the body is not made of records"""
        body, pos = self.body, 0
        while pos < len(body):
            if len(body) - pos < RECORD_BYTES:
                raise Damaged(f"a torn record in the batch at {self.offset}")
            kind, at, length = _record.unpack_from(body, pos)
            pos += RECORD_BYTES + length
            if pos > len(body):
                raise Damaged(f"a torn record in the batch at {self.offset}")
            yield Record(kind, at, body[pos - length : pos])


def framed(body: bytes, tag: bytes) -> bytes:
    """A whole batch."""
    length = len(body)
    return _header.pack(length, length ^ 0xFFFFFFFF) + body + tag


class Tags:
    """The tags of one session's batches, each resting on all before it.

    :param secret: at most 64 bytes; each session gets a key of its own from it
    """

    __slots__ = ("_keyed", "_last")

    def __init__(self, secret: bytes, session_id: str) -> None:
        key = hashlib.blake2b(session_id.encode(), key=secret, person=b"gateway session!").digest()
        self._keyed = hashlib.blake2b(key=key, digest_size=TAG)
        self._last = b""
        self.next(MAGIC)

    def next(self, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(self._last + body)
        self._last = mac.digest()
        return self._last


@frozen
class Seal:
    """What a SEAL record says."""

    number: int
    last: bool
    signature: bytes

    def pack(self) -> bytes:
        return _seal.pack(self.number, self.last, self.signature)

    @classmethod
    def parse(cls, payload: bytes) -> Seal:
        """:raises Damaged: it is not one"""
        if len(payload) != _seal.size:
            raise Damaged("a seal of an impossible length")
        number, last, signature = _seal.unpack(payload)
        if last > 1:
            raise Damaged("a seal that is neither the last nor not")
        return cls(number, bool(last), signature)


def statement(session_id: str, number: int, offset: int, digest: bytes, last: bool) -> bytes:
    """What a seal signs; the words in front keep the key's other uses apart."""
    name = session_id.encode()
    facts = _statement.pack(number, offset, last, digest)
    return b"gateway transcript seal 1\0" + len(name).to_bytes(2, "big") + name + facts


class BatchReader:
    """Cuts a growing file into batches. Feed and drain in turns."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pos = 0  # of the next batch in the buffer
        self._offset = 0  # of the next batch in the file

    @property
    def offset(self) -> int:
        """Where the next batch begins."""
        return self._offset

    @property
    def torn(self) -> bool:
        """There are bytes that do not make up a batch yet, or not even the magic."""
        return self._pos < len(self._buffer) or not self._offset

    def feed(self, data: bytes) -> None:
        del self._buffer[: self._pos]
        self._pos = 0
        self._buffer += data

    def next(self) -> Batch | None:
        """The next whole batch, None if more is needed.

        :raises Damaged: no torn write explains these bytes
        """
        if not self._offset and not self._magic():
            return None
        buffer, pos = self._buffer, self._pos
        if len(buffer) - pos < HEADER_BYTES:
            return None
        length, inverse = _header.unpack_from(buffer, pos)
        if length ^ inverse != 0xFFFFFFFF or not 0 < length <= MAX_BATCH:
            raise Damaged(f"the batch at {self._offset} has no valid header")
        begin = pos + HEADER_BYTES
        end = begin + length + TAG
        if end > len(buffer):
            return None
        batch = Batch(
            self._offset, bytes(buffer[begin : end - TAG]), bytes(buffer[end - TAG : end])
        )
        self._offset += end - pos
        self._pos = end
        return batch

    def _magic(self) -> bool:
        head = bytes(self._buffer[: len(MAGIC)])
        if not MAGIC.startswith(head):
            raise Damaged("this is not a transcript of a version that is known here")
        if len(head) < len(MAGIC):
            return False
        self._pos = self._offset = len(MAGIC)
        return True
