"""One SSH session, from the moment both legs are logged in to its end.

Ties the relay to the transcript and to both legs, keeps the time limits, and ends the
session in the protocol's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.contracts import SessionLog
from gateway.errors import NotRecorded, ProtocolViolation
from gateway.model import End, EndReason, Terms
from gateway.ssh import messages as m
from gateway.ssh import words
from gateway.ssh.legs import BY_APPLICATION, Leg
from gateway.ssh.notes import Notes
from gateway.ssh.relay import CLIENT, TARGET, Relay

_WHO = ("client", "target")
Batch = tuple[list[bytes], list[bytes]]

_BUSY = frozenset({m.CHANNEL_OPEN, m.CHANNEL_DATA, m.CHANNEL_EXTENDED_DATA})
"""What tells that a session is not idle: more than keep-alives, and the answers to them."""


class Splice:
    """A running session: a :class:`gateway.contracts.Running`, and its legs' junction.

    What came in one go is recorded with one write, and only then sent on.
    """

    def __init__(
        self,
        session_id: str,
        log: SessionLog,
        terms: Terms,
        legs: tuple[Leg, Leg],
        done: Callable[[End], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session_id = session_id
        self._log = log
        self._terms = terms
        self._legs = legs
        self._done = done
        notes = Notes(log.add, typed=terms.ssh.record_input)
        self._relay = Relay(terms.ssh, notes, self._collect)
        self._out: Batch = ([], [])  # to the client, to the target; not yet recorded
        self._held: Batch | None = None  # recorded, and not yet durable
        self._carried = [0, 0]
        self._end: End | None = None
        self._touched = False
        self._began = self._active = self._loop.time()

    def begin(self) -> None:
        for leg in self._legs:
            leg.join(self)

    def standing(self) -> tuple[str | None, str]:
        return None, "what runs in a shell cannot be taken elsewhere"

    def counters(self) -> tuple[int, int, int]:
        return self._relay.requests, self._carried[CLIENT], self._carried[TARGET]

    # -- what the legs bring

    def received(self, leg: Leg, payload: bytes) -> None:
        if self._end is not None:
            return
        side = CLIENT if leg is self._legs[CLIENT] else TARGET
        self._carried[side] += len(payload)
        self._touched |= payload[0] in _BUSY or (payload[0] == m.CHANNEL_REQUEST and side == CLIENT)
        try:
            self._relay.receive(side, payload)
        except NotRecorded as unwritable:
            self.end(End(EndReason.NOT_RECORDED, unwritable.detail))
        except ProtocolViolation as violation:
            self._blame(side, violation)

    def _blame(self, side: int, violation: ProtocolViolation) -> None:
        self.end(End(EndReason.PROTOCOL, f"{_WHO[side]}: {violation.detail}"))

    def _collect(self, side: int, payload: bytes) -> None:
        self._out[side].append(payload)

    def flush(self) -> None:
        if self._end is not None or self._held is not None or not any(self._out):
            return
        batch, self._out = self._out, ([], [])
        try:
            durable = self._log.commit(self._release)
        except NotRecorded as unwritable:
            self.end(End(EndReason.NOT_RECORDED, unwritable.detail))
            return
        if durable:
            self._send(batch)
        else:
            self._held = batch
            self._hold(True)

    def _release(self) -> None:
        """What was held has become durable."""
        batch, self._held = self._held, None
        if batch is None or self._end is not None:
            return
        self._send(batch)
        self._hold(False)
        self.flush()

    def _send(self, batch: Batch) -> None:
        for leg, payloads in zip(self._legs, batch, strict=True):
            if payloads:
                leg.transmit(payloads)

    def _hold(self, yes: bool) -> None:
        for leg in self._legs:
            leg.hold("not yet on the disk", yes)

    def congested(self, leg: Leg, full: bool) -> None:
        other = self._legs[TARGET if leg is self._legs[CLIENT] else CLIENT]
        other.hold("its peer does not keep up", full)

    def lost(self, leg: Leg, error: Exception | None) -> None:
        if isinstance(error, ProtocolViolation):
            self._blame(self._legs.index(leg), error)
        elif leg is self._legs[CLIENT]:
            self.end(End(EndReason.CLIENT))
        else:
            self.end(End(EndReason.TARGET, "" if error is None else str(error)))

    # -- how it ends

    def tick(self, now: float) -> None:
        """Hold the time limits; *now* is the event loop's time."""
        if self._touched:
            self._touched = False
            self._active = now
        end = self._terms.overrun(now - self._began, now - self._active)
        if end is not None:
            self.end(end)

    def end(self, end: End) -> None:
        """Tell the client why, and close both legs. Idempotent."""
        if self._end is not None:
            return
        self._end = end
        self._legs[CLIENT].part(BY_APPLICATION, words.ended(end, self._session_id))
        self._legs[TARGET].part(BY_APPLICATION, "")
        self._loop.call_soon(self._finish)

    def leave(self, why: str) -> None:
        """Stay: what runs in a shell cannot be taken elsewhere."""

    def _finish(self) -> None:
        """Later than what called :meth:`end`: the relay may be in the middle of a message."""
        assert self._end is not None
        end = self._end
        try:
            self._relay.close()
        except NotRecorded as unwritable:
            end = End(EndReason.NOT_RECORDED, unwritable.detail)
        self._done(end)
