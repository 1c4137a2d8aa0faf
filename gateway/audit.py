"""The audit log: what happened to the gateway, in the transcripts' own format.

One file a run of the daemon, ``ROOT/START-RANDOM.gwt``, of NOTE records.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import NotRecorded
from gateway.record.format import NOTE, SUFFIX
from gateway.record.log import FileLog, Keys, to_json
from gateway.record.reader import records


class FileAudit:
    """A :class:`gateway.contracts.Audit`. Each write has reached the operating system.

    :raises NotRecorded: it cannot be written at all
    """

    def __init__(self, root: Path, signing_key: Ed25519PrivateKey, mac_secret: bytes) -> None:
        self._root = root
        self._keys = Keys(signing_key, mac_secret)
        self._file = self._begin()

    def write(self, event: str, **facts: Any) -> str:
        """Record *event* at once; returns the id that a person may quote.

        :raises NotRecorded: it is not written; a later one may be, in a file of its own
        """
        if self._file.failed is not None:
            self._file.abandon()
            self._file = self._begin()
        quote = _quote()
        entry = {"kind": "audit", "id": quote, "at": _stamp(), "event": event}
        self._file.add(NOTE, to_json({**entry, **facts, **entry}))
        self._file.flush()
        return quote

    def tick(self) -> None:
        """Each second: seal what was written."""
        with suppress(NotRecorded):  # the next write starts a new file, or raises
            if self._file.failed is None:
                self._file.tick()

    def close(self) -> None:
        with suppress(NotRecorded):  # nothing is lost: each entry was written when it came
            if self._file.failed is None:
                self._file.last_seal()
        self._file.abandon()

    def _begin(self) -> FileLog:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"
        header = {"kind": "audit", "id": name, "started": _stamp()}
        return FileLog(self._root / f"{name}{SUFFIX}", self._keys, header)


def read(root: Path) -> Iterator[dict[str, Any]]:
    """The entries of all runs, oldest first, as they were written.

    :raises Damaged: a file is no audit log (any more)
    """
    for path in sorted(root.glob(f"*{SUFFIX}")):
        for record in records(path):
            if record.kind == NOTE:
                yield json.loads(record.payload)


def _quote() -> str:
    """Eight letters and digits without 0, 1, 8 and 9 (RFC 4648 base 32): 40 random bits."""
    return base64.b32encode(secrets.token_bytes(5)).decode().lower()


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
