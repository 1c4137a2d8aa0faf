"""From records to what people read of an SSH session. Sans-IO.

A command is told as one ``exec`` event when it has ended, at the time of its start. Nothing
here raises, whatever the two sides said to one another.
"""

from __future__ import annotations

from gateway.record.facts import Event, event, seconds, text
from gateway.record.format import END, HEADER, INPUT, NOTE, OUTPUT, Record

_STREAMS = ("stdout", "stderr")


class Events:
    """What happened, of records that come by and by: one object an event, whose ``at`` is
    seconds since the session began."""

    def __init__(self) -> None:
        self._commands: dict[str, list[Event]] = {}  # by channel, until it is closed

    def feed(self, record: Record) -> list[Event]:
        """The events that *record* completes."""
        if record.kind == OUTPUT:
            return self._output(record)
        if record.kind == INPUT:
            return self._input(record)
        if record.kind == END:
            return [*self.finish(), event(record)]
        if record.kind in (HEADER, NOTE):
            return self._told(event(record))
        return []

    def finish(self) -> list[Event]:
        """Commands that never ended."""
        left, self._commands = self._commands, {}
        return [command for commands in left.values() for command in commands]

    def _told(self, found: Event) -> list[Event]:
        kind, channel = found["kind"], str(found.get("channel"))
        if kind == "channel" and found.get("type") == "exec":
            self._commands.setdefault(channel, []).append(_command(found))
        elif kind == "closed":
            return [*self._commands.pop(channel, []), found]
        elif channel in self._commands:
            if kind == "exit":
                _end(self._commands[channel][-1], found)
                return []  # told when the channel is closed: its output comes first
            if kind == "refused" and found.get("request") == "exec":
                return [self._refused(channel), found]
        return [found]

    def _refused(self, channel: str) -> Event:
        """Of several at once targets take the first, so that it was the last."""
        commands = self._commands[channel]
        command = commands.pop()
        if not commands:
            del self._commands[channel]
        return command | {"refused": True}

    def _output(self, record: Record) -> list[Event]:
        channel, stream = int.from_bytes(record.payload[:4]), record.payload[4:5]
        name = _STREAMS[1] if stream == b"\x01" else _STREAMS[0]
        return [_data(record.at, "output", channel, record.payload[5:], stream=name)]

    def _input(self, record: Record) -> list[Event]:
        channel = int.from_bytes(record.payload[:4])
        return [_data(record.at, "input", channel, record.payload[4:])]


def _command(found: Event) -> Event:
    return {
        "at": found["at"],
        "kind": "exec",
        "channel": found.get("channel"),
        "command": found.get("command"),
        "exit_status": None,
    }


def _end(command: Event, found: Event) -> None:
    told = {name: value for name, value in found.items() if name not in ("at", "kind", "channel")}
    command.update(told, duration_ms=round((found["at"] - command["at"]) * 1000, 3))


def _data(at: int, kind: str, channel: int, data: bytes, **more: str) -> Event:
    return {"at": seconds(at), "kind": kind, "channel": channel, **more, "data": text(data)}
