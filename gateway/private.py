"""Files that hold secrets, and the directories that hold such files.

What is judged is what was opened: a name may lead elsewhere a moment later. What is written
is whole on the disk before it has its name.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import BadFile

MOST = 64 << 10  # bytes of a key or a chain in PEM: ten times what RSA-4096 needs


def make(path: Path) -> None:
    """See that a directory is there: 0700 if it is new, as those above it that are.

    :raises OSError: it cannot be made
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def directory(path: Path) -> None:
    """As :func:`make`, and that it is its owner's only.

    :raises BadFile: others have access, it is another user's, or it cannot be made
    """
    try:
        make(path)
        status = path.stat()
    except OSError as wrong:
        named = Path(wrong.filename or path)
        raise BadFile.about(named, f"cannot be made: {wrong.strerror}") from wrong
    _judge(status, path, "700")


def kept(
    path: Path, first: Callable[[], bytes], most: int = MOST, rests: Path | None = None
) -> bytes:
    """What is in *path*; made of *first* if it is not there, and its directory, too.

    :param rests: what was made with it: where there is such a thing, another one will not do
    :raises BadFile: as :func:`read`, :func:`create` and :func:`directory`, or it was lost
    """
    directory(path.parent)
    if not _there(path):
        if rests is not None:
            raise BadFile.about(path, f"is missing, and {rests} rests on it: restore it")
        create(path, first())
    return read(path, most)


def read(path: Path, most: int = MOST) -> bytes:
    """The first *most* bytes: what is longer is damaged, and will be found to be.

    :raises BadFile: others have access, it is another user's, a link, or cannot be read
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _told(path, "read"), open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadFile.about(path, "cannot be read: it is not a file")
        _judge(status, path, "600")
        return file.read(most)


def create(path: Path, data: bytes) -> None:
    """A file of mode 0600, whole or not at all; one that came first stays as it is.

    :raises BadFile: it cannot be written
    """
    with _told(path, "written"), _draft(path, data, 0o600) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync(path.parent)


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The new or the old one, whole, even when the machine stops half-way.

    :raises BadFile: it cannot be written
    """
    with _told(path, "written"), _draft(path, data, mode) as draft:
        os.replace(draft, path)
        _sync(path.parent)


def _there(path: Path) -> bool:
    with _told(path, "read"):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        return True


def _judge(status: os.stat_result, path: Path, mode: str) -> None:
    if status.st_mode & 0o077:
        raise BadFile.about(path, f"others than its owner have access; chmod {mode} it")
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:  # root may look at it
        raise BadFile.about(path, "belongs to another user")


@contextmanager
def _told(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        raise BadFile.about(path, f"cannot be {done}: {wrong.strerror}") from wrong


@contextmanager
def _draft(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """*data* under a name that nobody can foresee, beside *path*; that name goes again."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
