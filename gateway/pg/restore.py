"""Makes a fresh log-in at a target the same session as another one was.

It has to be one of the same data. Settings are made again in the words that made them, and
what is reported differently all the same is set; under these settings statements are prepared,
whose literals they may decide. What comes out differently is not this session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from gateway.errors import ProtocolViolation, Refused
from gateway.pg import frames
from gateway.pg.dial import Upstream
from gateway.pg.frames import Frame, FrameReader, Kind, Limits
from gateway.pg.state import Restoration
from gateway.pg.target_login import ROW, SYSTEM, single_value

# What no session may change, and no restoration either: another server, or another user.
_FIXED = frozenset(
    {"server_encoding", "integer_datetimes", "is_superuser", "session_authorization"}
)
_OF_THE_SERVER = frozenset({"in_hot_standby", "server_version"})  # the client is told of changes

_UPTIME = (
    "SELECT pg_catalog.extract('epoch', pg_catalog.now()"
    " OPERATOR(pg_catalog.-) pg_catalog.pg_postmaster_start_time())"
)
_ANSWERS = Limits(
    MappingProxyType(
        {
            ord("1"): 0,  # ParseComplete
            ord("C"): 256,  # a tag
            ROW: 70_000,  # what set_config() has set: a parameter, and its framing
            ord("T"): 1024,  # one column of it
            ord("A"): 16_384,  # notifications are at most 8,000 bytes
            Kind.ERROR: 30_000,  # libpq's MAX_ERRLEN
            Kind.NOTICE: 30_000,  # as errors
            Kind.PARAMETER_STATUS: 65_536,  # as at log-in
            Kind.READY: 1,  # the transaction state
        }
    ),
    frames=100_000,  # a few for each of the things kept, of which there are ten thousand at most
    octets=8 << 20,  # bytes; eight times what is kept of a session
)


class Unrestored(Refused):
    """The target works, and would not be the same to the client."""


@frozen
class Arrival:
    """A session at its new target. ``rest``: what that has said beyond."""

    upstream: Upstream
    reported: Mapping[str, str]
    rest: bytes = field(repr=False)


async def restore(upstream: Upstream, wanted: Restoration, system: str) -> Arrival:
    """:param system: whose data it is to be
    :raises Unrestored: the target refused something, or is different
    :raises ProtocolViolation, Gone: it broke the protocol, or off
    """
    talk = _Talk(upstream)
    await talk.ask(frames.query(SYSTEM), 1)
    if not system or talk.value != system:
        raise Unrestored(f"holds other data: its system identifier is {talk.value}, not {system}")
    queries = [_query(text) for text in (*wanted.settings, *wanted.channels)]
    await talk.ask(b"".join(queries), len(queries))
    amends = list(_amends(wanted.reported, talk.reported))
    parses = [each for each in wanted.statements if each[0] != Kind.QUERY]
    queries = [*amends, *(each for each in wanted.statements if each[0] == Kind.QUERY)]
    if parses:
        parses.append(frames.message(ord("S")))  # Sync
    await talk.ask(b"".join((*queries, *parses)), len(queries) + bool(parses))
    judge(wanted.reported, talk.reported)
    return Arrival(upstream, talk.reported, talk.rest())


async def uptime(upstream: Upstream) -> float:
    """Seconds since the target's server was started, by its own clock.

    :raises Unrestored, ProtocolViolation, Gone: it does not tell
    """
    talk = _Talk(upstream)
    await talk.ask(frames.query(_UPTIME), 1)
    try:
        return float(talk.value or "")
    except ValueError:
        raise ProtocolViolation("malformed uptime") from None


def judge(wanted: Mapping[str, str], reported: Mapping[str, str]) -> None:
    """:raises Unrestored: a reported setting is not what the client was told"""
    for name, value in wanted.items():
        now = reported.get(name, value)  # older servers report fewer
        if name == "server_version":
            value, now = (version.partition(".")[0] for version in (value, now))
        if now != value and name != "in_hot_standby":
            raise Unrestored(f"{name} is {now!a}, not {value!a}")


def news(told: Mapping[str, str], reported: Mapping[str, str]) -> bytes:
    """ParameterStatus messages for what a client would notice, as a server sends them."""
    changed = (pair for pair in reported.items() if told.get(pair[0]) != pair[1])
    return b"".join(frames.parameter_status(*pair) for pair in changed)


def _amends(wanted: Mapping[str, str], reported: Mapping[str, str]) -> Iterable[bytes]:
    """For settings that were changed out of sight, or have another default here."""
    for name, value in wanted.items():
        if name not in _FIXED | _OF_THE_SERVER and reported.get(name, value) != value:
            pair = f"{_quoted(name)}, {_quoted(value)}"
            yield frames.query(f"SELECT pg_catalog.set_config({pair}, false)")


def _quoted(text: str) -> str:
    """Means the same with standard_conforming_strings on and off."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _query(text: bytes) -> bytes:
    return frames.message(Kind.QUERY, text + b"\0")


@define(eq=False)
class _Talk:
    _upstream: Upstream
    reported: dict[str, str] = field(init=False)
    value: str | None = field(init=False, default=None)  # of the last row
    _reader: FrameReader = field(init=False, factory=lambda: FrameReader(_ANSWERS))

    def __attrs_post_init__(self) -> None:
        self.reported = dict(self._upstream.parameters)
        self._reader.feed(self._upstream.rest)

    async def ask(self, messages: bytes, count: int) -> None:
        """Send *messages*, and read on until *count* of them have been answered."""
        await self._upstream.wire.send(messages)
        while count:
            frame = await self._frame()
            if frame.kind == Kind.ERROR:
                raise Unrestored(f"restoring the session: {frames.parse_error(frame.body)}")
            if frame.kind == Kind.PARAMETER_STATUS:
                name, value = frames.parse_parameter_status(frame.body)
                self.reported[name] = value
            elif frame.kind == ROW:
                self.value = single_value(frame.body)
            elif frame.kind == Kind.READY:
                count -= 1
                if frames.parse_ready_for_query(frame.body) != b"I":
                    raise ProtocolViolation("the target began a transaction by itself")

    async def _frame(self) -> Frame:
        while (frame := self._reader.next()) is None:
            self._reader.feed(await self._upstream.wire.receive())
        return frame

    def rest(self) -> bytes:
        return self._reader.rest()
