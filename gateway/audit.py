"""The audit log: what happened to the gateway, in the transcripts' own format.

A file for each day (UTC) and run of the daemon, ``ROOT/START-RANDOM.gwt``, of NOTE records.
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.contracts import Clock
from gateway.errors import NotRecorded
from gateway.record.facts import facts
from gateway.record.format import NOTE, SUFFIX
from gateway.record.log import FileLog, Keys, to_json
from gateway.record.reader import records
from gateway.record.writer import expired


class FileAudit:
    """A :class:`gateway.contracts.Audit`. Each write has reached the operating system.

    :raises NotRecorded: it cannot be written at all
    """

    def __init__(
        self,
        root: Path,
        signing_key: Ed25519PrivateKey,
        mac_secret: bytes,
        clock: Clock = time.time,
    ) -> None:
        self._root = root
        self._keys = Keys(signing_key, mac_secret)
        self._clock = clock
        self._file = self._begin()

    @property
    def path(self) -> Path:
        """The file that is written now."""
        return self._root / f"{self._file.id}{SUFFIX}"

    def write(self, event: str, **facts: Any) -> str:
        """Record *event* at once; returns the id that a person may quote.

        :raises NotRecorded: it is not written; a later one may be, in a file of its own
        """
        if self._file.failed is not None:
            self._file.abandon()
            self._file = self._begin()
        quote = _quote()
        entry = {"kind": "audit", "id": quote, "at": stamp(self._clock()), "event": event}
        self._file.add(NOTE, to_json({**entry, **facts, **entry}))
        self._file.flush()
        return quote

    def tick(self) -> None:
        """Each second: seal what was written; at midnight begin the next day's file."""
        with suppress(NotRecorded):  # the next write starts a new file, or raises
            if self._file.failed is None:
                self._file.tick()
                if self._file.id < f"{self._now():%Y%m%d}":
                    self._turn()

    def close(self) -> None:
        _finish(self._file)

    def _turn(self) -> None:
        """The old file goes on where no new one can be begun."""
        old, self._file = self._file, self._begin()
        _finish(old)

    def _begin(self) -> FileLog:
        now = self._now()
        name = f"{now:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"
        header = {"kind": "audit", "id": name, "started": stamp(now.timestamp())}
        return FileLog(self._root / f"{name}{SUFFIX}", self._keys, header)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _finish(file: FileLog) -> None:
    with suppress(NotRecorded):  # nothing is lost: each entry was written when it came
        if file.failed is None:
            file.last_seal()
    file.abandon()


def leave(
    root: Path,
    signing_key: Ed25519PrivateKey,
    mac_secret: bytes,
    event: str,
    *entries: Mapping[str, Any],
) -> None:
    """Entries of a process that is not the daemon: in a file of their own, left to the daemon.

    :raises NotRecorded: they cannot be written
    """
    audit = FileAudit(root, signing_key, mac_secret)
    try:
        for entry in entries:
            audit.write(event, **entry)
        if os.geteuid() == 0:
            owner = root.stat()
            os.chown(audit.path, owner.st_uid, owner.st_gid)
    finally:
        audit.close()


def read(root: Path) -> Iterator[dict[str, Any]]:
    """The entries of all files, in the order in which those were begun.

    :raises Damaged: a file is no audit log (any more)
    """
    for path in sorted(root.glob(f"*{SUFFIX}")):
        yield from entries(path)


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of one file, oldest first, as they were written.

    :raises Damaged: as :func:`read`
    """
    return (facts(record.payload) for record in records(path) if record.kind == NOTE)


def purge(root: Path, before: date) -> int:
    """Remove the files that were last written before *before*; how many there were."""
    return sum(expired(path, before) for path in root.glob(f"*{SUFFIX}"))


def stamp(seconds: float) -> str:
    """As entries have it: in UTC, so that they sort by time as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _quote() -> str:
    """Eight letters and digits without 0, 1, 8 and 9 (RFC 4648 base 32): 40 random bits."""
    return base64.b32encode(secrets.token_bytes(5)).decode().lower()
