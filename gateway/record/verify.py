"""Judges a transcript: is it all there, and is it what was written?"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Literal, TypeGuard

from attrs import evolve, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.record.facts import Event, facts
from gateway.record.format import (
    HEADER,
    MAGIC,
    SEAL,
    Batch,
    BatchReader,
    Damaged,
    Record,
    Seal,
    Tags,
    statement,
)
from gateway.record.reader import batches, locked

MAX_NAME = 255  # characters: no file system has longer names

Status = Literal["ok", "open", "truncated", "altered"]


@frozen
class Verdict:
    """``records``: how many hold; ``sealed_bytes``: how much of the file seals cover.

    ``header``: what its first record says of it, true or not.
    """

    status: Status
    detail: str
    records: int
    sealed_bytes: int
    header: Event


def verify(
    path: Path,
    public_key: Ed25519PublicKey,
    mac_secret: bytes | None,
    expected_digest: str | None = None,
) -> Verdict:
    """Check every tag and every seal of a transcript; its name says which session it is.

    :param mac_secret: of the tags; None: only what seals cover is known, and nothing of the rest
    :param expected_digest: hex, what the session index knows of an ended session's
    :raises OSError: it cannot be read
    """
    called = path.stem.encode(errors="replace").decode()
    verdict = _judged(path, called, public_key, mac_secret, expected_digest)
    meant = verdict.header.get("id")
    if verdict.status != "altered" or meant == called or not _is_name(meant):
        return verdict
    if _judged(path, meant, public_key, mac_secret, None).status == "altered":
        return verdict
    detail = f"the file is called {path.name}, and the transcript in it is of {meant}"
    return evolve(verdict, detail=detail)


def _is_name(meant: object) -> TypeGuard[str]:
    return isinstance(meant, str) and meant.isascii() and 0 < len(meant) <= MAX_NAME


def _judged(
    path: Path,
    session_id: str,
    public_key: Ed25519PublicKey,
    mac_secret: bytes | None,
    expected_digest: str | None,
) -> Verdict:
    tags = None if mac_secret is None else Tags(mac_secret, session_id)
    judge = _Judge(session_id, public_key, tags)
    reader = BatchReader()
    with path.open("rb") as file:
        live = locked(file)  # asked first: it may be whole by the time it has been read
        try:
            for batch in batches(file, reader):
                judge.take(batch)
        except Damaged as damage:
            return judge.verdict("altered", str(damage))
    if not judge.last:
        if expected_digest:
            return judge.verdict("altered", "the session has ended, its transcript has not")
        return _unfinished(judge, reader, live)
    if reader.torn:
        return judge.verdict("altered", "something follows the last seal")
    if expected_digest and not hmac.compare_digest(judge.digest.hex(), expected_digest):
        return judge.verdict("altered", "not the transcript that the session index knows")
    return judge.verdict("ok", "")


def _unfinished(judge: _Judge, reader: BatchReader, live: bool) -> Verdict:
    unknown = judge.unknown(reader.offset)
    if live:
        return judge.verdict("open", f"still being written{unknown}")
    torn = " inside a write" if reader.torn else ""
    detail = f"ends{torn} at {reader.offset} bytes without a last seal{unknown}"
    return judge.verdict("truncated", detail)


class _Judge:
    """Follows tags, if it can, and seals from batch to batch."""

    def __init__(self, session_id: str, public_key: Ed25519PublicKey, tags: Tags | None) -> None:
        self.last = False
        self.digest = b""
        self._header: Event | None = None  # not read yet
        self._session_id = session_id
        self._public_key = public_key
        self._tags = tags
        self._hash = hashlib.sha256(MAGIC)
        self._seals = 0
        self._records = 0
        self._sealed_records = 0
        self._sealed = 0  # bytes

    def take(self, batch: Batch) -> None:
        """:raises Damaged: it was not written here, by us, for this session"""
        if self._header is None:
            self._header = _header(batch)
        if self.last:
            raise Damaged("something follows the last seal")
        if self._tags and not hmac.compare_digest(self._tags.next(batch.body), batch.tag):
            raise Damaged(f"the batch at {batch.offset} is not what was written")
        records = list(batch.records())
        if any(record.kind == SEAL for record in records):
            self._seal(records, batch.offset)
            self._sealed = batch.offset + len(batch.raw)
            self._sealed_records = self._records
        else:
            self._records += len(records)
        self._hash.update(batch.raw)

    def _seal(self, records: list[Record], offset: int) -> None:
        if len(records) > 1:
            raise Damaged(f"the seal at {offset} does not stand alone")
        seal = Seal.parse(records[0].payload)
        if seal.number != self._seals:
            raise Damaged(f"the seal at {offset} is not the next one")
        self.digest = self._hash.digest()
        facts = statement(self._session_id, self._seals, offset, self.digest, seal.last)
        try:
            self._public_key.verify(seal.signature, facts)
        except InvalidSignature:
            raise Damaged(f"the seal at {offset} is not ours") from None
        self._hash = hashlib.sha256(self.digest)
        self._seals += 1
        self.last = seal.last

    def unknown(self, length: int) -> str:
        """What cannot be known of a file of *length* bytes, to end a sentence with."""
        tail = length - max(self._sealed, len(MAGIC))
        return "" if self._tags or tail <= 0 else f"; no seal covers the last {tail} bytes"

    def verdict(self, status: Status, detail: str) -> Verdict:
        records = self._records if self._tags else self._sealed_records
        return Verdict(status, detail, records, self._sealed, self._header or {})


def _header(batch: Batch) -> Event:
    first = next(batch.records(), None)
    return facts(first.payload) if first is not None and first.kind == HEADER else {}
