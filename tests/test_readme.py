"""What README.rst tells people to type works, against the demo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docutils.core
import pytest
from docutils import nodes

import gateway
from gateway.demo.directory import opened
from tests.demo.demos import GATEWAY, Demo
from tests.real.servers import PATIENCE, until

ROOT = Path(__file__).parents[1]
CLIENTS = {"ssh", "scp", "sftp"}  # of OpenSSH
TYPED = {"psql": "SELECT 1;\n", "ssh": "date\n", "sftp": "ls\n"}


def document(name: str) -> nodes.document:
    """Fails on the least that docutils has to say about it."""
    strict = {"report_level": 1, "halt_level": 1}
    return docutils.core.publish_doctree(
        (ROOT / name).read_text(), source_path=name, settings_overrides=strict
    )


def lines(kind: str = "plain") -> list[str]:
    """The shell lines of README.rst's blocks of one class, "plain" if they have none."""
    found = []
    for block in document("README.rst").findall(nodes.literal_block):
        if "sh" in block["classes"] and ({kind} - {"plain"}) == {*block["classes"]} - {
            "code",
            "sh",
        }:
            found += block.astext().splitlines()
    return found


def entries() -> str:
    """What README.rst has for ~/.ssh/config."""
    [block] = [
        block
        for block in document("README.rst").findall(nodes.literal_block)
        if "config" in block["classes"]
    ]
    return block.astext()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, under the domain that the README uses."""
    directory = tmp_path_factory.mktemp("readme") / "demo"
    with opened(directory) as home:
        text = home.configuration.read_text()
        home.configuration.write_text(text.replace("gw.localhost", "gw.example.com"))
    demo = Demo(directory.with_suffix(".out"), "--directory", str(directory)).serving()
    yield demo
    demo.stop()


@pytest.fixture(scope="module")
def environment(demo: Demo) -> dict[str, str]:
    """A shell in which gw.example.com is the demo, and passwords are where psql looks."""
    passfile = demo.path.with_name("pgpass")
    passfile.touch(0o600)
    users = ["alice", "alice#orders", r"alice\:orders", "bob/app_rw", "bob/app_rw#orders"]
    passfile.write_text("".join(f"*:*:*:{user}:{demo.password(_who(user))}\n" for user in users))
    port = re.search(r"port=(\d+)", demo.line("user=alice"))
    assert port
    return {
        "PATH": f"{GATEWAY.parent}:{os.environ['PATH']}",
        "GATEWAY_CONFIG": str(demo.path / "gateway.yaml"),
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": port[1],
        "PGPASSFILE": str(passfile),
    }


@pytest.fixture(scope="module")
def ssh_port(demo: Demo) -> str:
    found = re.search(r"ssh -p (\d+)", demo.text)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def typed(demo: Demo, environment: dict[str, str], ssh_port: str) -> dict[str, str]:
    """A shell of somebody who types the lines as they are."""
    return environment | {"PATH": f"{clients(demo, 'typed', '')}:{environment['PATH']}"}


@pytest.fixture(scope="module")
def configured(demo: Demo, environment: dict[str, str], ssh_port: str) -> dict[str, str]:
    """And of somebody who has README.rst's entries in ~/.ssh/config."""
    here = "HostName 127.0.0.1\n    HostKeyAlias gw.example.com"
    text = entries().replace("HostName gw.example.com", here).replace("2222", ssh_port)
    return environment | {"PATH": f"{clients(demo, 'configured', text)}:{environment['PATH']}"}


def clients(demo: Demo, name: str, text: str) -> Path:
    """OpenSSH's programs as alice has them, for whom gw.example.com is the demo."""
    place = demo.path.with_name(name)
    place.mkdir()
    (place / "config").write_text(f"""\
{text}
Host gw.example.com
    HostName 127.0.0.1
    HostKeyAlias gw.example.com
Host *
    UserKnownHostsFile {demo.path / "known_hosts"}
    StrictHostKeyChecking yes
    IdentityFile {demo.path / "keys" / "alice"}
    IdentitiesOnly yes
    BatchMode yes
""")
    for program in CLIENTS:
        (place / program).write_text(
            f'#!/bin/sh\nexec {shutil.which(program)} -F {place / "config"} "$@"\n'
        )
        (place / program).chmod(0o700)
    return place


def _who(user: str) -> str:
    return re.split(r"\W", user)[0]


