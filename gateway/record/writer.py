"""Writes transcripts: one file a session, ``ROOT/YYYY/MM/DD/SESSION.gwt``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path

from attrs import asdict
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import Logger

from gateway import private
from gateway.contracts import Audit, SessionLog
from gateway.errors import NotRecorded
from gateway.model import End, SessionInfo
from gateway.record.format import SUFFIX
from gateway.record.log import FileLog, Keys
from gateway.record.reader import locked

FACTS = ("id", "user", "resource", "account", "target", "protocol", "source", "started")
LEAST_FREE = 1 << 20  # bytes: with less than a few sessions' worth, new ones are not begun

Resume = Callable[[], None]
Failed = Callable[[str, NotRecorded], None]

log = Logger()


class FileRecorder:
    """A :class:`gateway.contracts.Recorder`.

    :param durability: "os": a commit has reached the operating system; "disk": the disk
    :param required: False: sessions go on where they cannot be recorded; each is in the
        audit log, if that can be written
    :param failed: told of a session whose log failed outside a call of its own (a tick, an
        fsync); nothing held for it is ever released
    """

    def __init__(
        self,
        root: Path,
        signing_key: Ed25519PrivateKey,
        mac_secret: bytes,
        durability: str = "os",
        required: bool = True,
        failed: Failed = lambda session_id, error: None,
        audit: Audit | None = None,
    ) -> None:
        self._root = root
        self._keys = Keys(signing_key, mac_secret)
        self._disk = Disk(self._lost, required) if durability == "disk" else None
        self._synced = root  # the directory whose entries above it are on the disk
        self._required = required
        self._failed = failed
        self._audit = audit
        self._open: dict[str, RecordedSession] = {}

    def open(self, info: SessionInfo) -> SessionLog:
        """Begin a transcript.

        :raises NotRecorded: it cannot be written and recording is required
        """
        path = place(self._root, info.id, info.started)
        header = {name: value for name, value in asdict(info).items() if name in FACTS}
        try:
            file = FileLog(path, self._keys, header)
            if self._disk is not None:
                self._sync_entry(path.parent)
        except NotRecorded as unwritable:
            return self._unrecorded(info, unwritable)
        except OSError as error:
            file.abandon()
            return self._unrecorded(info, NotRecorded(f"{path}: {error.strerror}"))
        session = RecordedSession(info, file, self._disk, self._open)
        return session if self._required else Lenient(session, self._lost)

    def tick(self) -> None:
        """Each second: leftovers are written and seals made, for all open transcripts."""
        for session in list(self._open.values()):
            try:
                session.file.tick()
            except NotRecorded as unwritable:
                self._lost(session, unwritable)

    def unwritable(self) -> str | None:
        """Why new sessions would be refused for want of a transcript; None: they would not.

        Cheap.
        """
        if not self._required:
            return None
        try:
            private.make(self._root)
            free = os.statvfs(self._root)
        except OSError as error:
            return f"transcripts: {error.strerror}"
        if not os.access(self._root, os.W_OK | os.X_OK):
            return "transcripts: permission denied"
        return None if free.f_bavail * free.f_frsize >= LEAST_FREE else "transcripts: disk full"

    def _sync_entry(self, day: Path) -> None:
        """:raises OSError: the disk does not know of the files in *day*"""
        _sync_directory(day)
        if day != self._synced:  # each level may be new, and is an entry in the one above
            for directory in (day.parent, day.parent.parent, self._root, self._root.parent):
                _sync_directory(directory)
            self._synced = day

    def _lost(self, session: RecordedSession, error: NotRecorded) -> None:
        self._open.pop(session.file.id, None)
        if self._required:
            log.error("Recording fails: {why}", why=error.detail)
            self._failed(session.file.id, error)
        elif not session.lost:
            session.lost = True
            self._goes_on(session.info, error)

    def _unrecorded(self, info: SessionInfo, error: NotRecorded) -> SessionLog:
        if self._required:
            raise error
        self._goes_on(info, error)
        return Lenient(None, self._lost)

    def _goes_on(self, info: SessionInfo, error: NotRecorded) -> None:
        """Unrecorded, which somebody is to know: the audit log, or else the daemon's."""
        facts = {"session": info.id, "user": info.user, "resource": info.resource}
        try:
            if self._audit is not None:
                self._audit.write("session.unrecorded", **facts, reason=error.detail)
        except NotRecorded:
            log.error("Session {id} runs unrecorded: {why}", id=info.id, why=error.detail)


