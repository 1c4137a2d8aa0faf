"""What is known of a session's state at its target, and whether it can be taken elsewhere.

Sans-IO. The scanners tell of the frames that matter, the client's before they are sent. An
effect counts when the target says that it has come about, and a setting when its
transaction has been committed; what pins the session to its target counts at once. What a
tag tells and no text had announced pins it too: a session whose state is not known whole
is not moved.

Requests carry the number of their *batch*: how many ReadyForQuery messages the client will
have got before the one that ends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from attrs import frozen

from gateway.pg import frames
from gateway.pg.effects import (
    HARMLESS,
    HARMLESS_TOO,
    NAMEDATALEN,
    PARSED,
    Does,
    Effect,
    Effects,
    effects_of,
    illegible,
    look,
    look_again,
)

MAX_KEPT = 1 << 20  # bytes of prepared statements and settings kept: some hundreds of them
OVERHEAD = 100  # bytes counted for each, beside its text
MAX_EXPECTED = 1000  # announced effects without their tag: a pipeline of SETs, or a flood
NEVER = 1 << 62  # a batch that no session gets to
MAX_PARAMETERS = 100  # reported by a target; PostgreSQL has about 15

_ENCODING = b"client_encoding"
_KEPT_BY_RESET_ALL = frozenset((b"role", b"session_authorization"))
_KEPT_BY_DISCARD_ALL = {
    "the seed of random()", "connections of dblink", "replication origins", "base backups",
    "replication slots",
}  # fmt: skip
_UNDONE = (Does.SET, Does.RESET_ALL, Does.LISTEN, Does.UNLISTEN, Does.DISCARD_TEMP)
IDLE = 0x49  # ReadyForQuery's status outside a transaction
_LOST_TRACK = "answers that fit no question"


@frozen
class Restoration:
    """What makes a fresh session like this one: SQL texts, then Parse and Query messages."""

    settings: tuple[bytes, ...]
    channels: tuple[bytes, ...]
    statements: tuple[bytes, ...]
    reported: Mapping[str, str]


class SessionState:
    """
    :param reported: the ParameterStatus messages of the log-in
    :param pinned: why the session can never be moved; "" if it may be

    :ivar ending: number of the first batch that ends no transaction, as far as is known
    :ivar expected: effects that were announced, each with its batch
    :ivar pending: there is something for :meth:`ready` to do
    :ivar answers: ParseComplete and CloseComplete messages in the present batch
    :ivar effective: prepared statements that have effects
    :ivar portals: those bound to statements that have effects, each with its batch
    """

    __slots__ = ("_begun", "_channels", "_doubtful", "_failed", "_open", "_pins", "_requests",
                 "_settings", "_size", "_statements", "_unknown", "answers", "effective",
                 "ending", "expected", "pending", "portals", "reported")  # fmt: skip

    def __init__(self, reported: Mapping[str, str] | None = None, pinned: str = "") -> None:
        self.reported = dict(reported or {})
        self._unknown = pinned or illegible(self.reported)  # no state is kept any more
        self.ending = NEVER if self._unknown else 0
        self.expected: deque[tuple[int, Effect]] = deque()
        self.pending = False
        self.answers = 0
        self._pins: dict[str, int] = {}
        self._settings: dict[bytes, bytes] = {}
        self._channels: dict[bytes, bytes] = {}
        self._statements: dict[bytes, bytes] = {}  # b"" is the unnamed one
        self._requests: deque[tuple[int, bytes, bytes | None]] = deque()  # Parse, or Close: None
        self.effective: dict[bytes, Effects] = {}
        self.portals: dict[bytes, tuple[int, Effects]] = {}
        self._open: list[tuple[int, Effect]] = []  # in the transaction that runs
        self._doubtful: list[tuple[int, Effect]] = []  # before a ROLLBACK, perhaps TO SAVEPOINT
        self._begun = -1  # the batch that has begun a transaction, as far as is known
        self._failed = False  # an error came since the last ReadyForQuery
        self._size = 0

    @property
    def pinned(self) -> str:
        """Why the session cannot be moved, "" if it can."""
        return self._unknown or ", ".join(self._pins)

    def restoration(self) -> Restoration:
        """The encoding comes first: texts that depend on it were said since it was set."""
        names = sorted(self._settings, key=_ENCODING.__ne__)
        return Restoration(
            tuple(self._settings[name] for name in names),
            tuple(self._channels.values()),
            tuple(self._statements.values()),
            dict(self.reported),
        )

    # -- what the client asks for

    def queried(self, text: bytes, batch: int) -> None:
        """A Query; it also destroys the unnamed prepared statement."""
        if b"" in self._statements:
            self._forget(b"")
        effects = look(text)
        if effects:
            self._announce(effects, batch)

    # (whole messages, whose type and length take five bytes)

    def parsing(self, frame: bytes, batch: int) -> None:
        if self._unknown:
            return
        named = frame.find(b"\0", 5)
        name = frame[5:named]
        effects = look_again(frame[named + 1 : frame.find(b"\0", named + 1)])
        if effects or self.effective:
            self._prepared(name, effects)
        self._request(batch, name, frame)

    def _prepared(self, name: bytes, effects: Effects) -> None:
        if not effects:
            self.effective.pop(name, None)
            return
        self.effective[name] = effects
        if len(self.effective) > MAX_EXPECTED:
            self.give_up("too many prepared statements that change the session")

    def binding(self, frame: bytes, batch: int) -> None:
        portal, _, rest = frame[5:].partition(b"\0")
        effects = self.effective.get(rest.partition(b"\0")[0])
        if effects is not None and not self._unknown:
            self.portals[portal] = batch, effects
            self.pending = True
            if len(self.portals) > MAX_EXPECTED or len(portal) >= NAMEDATALEN:
                self.give_up("too many portals that change the session, or too long a name")
        else:
            self.portals.pop(portal, None)

    def executing(self, frame: bytes, batch: int) -> None:
        bound = self.portals.get(frame[5:].partition(b"\0")[0])
        if bound is not None:
            self._announce(bound[1], batch)

    def closing(self, frame: bytes, batch: int) -> None:
        """Portals are answered like statements; no statement has the name that stands for them."""
        name = frame[6:].partition(b"\0")[0] if frame[5:6] == b"S" else b"\0"
        self._request(batch, name, None)

    def pin(self, why: str, batch: int) -> None:
        self._pins[why] = batch

    def _announce(self, effects: Effects, batch: int) -> None:
        if self._unknown:
            return
        for effect in effects:
            if effect.does is Does.PIN:
                self.pin(effect.name.decode(), batch)
            elif effect.does is Does.END:
                self.ending = batch + 1
            elif effect.does is Does.EXECUTE:
                if effect.name in self.effective:
                    self.pin("EXECUTE of a statement that changes the session", batch)
                    self.ending = batch + 1
            else:
                self.expected.append((batch, effect))
                self.pending = True
        if len(self.expected) > MAX_EXPECTED:
            self.give_up("too many changes of the session at once")

    def _request(self, batch: int, name: bytes, frame: bytes | None) -> None:
        if self._unknown:
            return
        self._requests.append((batch, name, frame))
        self.pending = True
        self._size += len(frame or b"") + OVERHEAD
        if self._size > MAX_KEPT:
            self._grow(0)

    # -- what the target answers

    def _settle(self, batch: int) -> None:
        """The requests of *batch* that have been answered so far have come about."""
        requests, statements, answers = self._requests, self._statements, self.answers
        self.answers = 0
        for _ in range(answers):
            if not requests or requests[0][0] != batch:
                if not self._unknown:
                    self.give_up(_LOST_TRACK)
                return
            _, name, frame = requests.popleft()
            before = statements.pop(name, None)
            if before is not None:
                self._size -= len(before) + OVERHEAD
            if frame is not None:
                statements[name] = frame
            else:
                self._size -= OVERHEAD

    def tagged(self, tag: bytes, batch: int, status: int) -> None:
        """A CommandComplete: something came about. *status*: before this batch."""
        self._settle(batch)
        expected = self.expected
        if expected and expected[0][0] == batch and expected[0][1].tag == tag:
            self._happened(expected.popleft()[1], batch)
        elif tag == b"COMMIT":
            self._committed(batch)
        elif tag in (b"BEGIN", b"START TRANSACTION"):
            self._begun = batch
        elif tag == b"ROLLBACK":
            if self._open and status == IDLE and self._begun != batch:
                # In a pipeline a server may only warn then, and commit.
                self.give_up("settings before a rollback of no transaction")
            self._doubtful += self._open
            self._open = []
        elif tag == b"PREPARE TRANSACTION":
            if self._open or self._doubtful:
                self.give_up("settings of a prepared transaction")
        elif tag[:3] not in HARMLESS and tag not in HARMLESS_TOO:
            self.give_up(f"{tag[:30].decode('ascii', 'replace')}, which may leave anything")

    def failed(self) -> None:
        """An ErrorResponse: the rest of the batch is not run."""
        self._failed = self.pending = True

    def ready(self, status: int, count: int) -> None:
        """A ReadyForQuery with this transaction status, the *count*-th; for when there is
        something pending or answered."""
        if self.answers:
            self._settle(count - 1)
        if self._open or self._doubtful:
            self._transaction(status, count)
        failed, self._failed = self._failed, False
        expected, requests = self.expected, self._requests
        while expected and expected[0][0] < count:
            expected.popleft()
            if not failed:
                self.give_up("a change of the session that was not confirmed")
        if self.portals and status == IDLE:
            self.portals = {name: it for name, it in self.portals.items() if it[0] >= count}
        while requests and requests[0][0] < count:
            self._unanswered(count, *requests.popleft()[1:])
        self.pending = bool(expected or requests or self.portals or self._open or self._doubtful)

    def _unanswered(self, count: int, name: bytes, frame: bytes | None) -> None:
        """A Parse, or Close, that failed or was skipped: what had the name has it still."""
        self._size -= len(frame or b"") + OVERHEAD
        kept = self._statements.get(name)
        if frame is None or kept is None:
            return
        before = effects_of(kept)
        if before == effects_of(frame):
            return
        later = self.expected or any(batch >= count for batch, _ in self.portals.values())
        if name or later:  # what is under way may be the old one's after all
            self.give_up("a statement that was prepared under a name in use")
        elif all(name != other for _, other, _ in self._requests):
            self._prepared(name, before)

    def reports(self, body: bytes) -> None:
        """A ParameterStatus.

        :raises ProtocolViolation: a malformed one
        """
        name, value = frames.parse_parameter_status(body)
        if name == "client_encoding" and self.reported.get(name) != value and not self._ascii():
            self.give_up("client_encoding changed after texts that depend on it")
        if self.reported.get(name, value) != value:
            self._parsed_otherwise(name.lower().encode(), -1)
        self.reported[name] = value
        if why := illegible(self.reported):
            self.give_up(why)
        if len(self.reported) > MAX_PARAMETERS:
            self.give_up("too many reported settings")

    def _parsed_otherwise(self, setting: bytes, batch: int) -> None:
        """Literals of what is prepared mean what they did when that was parsed."""
        statements = (text for name, text in self._statements.items() if name)
        if setting in PARSED and any(
            b"'" in text or b"= null" in text.lower() for text in statements
        ):
            self.pin("prepared statements whose literals depend on a setting since changed", batch)

    def _transaction(self, status: int, count: int) -> None:
        """Effects that a commit makes last, at the end of a batch."""
        if status != IDLE:
            if self._doubtful:
                self.give_up("settings of a transaction that was partly rolled back")
            return
        self._doubtful = []
        if self._failed:
            self._open = []
        else:
            self._committed(count - 1)

    def _committed(self, batch: int) -> None:
        if self._doubtful:
            self.give_up("settings of a transaction that was partly rolled back")
        for since, effect in self._open:
            self._lasts(effect, since)
        self._open = []

    def _happened(self, effect: Effect, batch: int) -> None:
        does, name = effect.does, effect.name
        if does in _UNDONE:
            self._open.append((batch, effect))
            if len(self._open) > MAX_EXPECTED:
                self.give_up("too many settings in one transaction")
        elif does is Does.PREPARE:
            self._statements[name] = frames.message(frames.Kind.QUERY, effect.text + b"\0")
            self._grow(len(self._statements[name]) + OVERHEAD)
        elif does is Does.DEALLOCATE:
            self._deallocated([name] if name else [known for known in self._statements if known])
        elif does is Does.DISCARD_ALL:
            self._discarded(batch)

    def _lasts(self, effect: Effect, batch: int) -> None:
        name, text = effect.name, effect.text
        if effect.does is Does.SET:
            self._size += len(name) + len(text) + OVERHEAD
            self._drop_setting(name)
            self._settings[name] = text
            self._parsed_otherwise(name, batch)
        elif effect.does is Does.LISTEN:
            self._size += 0 if name in self._channels else len(name) + len(text) + OVERHEAD
            self._channels[name] = text
        elif effect.does is Does.UNLISTEN:
            for channel in [name] if name else list(self._channels):
                gone = self._channels.pop(channel, None)
                self._size -= 0 if gone is None else len(channel) + len(gone) + OVERHEAD
        elif effect.does is Does.DISCARD_TEMP:
            self._unpin(batch, "temporary tables")
        else:
            for setting in self._settings.keys() - _KEPT_BY_RESET_ALL:
                self._drop_setting(setting)
        self._grow(0)

    def _drop_setting(self, name: bytes) -> None:
        gone = self._settings.pop(name, None)
        self._size -= 0 if gone is None else len(name) + len(gone) + OVERHEAD

    def _deallocated(self, names: list[bytes]) -> None:
        for name in names:
            if name in self._statements:
                self._forget(name)

    def _discarded(self, batch: int) -> None:
        """DISCARD ALL; what was sent behind it stays."""
        self._deallocated(list(self._statements))
        self._settings.clear()
        self._channels.clear()
        self._open, self._doubtful = [], []
        self._size = sum(len(frame or b"") + OVERHEAD for _, _, frame in self._requests)
        self._unpin(batch, *(self._pins.keys() - _KEPT_BY_DISCARD_ALL))

    def _unpin(self, batch: int, *reasons: str) -> None:
        for why in reasons:
            if self._pins.get(why, batch) < batch:
                del self._pins[why]

    def _forget(self, name: bytes) -> None:
        self._size -= len(self._statements.pop(name)) + OVERHEAD

    def _ascii(self) -> bool:
        kept = (*self._settings.values(), *self._channels.values(), *self._statements.values())
        coming = (effect.text for _, effect in (*self._open, *self._doubtful, *self.expected))
        asked = (frame or b"" for _, _, frame in self._requests)
        return all(text.isascii() for text in (*kept, *coming, *asked))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_KEPT:
            self.give_up("more prepared statements and settings than are kept")

    def give_up(self, why: str) -> None:
        """Nothing is known any more, and nothing kept."""
        self._unknown = self._unknown or why
        self.ending = NEVER
        for kept in (self._settings, self._channels, self._statements, self._requests):
            kept.clear()
        self.effective.clear()
        self.portals.clear()
        self.expected.clear()
        self._open, self._doubtful = [], []
        self._size = 0
