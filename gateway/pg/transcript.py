"""From records to what people read: statements with their parameters and outcomes. Sans-IO.

Requests are matched with answers in order, as the protocol has it (PostgreSQL manual, 55.2
"Message Flow"): an error aborts everything up to the next Sync, a simple Query and a
FunctionCall end with a ReadyForQuery of their own. Events come in the order in which the
client sent what they tell of, each as soon as all before it are complete. Nothing here
raises, whatever the two sides said to one another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from gateway.pg import bodies
from gateway.pg.bodies import Cursor, words
from gateway.pg.requests import Cut, Item, Requests, Undo, told_of
from gateway.record.facts import Event, event, seconds
from gateway.record.format import (
    CLIENT,
    COPIED,
    COPIED_FACTS,
    CUT,
    CUT_FACTS,
    END,
    HEADER,
    NOTE,
    ROWS,
    TARGET,
    Record,
)

MAX_UNREADY = 1000  # answered statements that wait for a ReadyForQuery: a pipeline without Sync
MAX_COPIES = 1000  # ended COPYs that wait for their tag: CopyDone without a COPY costs 5 bytes
MAX_PENDING = 100_000  # requests without an answer: more do not fit into the sockets between

_STATES = {b"I": "idle", b"T": "in transaction", b"E": "failed"}
_ASKS = b"QFPBEDCScf"  # what gets an answer, or tells where a COPY ended
_TOLD = b"QFEPB"  # what may become an event
_CALLS = b"QF"  # each is followed by a ReadyForQuery of its own
_SYNC = 0x53
_EXECUTE = 0x45


class Events:
    """What happened, of records that come by and by: one object an event, whose ``at`` is
    seconds since the session began."""

    def __init__(self) -> None:
        self._requests = Requests()
        self._pending: deque[Item] = deque()  # requests without their answer
        self._out: deque[Item] = deque()  # whatever may become an event, in order
        self._unready: deque[Item] = deque()  # answered, the state of the transaction unknown
        self._copies: deque[Item] = deque()  # ended, the number of rows unknown
        self._skipping = False  # after an error, until a Sync
        self._undo: list[Undo] = []  # what takes back the names given meanwhile
        self._rows: int | None = None  # of what comes next
        self._at = 0

    def feed(self, record: Record) -> list[Event]:
        """The events that *record* completes."""
        self._at, payload = record.at, record.payload
        if record.kind == CLIENT:
            for kind, body in bodies.frames(payload):
                self._asked(kind, body, None)
        elif record.kind == TARGET:
            for kind, body in bodies.frames(payload):
                self._answers(kind, body)
        elif record.kind == CUT:
            self._cut(payload)
        elif record.kind == ROWS:
            self._streamed(int.from_bytes(payload[:8]))
        elif record.kind == COPIED:
            self._copied(payload)
        else:
            self._gateways(record.kind, payload)
        return self._complete()

    def finish(self) -> list[Event]:
        """What never got its answer."""
        self._give_up()
        return self._complete()

    def _give_up(self) -> None:
        while self._pending:
            self._pass_over(self._pending.popleft())
        self._settle(None)

    def _complete(self) -> list[Event]:
        found = []
        while self._out and self._out[0].done:
            event = self._out.popleft().told()
            if event is not None:
                found.append(event)
        return found

    # -- what the gateway itself says

    def _gateways(self, kind: int, payload: bytes) -> None:
        if kind == END:
            self._give_up()
        if kind in (HEADER, NOTE, END):
            told = event(Record(kind, self._at, payload))
            self._tell(told["kind"], told)

    def _tell(self, kind: str, facts: Event) -> Item:
        rest = {name: value for name, value in facts.items() if name not in ("at", "kind")}
        item = Item(0, self._at, {"at": seconds(self._at), "kind": kind, **rest}, done=True)
        self._out.append(item)
        return item

    def _copied(self, payload: bytes) -> None:
        if len(payload) < COPIED_FACTS.size:
            return
        direction, count, size = COPIED_FACTS.unpack_from(payload)
        if direction == 1:
            self._copy("out", size, count)  # each message is a row
            return
        copy = self._copy("in", size, None)  # cut anyhow: only the tag knows the rows
        if not self._awaits_tag():
            return
        copy.done = False
        self._copies.append(copy)
        if len(self._copies) > MAX_COPIES:
            self._copies.popleft().done = True

    def _awaits_tag(self) -> bool:
        """False: the target had refused the COPY before the client was through with it, and
        the next tag is another's. One further behind is told without its rows."""
        return any(item.kind in b"QE" for item in islice(self._pending, MAX_COPIES))

    def _copy(self, direction: str, size: int | None, rows: int | None) -> Item:
        return self._tell("copy", {"direction": direction, "bytes": size, "rows": rows})

    def _streamed(self, count: int) -> None:
        """Rows ahead of a suspension or an error."""
        head = self._expect(b"QE")
        if head is not None and head.copying == "out":
            self._copy("out", None, count)
        else:
            self._rows = count

    def _cut(self, payload: bytes) -> None:
        if len(payload) < CUT_FACTS.size:
            return
        direction, kind, length, digest = CUT_FACTS.unpack_from(payload)
        body = payload[CUT_FACTS.size :]
        if direction:
            self._answers(kind, body)
        else:
            self._asked(kind, body, {"length": length, "sha256": digest.hex()})

    # -- what the client asks for

    def _asked(self, kind: int, body: bytes, cut: Cut) -> None:
        if kind not in _ASKS:
            return
        item = self._requests.read(kind, body, self._at, cut)
        if kind in _TOLD:
            self._out.append(item)
        if kind == _SYNC:
            self._stop_skipping()
        elif self._skipping:
            self._skip_for_now(item)
            return
        self._pending.append(item)
        if len(self._pending) > MAX_PENDING:
            self._pass_over(self._pending.popleft())

    def _skip_for_now(self, item: Item) -> None:
        """What follows may rest on its name, and is skipped as well."""
        if item.undo is not None and len(self._undo) < MAX_UNREADY:
            self._undo.append(item.undo)
            item.undo = None
        self._skip(item)

    def _stop_skipping(self) -> None:
        self._skipping = False
        while self._undo:
            self._undo.pop()()

    # -- what the target answers

    def _answers(self, kind: int, body: bytes) -> None:
        answer = _ANSWERS.get(kind)
        if answer is not None:
            answer(self, body)

    def _expect(self, kinds: bytes) -> Item | None:
        """The first request of one of *kinds*; those before it had answers that are not
        recorded. None if a Sync or a call stands before it."""
        for index, item in enumerate(self._pending):
            if item.kind in kinds:
                for _ in range(index):
                    self._pass_over(self._pending.popleft())
                return item
            if item.kind == _SYNC or item.kind in _CALLS:
                return None
        return None

    def _answered(self, kinds: bytes) -> Item | None:
        """As :meth:`_expect`; but for calls this was all that it waited for."""
        item = self._expect(kinds)
        if item is not None and item.kind not in _CALLS:
            self._pending.popleft()
            item.undo = None
            if item.kind == _EXECUTE:
                self._wait(item)
            else:
                item.done = True
        return item

    def _parsed(self, body: bytes) -> None:
        self._answered(b"P")

    def _bound(self, body: bytes) -> None:
        self._answered(b"B")

    def _closed(self, body: bytes) -> None:
        self._answered(b"C")

    def _described(self, body: bytes) -> None:
        """ParameterDescription: the types that the client had left to the target."""
        item = self._answered(b"D")
        if item is not None and item.prepared is not None:
            item.prepared.oids = Cursor(body).numbers(4)

    def _completed(self, body: bytes) -> None:
        item = self._answered(b"QE")
        self._rows = None
        if item is None:
            return
        tag = words(body.partition(b"\0")[0])
        item.complete(tag, self._at)
        self._copy_ended(item, bodies.rows(tag))

    def _ended(self, body: bytes) -> None:
        """EmptyQueryResponse, PortalSuspended, FunctionCallResponse."""
        item = self._answered(b"QFE")
        if item is not None:
            item.end(self._take_rows(), self._at)

    def _copy_in(self, body: bytes) -> None:
        self._copying("in")

    def _copy_out(self, body: bytes) -> None:
        self._copying("out")

    def _copying(self, direction: str) -> None:
        item = self._expect(b"QE")
        if item is not None:
            item.copying = direction

    def _copy_ended(self, item: Item, rows: int | None) -> None:
        was, item.copying = item.copying, ""
        if was == "in":
            self._copy_counted(rows)
            if item.kind == _EXECUTE:
                self._leave_copy_mode()

    def _copy_counted(self, rows: int | None) -> None:
        if self._copies:
            copy = self._copies.popleft()
            copy.done = True
            if copy.event is not None:
                copy.event["rows"] = rows

    def _leave_copy_mode(self) -> None:
        """A target in copy-in mode ignores Sync: none before CopyDone gets an answer."""
        while self._pending and self._pending[0].kind in b"Scf":
            if self._pending.popleft().kind != _SYNC:
                return

    def _failed(self, body: bytes) -> None:
        error, head = bodies.error(body), self._expect(b"QFPBE")
        if head is None:
            aborted = self._until_sync() if self._pending else []
            for item in reversed(aborted):
                self._skip(item)
        elif head.kind in _CALLS:
            head.fail(error, self._take_rows(), self._at)
            self._copy_ended(head, None)
        else:
            self._pending.popleft()
            self._copy_ended(head, None)
            aborted = self._until_sync()
            victim = _blamed(head, aborted)
            victim.fail(error, self._take_rows(), self._at)
            for item in reversed((head, *aborted)):
                self._skip(item)

    def _until_sync(self) -> list[Item]:
        aborted = []
        while self._pending and self._pending[0].kind != _SYNC:
            aborted.append(self._pending.popleft())
        self._skipping = not self._pending
        return aborted

    def _skip(self, item: Item) -> None:
        """It never ran: the names that it gave or took are as they were."""
        if item.undo is not None:
            item.undo()
        if item.ended is None and item.event is not None:
            item.event["skipped"] = True
        self._pass_over(item)

    def _ready(self, body: bytes) -> None:
        item = self._expect(b"QFS")
        if item is None:
            return
        self._pending.popleft()
        if item.kind in _CALLS:
            if item.ended is None:
                item.end(None, self._at)
            self._wait(item)
        self._settle(_STATES.get(body[:1]))

    # -- what is complete

    def _wait(self, item: Item) -> None:
        """All is known but the state of the transaction."""
        if item.waiting or item.done:
            return
        item.waiting = True
        self._unready.append(item)
        if len(self._unready) > MAX_UNREADY:
            self._unready.popleft().done = True

    def _pass_over(self, item: Item) -> None:
        item.undo = None
        if item.event is None:
            item.done = True
        else:
            self._wait(item)

    def _settle(self, state: str | None) -> None:
        for item in self._unready:
            item.done = True
            if item.event is not None:
                item.event["transaction"] = state
        self._unready.clear()
        while self._copies:
            self._copy_counted(None)

    def _take_rows(self) -> int | None:
        rows, self._rows = self._rows, None
        return rows


def _blamed(head: Item, aborted: list[Item]) -> Item:
    """What failed, as people see it: the Execute that a Parse or Bind was meant for."""
    if head.kind != _EXECUTE:
        for item in aborted:
            if item.kind == _EXECUTE and item.rests_on(head):
                return item
        head.event = told_of(head)
    return head


_ANSWERS: dict[int, Callable[[Events, bytes], None]] = {
    ord("1"): Events._parsed,
    ord("2"): Events._bound,
    ord("3"): Events._closed,
    ord("t"): Events._described,
    ord("C"): Events._completed,
    ord("s"): Events._ended,
    ord("I"): Events._ended,
    ord("V"): Events._ended,
    ord("G"): Events._copy_in,
    ord("H"): Events._copy_out,
    ord("E"): Events._failed,
    ord("Z"): Events._ready,
}
