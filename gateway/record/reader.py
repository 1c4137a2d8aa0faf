"""Reads transcripts, whole ones and those still being written."""

from __future__ import annotations

import asyncio
import fcntl
import glob
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from gateway.errors import GatewayError
from gateway.record.format import END, SEAL, SUFFIX, Batch, BatchReader, Record

CHUNK = 256 << 10  # bytes a read
POLL = 0.1  # seconds between looks at a growing file


def records(path: Path) -> Iterator[Record]:
    """What has been written so far, sealed or not; a torn end is left out.

    :raises Damaged: it is no transcript, or its frame was tampered with (only
        :func:`gateway.record.verify.verify` tells whether its contents were)
    """
    with path.open("rb") as file:
        for batch in batches(file, BatchReader()):
            yield from _told(batch)


async def follow(path: Path) -> AsyncIterator[Record]:
    """What has been written, and what comes, until the session ends or its writer died.

    :raises Damaged: as :func:`records`
    """
    reader = BatchReader()
    with path.open("rb") as file:
        while True:
            live = locked(file)  # asked first: what came before it went is read below
            for batch in batches(file, reader):
                for record in _told(batch):
                    yield record
                    if record.kind == END:
                        return
            if not live:
                return
            await asyncio.sleep(POLL)


def batches(file: BinaryIO, reader: BatchReader) -> Iterator[Batch]:
    """All whole batches from where *file* stands to its present end."""
    while data := file.read(CHUNK):
        reader.feed(data)
        while (batch := reader.next()) is not None:
            yield batch


def locked(file: BinaryIO) -> bool:
    """Somebody is still writing it."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def find(root: Path, prefix: str) -> Path:
    """The one transcript under *root* whose session id begins with *prefix*.

    :raises GatewayError: there is none, or more than one
    """
    if not prefix or "/" in prefix or "\0" in prefix:
        raise GatewayError(f"{prefix!r} is not a session id")
    found = sorted(root.glob(f"*/*/*/{glob.escape(prefix)}*{SUFFIX}"))
    whole = [path for path in found if path.stem == prefix]
    if len(whole or found) == 1:
        return (whole or found)[0]
    if not found:
        raise GatewayError(f"there is no transcript {prefix}")
    raise GatewayError(f"{len(found)} sessions begin with {prefix}: write more of the id")


def newest(root: Path) -> list[Path]:
    """All transcripts under *root*, those first that were written last."""
    return sorted(root.glob(f"*/*/*/*{SUFFIX}"), key=_written, reverse=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its days were over just now
        return 0.0


def _told(batch: Batch) -> Iterator[Record]:
    """Seals are the format's own affair."""
    return (record for record in batch.records() if record.kind != SEAL)
