"""Messages of the SSH connection protocol, as bytes and back (RFC 4254). Sans-IO.

A payload is a whole message: its type byte, then its fields.
"""

from __future__ import annotations

import struct

from gateway.errors import ProtocolViolation

GLOBAL_REQUEST = 80
REQUEST_SUCCESS = 81
REQUEST_FAILURE = 82
CHANNEL_OPEN = 90
CHANNEL_OPEN_CONFIRMATION = 91
CHANNEL_OPEN_FAILURE = 92
CHANNEL_WINDOW_ADJUST = 93
CHANNEL_DATA = 94
CHANNEL_EXTENDED_DATA = 95
CHANNEL_EOF = 96
CHANNEL_CLOSE = 97
CHANNEL_REQUEST = 98
CHANNEL_SUCCESS = 99
CHANNEL_FAILURE = 100

PROHIBITED = 1  # reasons of CHANNEL_OPEN_FAILURE (RFC 4254, 5.1)
RESOURCE_SHORTAGE = 4

_uint32 = struct.Struct(">I")
_unpack = _uint32.unpack_from
uint32 = _uint32.pack


class Reader:
    """Takes fields off a payload, from behind its type byte.

    Every method raises ProtocolViolation where the payload ends too early.
    """

    __slots__ = ("_payload", "_pos")

    def __init__(self, payload: bytes, pos: int = 1) -> None:
        self._payload = payload
        self._pos = pos

    def uint32(self) -> int:
        pos, self._pos = self._pos, self._pos + 4
        if self._pos > len(self._payload):
            raise _short()
        value: int = _unpack(self._payload, pos)[0]
        return value

    def boolean(self) -> bool:
        pos, self._pos = self._pos, self._pos + 1
        if self._pos > len(self._payload):
            raise _short()
        return self._payload[pos] != 0

    def string(self) -> bytes:
        length = self.uint32()
        pos, self._pos = self._pos, self._pos + length
        if self._pos > len(self._payload):
            raise _short()
        return self._payload[pos : self._pos]

    def rest(self) -> bytes:
        return self._payload[self._pos :]


def recipient(payload: bytes) -> int:
    """The channel that a channel message is for."""
    if len(payload) < 5:
        raise _short()
    number: int = _unpack(payload, 1)[0]
    return number


def body(payload: bytes, pos: int) -> bytes:
    """The one string that stands at *pos* and ends the payload.

    :raises ProtocolViolation: its length is another one: peers would read different things
    """
    start = pos + 4
    if len(payload) < start or _unpack(payload, pos)[0] != len(payload) - start:
        raise ProtocolViolation("malformed message: data of another length than it says")
    return payload[start:]


def string(data: bytes) -> bytes:
    return uint32(len(data)) + data


def open_failure(recipient: int, reason: int, words: str) -> bytes:
    head = bytes((CHANNEL_OPEN_FAILURE,)) + uint32(recipient) + uint32(reason)
    return head + string(words.encode()) + string(b"")


def channel_failure(recipient: int) -> bytes:
    return bytes((CHANNEL_FAILURE,)) + uint32(recipient)


def _short() -> ProtocolViolation:
    return ProtocolViolation("malformed message: it ends too early")