def run(line: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=cwd,
        env=environment,
        input=TYPED.get(line.split()[0], ""),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_every_line_does_what_it_says(
    demo: Demo, typed: dict[str, str], configured: dict[str, str], ssh_port: str
) -> None:
    listed = lines()
    assert {line.split()[0] for line in listed} == {"gateway", "psql", *CLIENTS}
    (demo.path / "known_hosts").unlink()  # one of the lines makes it
    for line in listed:
        expected = re.search(r"# exits with (\d+)$", line)
        environment = typed if {"-p", "-P", "-J"} & set(line.split()) else configured
        with session(line, demo, environment) as found:
            said = line.replace(" ID", f" {found}").replace("2222", ssh_port)
            done = run(said, demo.path, environment)
        assert done.returncode == (int(expected[1]) if expected else 0), (line, done.stderr)
        assert "(1 row)" in done.stdout or not line.startswith("psql")
        assert re.search(r"\d\d:\d\d:\d\d", done.stdout) or not line.startswith("ssh ")


@contextmanager
def session(line: str, demo: Demo, environment: dict[str, str]) -> Iterator[str]:
    """The id of a session to put into *line*: a running one where it is to be killed."""
    if not line.startswith("gateway kill"):
        resource = "web" if "--to cast" in line else "orders"
        found = sessions(demo, environment, f"--resource {resource}") if " ID" in line else []
        yield found[0]["id"] if found else ""
        return
    psql = next(line for line in lines() if line.startswith("psql"))
    command = ["/bin/sh", "-c", f"exec {psql} -c 'SELECT pg_sleep(60)'"]
    with subprocess.Popen(
        command, cwd=demo.path, env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        yield until(lambda: sessions(demo, environment, "--live"), "a session")[0]["id"]
        _, said = running.communicate(timeout=10)
    assert "the report can wait until tonight" in said


def sessions(demo: Demo, environment: dict[str, str], *options: str) -> list[dict[str, Any]]:
    command = " ".join(["gateway sessions --format json", *options])
    found: list[dict[str, Any]] = json.loads(run(command, demo.path, environment).stdout)
    return found


def test_the_files_made_on_the_way_are_good(demo: Demo) -> None:
    assert "listeners" in json.loads((demo.path / "gateway.schema.json").read_text())["properties"]
    assert "bindings" in json.loads((demo.path / "objects.schema.json").read_text())["properties"]
    events = [json.loads(line) for line in (demo.path / "session.jsonl").read_text().splitlines()]
    assert [event["sql"] for event in events if event["kind"] == "statement"] == ["SELECT 1;"]
    cast = [json.loads(line) for line in (demo.path / "session.cast").read_text().splitlines()]
    assert cast[0]["version"] in (2, 3)
    assert len(cast) > 1
    assert (demo.path / "session.html").read_text().startswith("<!")
    assert (demo.path / "gateway_user_ca.pub").read_text().startswith("ssh-ed25519 ")
    objects = (demo.path / "objects.yaml").read_text()
    assert (demo.path / "copied.yaml").read_text() == objects


def test_lines_for_root_name_what_there_is() -> None:
    listed = lines("root")
    text = "\n".join(listed)
    subprocess.run(["/bin/sh", "-n", "-c", text], check=True)
    for name in re.findall(r"(?:^|\s)(etc/\S+|constraints\.txt)", text):
        assert (ROOT / name).is_file()
    unit = (ROOT / "etc" / "gateway.service").read_text()
    for where in (
        "/opt/gateway/bin/twist ",
        "/opt/gateway/bin/gateway ",
        " /etc/gateway/gateway.yaml",
    ):
        assert where in unit


def test_the_two_commands_are_the_ones_that_are_tested() -> None:
    install, test = lines("itself")
    assert install.endswith("&& .venv/bin/gateway demo")  # tests/test_packaging.py runs it
    checks = (ROOT / ".ci" / "run").read_text().splitlines()
    assert set(test.split(" && ")) < set(checks)


def test_what_the_tests_need_is_told() -> None:
    text = (ROOT / "tests" / "setup").read_text()
    packages = {
        name
        for line in re.findall(r'^need ".*" (.*)$', text, re.MULTILINE)
        for name in line.split()
    }
    told = set((ROOT / "README.rst").read_text().replace("`", " ").split())
    assert packages - told == {"util-linux"}  # which every Debian has


def test_every_command_is_mentioned() -> None:
    helped = subprocess.run([GATEWAY, "--help"], capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  (\w+)  ", helped.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) >= 15
    text = (ROOT / "README.rst").read_text()
    assert not [name for name in commands if f"gateway {name}" not in text]


def test_the_change_log_is_in_order() -> None:
    document("CHANGES.rst")
    assert f"\n{gateway.__version__} (" in (ROOT / "CHANGES.rst").read_text()
