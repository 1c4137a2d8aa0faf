"""Encoders of SFTP packets for the tests of several files."""

from __future__ import annotations

import struct


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def string(data: bytes) -> bytes:
    return u32(len(data)) + data


def packet(kind: int, body: bytes) -> bytes:
    return u32(len(body) + 1) + bytes([kind]) + body


def attrs(
    size: int | None = None,
    ids: tuple[int, int] | None = None,
    permissions: int | None = None,
    times: tuple[int, int] | None = None,
) -> bytes:
    parts = (
        None if size is None else u64(size),
        None if ids is None else u32(ids[0]) + u32(ids[1]),
        None if permissions is None else u32(permissions),
        None if times is None else u32(times[0]) + u32(times[1]),
    )
    bits = sum(1 << bit for bit, part in enumerate(parts) if part is not None)
    return u32(bits) + b"".join(filter(None, parts))
