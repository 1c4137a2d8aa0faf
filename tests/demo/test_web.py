from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from gateway.demo import directory
from gateway.demo.directory import Directory, opened
from gateway.demo.postgres import Programs, _owner
from gateway.demo.web import client_files, target
from gateway.model import Address
from gateway.ssh.authority import SshAuthority, public_lines
from tests.real.servers import free_port
from tests.real.ssh_servers import run
from tests.support import asyncio_test

NAMES = ["plain", "a b", "it's $HOME", 'quo"ted', "back\\slash", "100%d #1", "a=b"]


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "USUAL", {name: free_port() for name in directory.USUAL})


def prepared(home: Directory) -> SshAuthority:
    authority = SshAuthority.open(home.path / "state" / "keys")
    client_files(home, Address("localhost", 2222), authority)
    return authority


@pytest.mark.parametrize("name", NAMES)
def test_ssh_understands_its_configuration(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as home:
        prepared(home)
        for alias, user, person in (
            ("web", "alice#web", "alice"),
            ("web-bob", "bob#web", "bob"),
            ("gateway", "alice", "alice"),
        ):
            said = run("ssh", "-F", home.path / "ssh_config", "-G", alias).splitlines()
            assert f"userknownhostsfile {home.path}/known_hosts" in said
            identity = f"{home.path}/keys/{person}".replace("%", "%%")  # shown before its expansion
            assert f"identityfile {identity}" in said
            for line in ("hostname localhost", "port 2222", f"user {user}"):
                assert line in said
            assert "stricthostkeychecking true" in said


def test_known_hosts_is_what_the_gateway_prints(tmp_path: Path) -> None:
    with opened(tmp_path) as home:
        prepared(home)
        known, _ = public_lines(home.path / "state" / "keys")
        assert (home.path / "known_hosts").read_text() == f"{known}\n"
        assert stat.S_IMODE((home.path / "ssh_config").stat().st_mode) == 0o600


@asyncio_test
async def test_the_target_runs_for_as_long_as_the_block(tmp_path: Path) -> None:
    with opened(tmp_path) as home:
        programs = Programs(Path("/"), _owner(), home.lock)
        async with target(home, prepared(home), programs) as child:
            scanned = _scan(home.ports["web"])
            key = run("ssh-keygen", "-y", "-f", home.host_key).strip()
            assert scanned.endswith(f"{key}\n")
            if os.geteuid() == 0:
                assert (home.path / "web").stat().st_uid == 65534
        assert child.process.returncode == 0
        assert _scan(home.ports["web"]) == ""
        assert child.log.read_text() == ""


def _scan(port: int) -> str:
    return subprocess.run(
        ["ssh-keyscan", "-p", str(port), "127.0.0.1"], capture_output=True, text=True, check=False
    ).stdout
