"""What happened in a session, whatever it spoke: its transcript says which protocol it is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.pg.transcript import Events as PostgresEvents
from gateway.record.facts import Event, facts
from gateway.record.format import HEADER, Record
from gateway.ssh.transcript import Events as SshEvents


def events(records: Iterable[Record]) -> Iterator[Event]:
    """One object an event; ``at`` is seconds since the session began."""
    session = Events()
    for record in records:
        yield from session.feed(record)
    yield from session.finish()


class Events:
    """The same as :func:`events` for records that come by and by."""

    def __init__(self) -> None:
        self._told: PostgresEvents | SshEvents = PostgresEvents()

    def feed(self, record: Record) -> list[Event]:
        """The events that *record* completes."""
        if record.kind == HEADER and facts(record.payload).get("protocol") == "ssh":
            self._told = SshEvents()
        return self._told.feed(record)

    def finish(self) -> list[Event]:
        """What never got its answer."""
        return self._told.finish()
