"""What it costs to keep track of sessions' state, of all that a transaction costs."""

from __future__ import annotations

import time

from gateway.pg import frames
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.scan import table
from gateway.pg.state import SessionState
from tests.bench.measure import Table, costing
from tests.bench.peers import Door

TURNS = 50_000
SQL = b"SELECT abalance FROM pgbench_accounts WHERE aid = "


def _frame(kind: str, body: bytes = b"") -> bytes:
    return frames.message(ord(kind), body)


_RUN = _frame("D", b"P\0") + _frame("E", b"\0" * 5) + _frame("S")
_VALUE = b"\0\0\0\1\0\0\0\x0512345\0\0"
_ROW = _frame("T", b"\0\1abalance\0" + bytes(18)) + _frame("D", b"\0\1\0\0\0\1" + b"0")
_DONE = _ROW + _frame("C", b"SELECT 1\0") + _frame("Z", b"I")
DIALOGUES = {
    "simple": (_frame("Q", SQL + b"12345;\0"), _DONE),
    "extended": (
        _frame("P", b"\0" + SQL + b"$1;\0\0\0") + _frame("B", b"\0\0" + _VALUE) + _RUN,
        _frame("1") + _frame("2") + _DONE,
    ),
    "prepared": (_frame("B", b"\0P0_1\0" + _VALUE) + _RUN, _frame("2") + _DONE),
}


class Unseeing(ClientScanner):
    """Looks only at what the transcript needs."""

    TABLE = table(stream=b"d", keep=b"PBDCH", mark=b"QEFSXcf")


class UnseeingTarget(TargetScanner):
    TABLE = table(skip=b"ANSTRKnt", stream=b"Dd", keep=b"123IHWV", mark=b"CEsZcG")


class Nothing(SessionState):
    """Keeps nothing."""

    def queried(self, text: bytes, batch: int) -> None:
        pass


def _seconds(client: ClientScanner, target: TargetScanner, dialogue: tuple[bytes, bytes]) -> float:
    """CPU of scanning one transaction."""
    asked, got = dialogue
    began = time.process_time()
    for _ in range(TURNS):
        client.scan(asked)
        target.scan(got)
    return (time.process_time() - began) / TURNS


def _record(kind: int, payload: bytes) -> None:
    pass


def run(door: Door, seconds: int, count: int) -> Table:
    """*door* is the gateway; beside each mode of pgbench stands what tracking adds to it."""
    found = Table("keeping track of sessions' state", "% of a transaction's CPU", "simple", 2)
    for _ in range(count):
        for mode, dialogue in DIALOGUES.items():
            with costing(door.pids) as cost:
                figures = door.pgbench("-S", "-M", mode, "-c", "8", "-T", str(seconds))
            whole = cost.cpu / figures["transactions"]
            state = SessionState()
            client = ClientScanner(_record, state)
            tracked = _seconds(client, TargetScanner(_record, client.copy_began, state), dialogue)
            client = Unseeing(_record, Nothing())
            target = UnseeingTarget(_record, client.copy_began, Nothing())
            found.add(mode, (tracked - _seconds(client, target, dialogue)) / whole * 100)
    return found
