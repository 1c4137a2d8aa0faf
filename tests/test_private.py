"""Files that hold secrets: whole or not there, nobody else's, and never through a link."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway import private
from gateway.errors import BadFile

NOBODY = 65534  # a user and a group that own nothing here
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_what_is_made_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys" / "key"
    assert private.kept(path, lambda: b"secret") == b"secret"
    assert private.kept(path, lambda: b"another") == b"secret"
    assert [mode(made) for made in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    private.replace(path, b"fresh")
    assert (private.read(path), mode(path)) == (b"fresh", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o750)
    private.make(tmp_path / "state")
    private.directory(tmp_path / "state" / "keys")
    assert mode(tmp_path / "state") == 0o750


@pytest.mark.parametrize("access", [0o750, 0o701, 0o770])
def test_a_directory_that_others_reach_is_refused(tmp_path: Path, access: int) -> None:
    tmp_path.chmod(access)
    with pytest.raises(BadFile, match=r":1:1: others .*chmod 700"):
        private.directory(tmp_path)
    with pytest.raises(BadFile, match="chmod 700"):
        private.kept(tmp_path / "key", lambda: b"")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match="/file:1:1: cannot be made: File exists"):
        private.directory(tmp_path / "file" / "keys")


@pytest.mark.parametrize("access", [0o640, 0o604, 0o620, 0o660])
def test_a_file_that_others_reach_is_refused(tmp_path: Path, access: int) -> None:
    private.create(tmp_path / "key", b"secret")
    (tmp_path / "key").chmod(access)
    with pytest.raises(BadFile, match=r"/key:1:1: others .*chmod 600"):
        private.read(tmp_path / "key")


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    private.create(tmp_path / "key", b"0123456789")
    assert private.read(tmp_path / "key", 4) == b"0123"


def a_link(path: Path) -> None:
    private.create(path.with_name("elsewhere"), b"secret")
    path.symlink_to("elsewhere")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (a_link, "symbolic links"),
        (a_link_to_nothing, "symbolic links"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "not a file"),  # opening one to read would wait for who writes
    ],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, put: Callable[[Path], None], words: str
) -> None:
    put(tmp_path / "key")
    with pytest.raises(BadFile, match=f"/key:1:1: cannot be read: .*{words}"):
        private.kept(tmp_path / "key", lambda: b"made")
    assert not (tmp_path / "nothing").exists()


def test_one_that_came_first_stays(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        makers = [
            threads.submit(private.kept, tmp_path / "key", lambda n=n: bytes([n]) * 9)
            for n in range(8)
        ]
    assert {maker.result() for maker in makers} == {private.read(tmp_path / "key")}
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_a_replaced_link_leaves_what_it_led_to(tmp_path: Path) -> None:
    a_link(tmp_path / "key")
    private.replace(tmp_path / "key", b"fresh", 0o644)
    assert (tmp_path / "elsewhere").read_bytes() == b"secret"
    assert (tmp_path / "key").read_bytes() == b"fresh"
    assert mode(tmp_path / "key") & ~0o044 == 0o600


@pytest.mark.parametrize("write", [private.create, private.replace])
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    with pytest.raises(BadFile, match="/gone/key:1:1: cannot be written: No such file"):
        write(tmp_path / "gone" / "key", b"secret")
    (tmp_path / "key").mkdir()
    if write is private.replace:
        with pytest.raises(BadFile, match="/key:1:1: cannot be written: Is a directory"):
            write(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


# -- whose it is ---------------------------------------------------------------------------


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody can come to: pytest's own are its user's only."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o711)
        yield Path(path)


def as_user(uid: int, work: Callable[[], object]) -> object:
    os.seteuid(uid)
    try:
        return work()
    finally:
        os.seteuid(0)


@root
def test_another_users_file_is_refused_unless_we_are_root(open_path: Path) -> None:
    keys = open_path / "keys"
    private.directory(keys)
    private.create(keys / "key", b"secret")
    with pytest.raises(BadFile, match="/key:1:1: cannot be read: Permission denied"):
        as_user(NOBODY, lambda: private.kept(keys / "key", lambda: b"another"))
    os.chown(keys, NOBODY, NOBODY)
    os.chown(keys / "key", NOBODY - 1, NOBODY)
    assert private.read(keys / "key") == b"secret"
    private.directory(keys)
    as_user(NOBODY, lambda: private.directory(keys))
    with pytest.raises(BadFile, match="belongs to another user"):
        as_user(NOBODY - 1, lambda: private.directory(keys))
    os.chown(keys / "key", NOBODY, NOBODY)
    assert as_user(NOBODY, lambda: private.read(keys / "key")) == b"secret"