class RecordedSession:
    """A :class:`gateway.contracts.SessionLog` on a file."""

    __slots__ = ("_disk", "_others", "add", "file", "info", "lost", "synced")

    def __init__(
        self,
        info: SessionInfo,
        file: FileLog,
        disk: Disk | None,
        others: dict[str, RecordedSession],
    ) -> None:
        self.info = info
        self.lost = False  # it goes on unrecorded, and that has been told
        self.file = file
        self.synced = 0  # bytes known to be on the disk
        self.add = file.add
        self._disk = disk
        self._others = others
        others[file.id] = self

    def commit(self, resume: Resume) -> bool:
        self.file.flush()
        if self._disk is None or self.synced == self.file.length:
            return True
        self._disk.wait(self, resume)
        return False

    def close(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        try:
            digest = self.file.finish(end, statements, bytes_in, bytes_out)
            if self._disk is not None:
                self.file.sync()
        except OSError as error:
            raise NotRecorded(f"transcript {self.file.id}: {error.strerror}") from error
        finally:
            self._others.pop(self.file.id, None)
            self.file.abandon()
        return digest


Lost = Callable[[RecordedSession, NotRecorded], None]


class Lenient:
    """A log that is not required: what cannot be recorded is dropped, and *lost* is told."""

    def __init__(self, session: RecordedSession | None, lost: Lost) -> None:
        self._session = session
        self._lost = lost

    def add(self, kind: int, payload: bytes) -> None:
        if self._session is not None:
            try:
                self._session.add(kind, payload)
            except NotRecorded as unwritable:
                self._drop(unwritable)

    def commit(self, resume: Resume) -> bool:
        if self._session is not None:
            try:
                return self._session.commit(resume)
            except NotRecorded as unwritable:
                self._drop(unwritable)
        return True

    def close(self, end: End, statements: int, bytes_in: int, bytes_out: int) -> str:
        if self._session is not None:
            try:
                return self._session.close(end, statements, bytes_in, bytes_out)
            except NotRecorded as unwritable:
                self._drop(unwritable)
        return ""

    def _drop(self, error: NotRecorded) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.file.abandon()
            self._lost(session, error)


class Disk:
    """Brings files to the disk in one thread; who waits meanwhile shares the next round."""

    def __init__(self, lost: Lost, required: bool) -> None:
        self._lost = lost
        self._required = required
        self._waiting: dict[RecordedSession, list[Resume]] = {}
        self._busy = False
        self._thread = ThreadPoolExecutor(1, "transcripts")

    def wait(self, session: RecordedSession, resume: Resume) -> None:
        """Call *resume* from the event loop once what *session* has written is durable."""
        self._waiting.setdefault(session, []).append(resume)
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, {}
        lengths = {session: session.file.length for session in waiting}
        self._busy = True
        loop = asyncio.get_running_loop()

        def work() -> None:
            errors = {session: error for session in waiting if (error := _sync(session))}
            with suppress(RuntimeError):  # the loop is gone, and so are those who waited
                loop.call_soon_threadsafe(self._done, waiting, lengths, errors)

        self._thread.submit(work)

    def _done(
        self,
        waiting: dict[RecordedSession, list[Resume]],
        lengths: dict[RecordedSession, int],
        errors: dict[RecordedSession, OSError],
    ) -> None:
        self._busy = False
        for session, resumes in waiting.items():
            if session in errors:
                self._fail(session, errors[session])
            else:
                session.synced = lengths[session]
            if session not in errors or not self._required:
                for resume in resumes:
                    _resumed(session, resume)
        if self._waiting and not self._busy:
            self._begin()

    def _fail(self, session: RecordedSession, error: OSError) -> None:
        """After a failed fsync the pages may be gone: nothing more is taken (fail closed)."""
        if session.file.failed is None:
            session.file.fail(f"transcript {session.file.id}: {error.strerror}")
            self._lost(session, NotRecorded(str(session.file.failed)))


def _resumed(session: RecordedSession, resume: Resume) -> None:
    """What goes wrong with one session does not hold up those behind it."""
    try:
        resume()
    except Exception:
        log.failure("Session {id} does not go on", id=session.file.id)


def _sync(session: RecordedSession) -> OSError | None:
    try:
        session.file.sync()
    except OSError as error:
        return error
    return None


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def place(root: Path, session_id: str, started: float) -> Path:
    """Where the transcript of a session lies that began at *started* (epoch seconds)."""
    day = datetime.fromtimestamp(started, UTC)
    return root / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}" / f"{session_id}{SUFFIX}"


def purge(root: Path, before: date) -> int:
    """Remove the transcripts that were last written before *before*; how many there were.

    A session that still runs keeps its own, however long ago it began.
    """
    gone = 0
    for day in root.glob("[0-9]*/[0-9]*/[0-9]*"):
        try:
            begun = date(*(int(part) for part in day.relative_to(root).parts))
        except ValueError:
            continue  # not ours
        if begun < before:
            gone += sum(expired(path, before) for path in day.glob(f"*{SUFFIX}"))
            for directory in (day, day.parent, day.parent.parent):
                with suppress(OSError):  # others are still there
                    directory.rmdir()
    return gone


def expired(path: Path, before: date) -> bool:
    """Whether it was last written before *before*, and is gone now."""
    try:
        with path.open("rb") as file:
            written = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC).date()
            if written >= before or locked(file):
                return False
        path.unlink()
    except OSError as error:
        log.warn("{path} is past its retention and stays: {why}", path=path, why=error.strerror)
        return False
    return True
