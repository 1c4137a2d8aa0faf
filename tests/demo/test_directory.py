from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import config, objects
from gateway.demo import directory
from gateway.demo.directory import ACCOUNTS, PEOPLE, _remove, opened
from gateway.errors import GatewayError
from tests.real.servers import free_port
from tests.real.ssh_servers import run


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ports that are free, whatever else this machine runs."""
    ports: dict[str, int] = {}
    while len(set(ports.values())) < len(directory.USUAL):
        ports = {name: free_port() for name in directory.USUAL}
    monkeypatch.setattr(directory, "USUAL", ports)
    return ports


@pytest.fixture
def taken(usual: dict[str, int]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", usual["primary"])):
        yield usual["primary"]


def test_what_is_written_is_private_and_judged_fine(tmp_path: Path, usual: dict[str, int]) -> None:
    with opened(tmp_path / "a" / "demo") as home:
        assert home.ports == usual
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        secret = [*(home.path / "secrets").iterdir(), *(home.path / "keys").iterdir()]
        assert home.host_key in secret
        assert home.key("bob") in secret
        for file in (home.configuration, home.objects, *secret):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        loaded = config.load(home.configuration)
        assert loaded.listeners[0].address.port == usual["gateway"]
        named = {document.name: document for document in objects.read(home.objects)}
        assert named.keys() >= {"alice", "bob"}
        assert named["orders"].body["health"] == {"account": "app_ro"}


def test_passwords_are_of_one_directory(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as one, opened(tmp_path / "two") as two:
        names = {*ACCOUNTS, *PEOPLE}
        assert set(one.passwords) == names
        assert len({*one.passwords.values(), *two.passwords.values()}) == 2 * len(names)
        for key in (one.host_key, one.key("alice"), one.key("bob")):
            assert key.read_text() != (two.path / key.relative_to(one.path)).read_text()
        assert not [word for word in one.passwords.values() if word in repr(one)]
        first, host_key = one.passwords, one.host_key.read_text()
    with opened(tmp_path / "one") as again:
        assert again.passwords == first
        assert again.host_key.read_text() == host_key


def test_the_keys_are_those_that_the_objects_name(tmp_path: Path) -> None:
    with opened(tmp_path) as home:
        written = home.objects.read_text()
        for key in (home.host_key, home.key("alice"), home.key("bob")):
            public = run("ssh-keygen", "-y", "-f", key)
            assert f'"{public.strip()}"' in written
        assert not [word for word in home.passwords.values() if word in written]


def test_what_is_written_at_each_start_is_private_too(tmp_path: Path) -> None:
    with opened(tmp_path) as home:
        for text in ("first", "second"):
            file = home.replace("known_hosts", text)
            assert file.read_text() == text
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not list(tmp_path.glob("*.new"))


def temporary(failure: BaseException | None) -> Path:
    """Where a temporary one was, in which *failure* came."""
    with opened(None) as home:
        MADE.append(home.path)
        assert home.configuration.exists()
        closed = home.path / "closed"
        (closed / "inner").mkdir(parents=True)
        closed.chmod(0)
        if failure is not None:
            raise failure
    return home.path


MADE: list[Path] = []


def test_a_temporary_one_goes_at_the_end() -> None:
    assert not temporary(None).exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_temporary_one_goes_when_it_is_stopped(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        temporary(stop)
    assert not MADE[-1].exists()


@pytest.mark.parametrize("failure", [GatewayError("broken"), OSError("broken")])
def test_a_temporary_one_stays_when_something_fails(failure: Exception) -> None:
    with pytest.raises(GatewayError, match=r"^broken; ") as failed:
        temporary(failure)
    assert str(failed.value).endswith(f"; what it wrote is kept in {MADE[-1]}")
    assert stat.S_IMODE(MADE[-1].stat().st_mode) == 0o700
    _remove(MADE[-1])
    assert not MADE[-1].exists()


def test_a_bug_says_so_too() -> None:
    with pytest.raises(ZeroDivisionError) as bug:
        temporary(ZeroDivisionError())
    assert bug.value.__notes__ == [f"what it wrote is kept in {MADE[-1]}"]
    _remove(MADE[-1])


def test_another_s_failure_is_not_told_of_a_directory_that_was_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"^broken$"), opened(tmp_path):
        raise GatewayError("broken")


def test_a_relative_name_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("demo")) as home:
        assert home.path == tmp_path / "demo"


def test_a_port_that_is_taken_is_left_alone(
    tmp_path: Path, usual: dict[str, int], taken: int
) -> None:
    with opened(tmp_path) as home:
        assert home.ports["primary"] != taken
        assert {**home.ports, "primary": taken} == usual
        assert f"127.0.0.1:{home.ports['primary']}" in home.objects.read_text()


def test_a_port_of_ipv6_counts(tmp_path: Path, usual: dict[str, int]) -> None:
    with (
        socket.create_server(("::1", usual["gateway"]), family=socket.AF_INET6),
        opened(tmp_path) as home,
    ):
        assert home.ports["gateway"] != usual["gateway"]


def test_ports_stay_as_long_as_they_can_and_move_in_the_files(
    tmp_path: Path, usual: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = usual["primary"]
    others = f"# mine: 10.0.0.1:{port}, 127.0.0.1:{port}1, 127.0.0.1:{usual['standby']}\n"
    with opened(tmp_path) as home:
        written = home.objects.read_text() + others
        home.objects.write_text(written)
    monkeypatch.setattr(directory, "USUAL", {})
    with opened(tmp_path) as home:
        assert home.ports == usual
        assert home.objects.read_text() == written
    with socket.create_server(("127.0.0.1", port)), opened(tmp_path) as home:
        now = home.ports["primary"]
        assert now != port
        changed = home.objects.read_text()
    assert changed == written.replace(f'127.0.0.1:{port}"', f'127.0.0.1:{now}"')
    with opened(tmp_path) as home:
        assert home.ports["primary"] == now


def test_one_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(GatewayError, match="in use"), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


def test_what_is_not_a_demo_is_not_touched(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letter").touch()
    with pytest.raises(GatewayError, match="not empty"), opened(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_name_too_long_for_a_socket_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 25)
    with pytest.raises(GatewayError, match="too long"), opened(path):
        pass
    assert not path.exists()
