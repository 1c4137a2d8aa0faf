from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import psycopg.conninfo
import pytest
from attrs import evolve

from gateway import config
from gateway.config import Config
from gateway.demo.directory import Directory
from gateway.demo.lines import command, front, lines, psql, reached
from gateway.errors import GatewayError
from gateway.model import Address

PATHS = ["/tmp/demo", "/a b", "/it's", "/back\\slash", "/$HOME", '/"quoted"', "/!history", "/`id`"]


def configuration(path: Path, *addresses: str) -> Config:
    file = path / "gateway.yaml"
    listeners = [f"  - {{address: {address}}}" for address in addresses]
    file.write_text(
        "\n".join(["listeners:", *listeners]).replace("}", ", protocols: [postgresql]}")
    )
    return config.load(file)


def conninfo(line: str) -> dict[str, str]:
    """What psql gets when a shell has read *line*."""
    password, psql, argument = shlex.split(line)
    assert psql == "psql"
    return {"PGPASSWORD": password, **psycopg.conninfo.conninfo_to_dict(argument)}


@pytest.mark.parametrize("state", PATHS)
def test_psql_gets_what_was_meant(tmp_path: Path, state: str) -> None:
    loaded = evolve(configuration(tmp_path, "127.0.0.1:5432"), state_dir=Path(state))
    assert conninfo(psql(loaded, "alice", "it's me")) == {
        "PGPASSWORD": "PGPASSWORD=it's me",
        "host": "localhost",
        "port": "5432",
        "user": "alice",
        "dbname": "orders",
        "sslmode": "verify-full",
        "sslrootcert": f"{state}/ca.crt",
    }


def test_the_usual_line_is_as_people_write_it(tmp_path: Path) -> None:
    loaded = evolve(configuration(tmp_path, "127.0.0.1:5432"), state_dir=Path("/d/state"))
    assert psql(loaded, "alice", "a1b2") == (
        'PGPASSWORD=a1b2 psql "host=localhost port=5432 user=alice dbname=orders'
        ' sslmode=verify-full sslrootcert=/d/state/ca.crt"'
    )


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1:1", "localhost"), ("0.0.0.0:1", "localhost"), ("10.0.0.1:1", "10.0.0.1")],
)
def test_the_host_is_one_that_the_certificate_names(
    tmp_path: Path, address: str, host: str
) -> None:
    loaded = configuration(tmp_path, address, "192.0.2.1:5432")
    assert conninfo(psql(loaded, "bob", "x"))["host"] == host
    assert reached(loaded, "postgresql").host == host
    assert loaded.listeners[0].address == Address.parse(address)


def test_without_a_listener_there_is_nothing_to_show(tmp_path: Path) -> None:
    loaded = configuration(tmp_path, "127.0.0.1:1")
    assert front(loaded, "postgresql") == Address("127.0.0.1", 1)
    with pytest.raises(GatewayError, match="needs a listener for ssh"):
        front(loaded, "ssh")
    with pytest.raises(GatewayError, match="needs a listener for postgresql"):
        front(evolve(loaded, listeners=()), "postgresql")


@pytest.mark.parametrize("path", PATHS)
def test_the_command_can_be_called(path: str) -> None:
    words = shlex.split(command(Path(path)))
    assert words[-2:] == ["--config", path]
    assert Path(words[0]).name in ("gateway", Path(sys.executable).name)


def test_the_command_on_the_search_path_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gateway"
    script.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert command(Path("c")) == f"{script} --config c"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(Path("c")) == "gateway --config c"
    script.unlink()
    assert command(Path("c")) == f"{tmp_path}/python -m gateway --config c"


SECRETS = {"app_rw": "only the gateway knows", "alice": "for alice", "bob": "for bob"}


def served(path: Path, place: Path) -> list[str]:
    """What a demo in *place* says, with both doors open."""
    file = path / "gateway.yaml"
    file.write_text(
        "listeners: [{address: 127.0.0.1:1, protocols: [postgresql, ssh]}]\ndomain: gw.localhost\n"
    )
    return list(
        lines(Directory(place, -1, {"diagnostics": 9, "standby": 7}, SECRETS), config.load(file))
    )


def test_no_secret_of_an_account_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = served(tmp_path, tmp_path)
    assert "only the gateway knows" not in "\n".join(said)
    assert "(psql is not installed here; Debian has it in postgresql-client.)" in said
    assert "(ssh is not installed here; Debian has it in openssh-client.)" in said


def test_people_are_told_their_passwords(tmp_path: Path) -> None:
    said = "\n".join(served(tmp_path, tmp_path))
    assert "(password: for alice)" in said
    assert "(password: for bob)" in said


def test_the_usual_lines_of_ssh_are_as_people_write_them(tmp_path: Path) -> None:
    said = served(tmp_path, Path("/d"))
    assert "  ssh -p 1 -o UserKnownHostsFile=/d/known_hosts 'alice#web@localhost'" in said
    assert "  ssh -F /d/ssh_config -J gateway deploy@web.gw.localhost" in said
    assert not [line for line in served(tmp_path, Path("/a d")) if " -J " in line]


def test_the_usual_lines_for_failover_are_as_people_write_them(tmp_path: Path) -> None:
    said = served(tmp_path, Path("/d"))
    assert "  kill -9 $(head -n 1 /d/standby/postmaster.pid)" in said
    assert [line for line in said if " targets drain 127.0.0.1:7 " in line]


@pytest.mark.parametrize("name", PATHS)
def test_the_line_that_kills_names_the_standby(tmp_path: Path, name: str) -> None:
    place = tmp_path / name[1:]
    (place / "standby").mkdir(parents=True)
    (place / "standby" / "postmaster.pid").write_text("4711\nmore\n")
    [line] = [line for line in served(tmp_path, place) if "kill -9" in line]
    said = subprocess.run(
        ["/bin/sh", "-c", line.replace("kill -9", "echo")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "4711\n"


@pytest.mark.parametrize("path", PATHS)
def test_ssh_gets_what_was_meant(tmp_path: Path, path: str) -> None:
    """OpenSSH tells what it has understood."""
    [line] = [line for line in served(tmp_path, Path(path)) if "ssh -p" in line]
    program, *arguments = shlex.split(line)
    understood = subprocess.run(
        [program, "-F", "/dev/null", "-G", *arguments], capture_output=True, text=True, check=True
    ).stdout
    assert f"\nuserknownhostsfile {path}/known_hosts\n" in understood
    assert understood.startswith("user alice#web\n") or "\nuser alice#web\n" in understood
