"""What a client asked for, message by message, with names resolved. Sans-IO.

A request becomes an :class:`Item`; the transcript matches it with its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from gateway.pg import bodies
from gateway.pg.bodies import Cursor, Values, words
from gateway.record.facts import Event, seconds

Cut = dict[str, Any] | None
Undo = Callable[[], None]
T = TypeVar("T")

MAX_NAMES = 10_000  # prepared statements or portals held; poolers and ORMs keep hundreds
MAX_NAMED = 64 << 20  # bytes of their messages; a session that needs more loses the oldest
MAX_TAGS = 1000  # tags listed of one Query; scripts with more are counted by their rows


@define(eq=False)
class Item:
    """One request, or one thing to tell, in the order of the session.

    :ivar kind: the type of its message; 0 for what is no request
    :ivar at: ns since the session began
    :ivar done: complete; ``event`` may be told, where there is one
    :ivar ended: ns since the session began: it got its answer
    :ivar waiting: answered, but for the state of the transaction
    :ivar copying: "in" or "out" while a COPY runs
    :ivar undo: takes back what its name was given
    """

    kind: int
    at: int
    event: Event | None = None
    done: bool = False
    ended: int | None = None
    waiting: bool = False
    copying: str = ""
    prepared: Prepared | None = None
    portal: Portal | None = None
    undo: Undo | None = None

    def rests_on(self, other: Item) -> bool:
        """An Execute of what the Parse or Bind *other* made."""
        return (self.prepared is not None and self.prepared.origin is other) or (
            self.portal is not None and self.portal.origin is other
        )

    def complete(self, tag: str, at: int) -> None:
        """One of its statements has ended, with *tag*."""
        event = self.event
        if event is not None:
            if event["tag"] is not None:
                tags = event.setdefault("tags", [event["tag"]])
                if len(tags) < MAX_TAGS:
                    tags.append(tag)
            event["tag"] = tag
        self.end(bodies.rows(tag), at)

    def fail(self, error: tuple[str, str], rows: int | None, at: int) -> None:
        if self.event is not None:
            self.event["sqlstate"], self.event["message"] = error
        self.end(rows, at)

    def end(self, rows: int | None, at: int) -> None:
        self.ended = at
        if self.event is not None:
            self.event["duration_ms"] = round((at - self.at) / 1e6, 3)
            if rows is not None:
                self.event["rows"] = (self.event["rows"] or 0) + rows

    def told(self) -> Event | None:
        """Its event; parameters are read now, when their types are known."""
        if self.event is not None and self.portal is not None:
            oids = self.prepared.oids if self.prepared is not None else ()
            self.event["parameters"] = self.portal.values.shown(oids)
        return self.event


@define(eq=False)
class Prepared:
    """A prepared statement; ``sql`` is None for a ``name`` that the protocol did not give."""

    origin: Item | None
    sql: str | None
    oids: tuple[int, ...] = ()
    cut: Cut = None
    name: str = ""


@frozen(eq=False)
class Portal:
    origin: Item | None
    values: Values
    prepared: Prepared | None = None
    cut: Cut = None


@define(eq=False)
class Names(Generic[T]):
    """Names and what they stand for; the oldest go when there are too many."""

    _held: dict[bytes, tuple[T, int]] = field(factory=dict)
    _size: int = 0

    def get(self, name: bytes) -> T | None:
        found = self._held.get(name)
        return found[0] if found is not None else None

    def put(self, name: bytes, value: T, size: int) -> Undo:
        """*size*: bytes that *value* takes; returns what takes it back."""
        before = self._forget(name)
        self._keep(name, (value, size + len(name)))

        def undo() -> None:
            if self.get(name) is value:
                self._forget(name)
                if before is not None:
                    self._keep(name, before)

        return undo

    def drop(self, name: bytes) -> Undo:
        before = self._forget(name)

        def undo() -> None:
            if before is not None and name not in self._held:
                self._keep(name, before)

        return undo

    def _keep(self, name: bytes, entry: tuple[T, int]) -> None:
        self._held[name] = entry
        self._size += entry[1]
        while len(self._held) > MAX_NAMES or self._size > MAX_NAMED:
            self._forget(next(iter(self._held)))

    def _forget(self, name: bytes) -> tuple[T, int] | None:
        entry = self._held.pop(name, None)
        if entry is not None:
            self._size -= entry[1]
        return entry


class Requests:
    """Reads the client's messages."""

    def __init__(self) -> None:
        self._prepared: Names[Prepared] = Names()
        self._portals: Names[Portal] = Names()
        self._readers: dict[int, Callable[[Item, bytes, Cut], None]] = {
            ord("Q"): self._query,
            ord("F"): self._call,
            ord("P"): self._parse,
            ord("B"): self._bind,
            ord("E"): self._execute,
            ord("D"): self._describe,
            ord("C"): self._close,
        }

    def read(self, kind: int, body: bytes, at: int, cut: Cut) -> Item:
        """*cut*: ``{length, sha256}`` of a body of which only the beginning is here."""
        item = Item(kind, at)
        reader = self._readers.get(kind)
        if reader is not None:
            reader(item, body, cut)
        return item

    def _query(self, item: Item, body: bytes, cut: Cut) -> None:
        item.event = statement(item.at, words(Cursor(body).string()), cut)

    def _call(self, item: Item, body: bytes, cut: Cut) -> None:
        cursor = Cursor(body)
        item.event = statement(item.at, f"function call OID {cursor.number(4)}", cut)
        item.portal = Portal(item, Values.read(cursor))

    def _parse(self, item: Item, body: bytes, cut: Cut) -> None:
        cursor = Cursor(body)
        name, sql = cursor.string(), words(cursor.string())
        item.prepared = Prepared(item, sql, cursor.numbers(4), cut)
        item.undo = self._prepared.put(name, item.prepared, len(body))

    def _bind(self, item: Item, body: bytes, cut: Cut) -> None:
        cursor = Cursor(body)
        name, source = cursor.string(), cursor.string()
        item.prepared = self._prepared.get(source) or _unknown(source)
        item.portal = Portal(item, Values.read(cursor), item.prepared, cut)
        item.undo = self._portals.put(name, item.portal, len(body))

    def _execute(self, item: Item, body: bytes, cut: Cut) -> None:
        name = Cursor(body).string()
        item.portal = portal = self._portals.get(name)
        item.prepared = (portal and portal.prepared) or _unknown(name)
        item.event = told_of(item)

    def _describe(self, item: Item, body: bytes, cut: Cut) -> None:
        if body[:1] == b"S":
            item.prepared = self._prepared.get(Cursor(body[1:]).string())

    def _close(self, item: Item, body: bytes, cut: Cut) -> None:
        name = Cursor(body[1:]).string()
        item.undo = self._prepared.drop(name) if body[:1] == b"S" else self._portals.drop(name)


def told_of(item: Item) -> Event:
    """The statement that a Parse, a Bind or an Execute is about."""
    prepared = item.prepared or _unknown(b"")
    bound = item.portal.cut if item.portal is not None else None
    event = statement(item.at, prepared.sql, prepared.cut or bound)
    if prepared.sql is None:
        event["name"] = prepared.name
    return event


def statement(at: int, sql: str | None, cut: Cut) -> Event:
    """An event that still lacks its outcome."""
    event: Event = {"at": seconds(at), "kind": "statement", "sql": sql, "parameters": []}
    event |= dict.fromkeys(("tag", "rows", "duration_ms", "sqlstate", "message", "transaction"))
    if cut is not None:
        event["truncated"] = cut
    return event


def _unknown(name: bytes) -> Prepared:
    """SQL's own PREPARE or DECLARE made it, or it is one of too many."""
    return Prepared(None, None, name=words(name))
