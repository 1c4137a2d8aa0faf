"""One open transcript file. On the path of every statement: a commit is one write."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import private
from gateway.errors import NotRecorded
from gateway.model import End
from gateway.record.format import (
    END,
    FORMAT,
    HEADER,
    MAGIC,
    MAX_BATCH,
    RECORD_BYTES,
    SEAL,
    Seal,
    Tags,
    framed,
    record_head,
    statement,
)

HELD = 256 << 10  # bytes collected before they are written uncommitted: memory is bounded
SEAL_BYTES = 64 << 10  # unsealed bytes: a seal costs 60 µs, so under 1 ns a byte
SEAL_NS = 1_000_000_000  # a crash leaves at most about this much without a signature

_now = time.monotonic_ns


@frozen
class Keys:
    """What makes a transcript trustworthy: who signs, and the secret of the tags."""

    signing: Ed25519PrivateKey = field(repr=False)
    mac: bytes = field(repr=False)


class FileLog:
    """A file of records: exclusively ours, 0600, locked while it is open.

    Once a write has failed nothing more is taken: every later call raises.
    """

    __slots__ = (
        "_began",
        "_digest",
        "_due",
        "_fd",
        "_held",
        "_keys",
        "_last",
        "_parts",
        "_seals",
        "_tags",
        "_unsealed",
        "failed",
        "id",
        "length",
    )

    def __init__(self, path: Path, keys: Keys, header: Mapping[str, Any]) -> None:
        """
        :param path: must not exist; its stem is the session's id
        :raises NotRecorded: it cannot be written
        """
        self.id = path.stem
        self.failed: str | None = None
        self.length = 0
        self._keys = keys
        self._tags = Tags(keys.mac, self.id)
        self._digest = hashlib.sha256(MAGIC)
        self._parts: list[bytes] = []
        self._held = self._unsealed = self._seals = self._last = self._due = 0
        self._began = _now()
        try:
            self._fd = _create(path)
        except OSError as error:
            raise NotRecorded(f"{path}: {error.strerror}") from error
        try:
            self._put(MAGIC)
            self.add(HEADER, to_json({"format": FORMAT, **header}))
            self.flush()
        except NotRecorded:
            self.abandon()
            raise

    def add(self, kind: int, payload: bytes) -> None:
        """Collect one record.

        :raises NotRecorded: it cannot be kept
        """
        if self.failed is not None:
            raise NotRecorded(self.failed)
        self._last = at = _now() - self._began
        size = len(payload)
        self._parts += (record_head(kind, at, size), payload)
        self._held += size + RECORD_BYTES
        if self._held > HELD:
            self.flush()

    def flush(self) -> None:
        """Write what was collected, with one write.

        :raises NotRecorded: it was not written; the file ends where it did before
        """
        if self.failed is not None:
            raise NotRecorded(self.failed)
        if not self._held:
            return
        data = self._collected()
        if self._unsealed >= SEAL_BYTES or self._last >= self._due:
            data += self._seal(len(data))
        self._put(data)

    def tick(self) -> None:
        """Write leftovers, and seal what has waited long enough.

        :raises NotRecorded: as :meth:`flush`
        """
        self.flush()
        if self._unsealed and _now() - self._began >= self._due:
            self._put(self._seal(0))

    def finish(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        """Write the end and the last seal, in one write; the digest that was signed, in hex.

        :raises NotRecorded: it was not written
        """
        facts = {
            "reason": end.reason.value,
            "detail": end.detail,
            "statements": statements,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }
        self.add(END, to_json(facts))
        return self.last_seal()

    def last_seal(self) -> str:
        """Write what was collected, and that nothing follows; as :meth:`finish`."""
        data = self._collected() if self._held else b""
        digest = self._digest.hexdigest()
        self._put(data + self._seal(len(data), last=True))
        return digest

    def sync(self) -> None:
        """:raises OSError: the disk does not have it, or the file is closed"""
        fd = self._fd
        if fd < 0:  # os.fsync would raise a ValueError
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fsync(fd)

    def fail(self, why: str) -> None:
        """Take nothing more."""
        self.failed = why

    def abandon(self) -> None:
        """Close the file as it is; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self.failed = self.failed or "the transcript is closed"

    def _collected(self) -> bytes:
        body = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if len(body) > MAX_BATCH:
            self._refuse(f"a record of {len(body)} bytes")
        if not self._unsealed:
            self._due = self._last + SEAL_NS
        return self._batch(body)

    def _batch(self, body: bytes) -> bytes:
        data = framed(body, self._tags.next(body))
        self._digest.update(data)
        self._unsealed += len(data)
        return data

    def _seal(self, ahead: int, *, last: bool = False) -> bytes:
        """The seal over all so far, of which *ahead* bytes are not in the file yet."""
        digest = self._digest.digest()
        facts = statement(self.id, self._seals, self.length + ahead, digest, last)
        payload = Seal(self._seals, last, self._keys.signing.sign(facts)).pack()
        self._digest = hashlib.sha256(digest)
        self._seals += 1
        data = self._batch(record_head(SEAL, _now() - self._began, len(payload)) + payload)
        self._unsealed = 0
        return data

    def _put(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._refuse(error.strerror or str(error))
        if written != len(data):
            self._refuse("the device is full")
        self.length += written

    def _refuse(self, why: str) -> None:
        """What was half written goes again: it must not look like tampering."""
        self.failed = f"transcript {self.id}: {why}"
        try:
            os.ftruncate(self._fd, self.length)
        except OSError:
            self.failed += ", and the torn write could not be undone"
        raise NotRecorded(self.failed)


def to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode()


def _create(path: Path) -> int:
    private.make(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)  # nobody but a reader's short look can hold it
    return fd
