"""The command line as a whole: where it looks, how it fails, what it never shows."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gateway import __version__
from gateway.cli.root import gateway
from tests.daemon import Done, run, running
from tests.support import asyncio_test


def commands(group: click.Command, *path: str) -> list[tuple[str, ...]]:
    """All that can be run, by the words that run it."""
    if not isinstance(group, click.Group):
        return [path]
    return [each for name in group.commands for each in commands(group.commands[name], *path, name)]


EVERY = commands(gateway)


def test_the_contract() -> None:
    assert {" ".join(path) for path in EVERY} >= {
        "apply", "audit", "ca", "check", "delete", "demo", "explain", "export", "get", "kill",
        "passwd", "replay", "schema", "search", "sessions", "users disable", "users enable",
        "verify", "watch",
    }  # fmt: skip


@pytest.mark.parametrize("path", [(), ("users",), *EVERY], ids=" ".join)
def test_each_helps(path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        done = run(*path, flag)
        assert (done.code, done.err) == (0, "")
        assert "--config FILE" in done.out, "every command takes it"


@pytest.mark.parametrize("group", [(), ("users",), ("targets",)], ids=" ".join)
def test_what_each_does_is_told_whole(group: tuple[str, ...]) -> None:
    _, listed = run(*group, "--help", COLUMNS="80").out.split("Commands:\n")
    lines = listed.splitlines()
    assert all(re.fullmatch(r"  \w+ {2,}\w.*[.?]", line) for line in lines), listed
    assert "..." not in listed


def test_version() -> None:
    assert run("--version").out == f"gateway, version {__version__}\n"


USAGE = [
    (("frobnicate",), "No such command 'frobnicate'. (gateway --help tells more)"),
    (("apply",), "Missing option '-f' / '--file'. (gateway apply --help tells more)"),
    (("get", "secrets"), "'secrets' is none of resources, users, roles, bindings"),
    (("get", "users", "a", "b"), "Got unexpected extra argument"),
    (("sessions", "--since", "yesterday"), "'yesterday' is not a time like 30m, 2h or 7d"),
    (("sessions", "--limit", "0"), "0 is not in the range"),
    (("get",), "Missing argument 'KIND'"),
    (("verify",), "name a session or a file, or say --all"),
    (("schema", "secrets"), "'secrets' is not one of 'configuration', 'objects'"),
    (("users", "disable"), "Missing argument 'NAME'. (gateway users disable --help tells more)"),
    (("\x1b[2J\n",), "No such command"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gateway: ")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


@pytest.mark.parametrize("group", [(), ("users",)])
def test_without_a_command_there_is_help(group: tuple[str, ...]) -> None:
    done = run(*group)
    assert (done.code, done.out) == (2, "")
    assert "Usage: gateway" in done.err


def test_nobody_answers(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("state_dir: s\nlisteners: [{address: 127.0.0.1:0, protocols: [ssh]}]\n")
    for arguments in (("get", "users"), ("sessions", "--live"), ("kill", "x")):
        why = f"no gateway answers on {tmp_path}/s/control.sock: No such file or directory"
        assert run(*arguments, "--config", str(config)) == Done(69, "", f"gateway: {why}\n")


def test_a_bad_configuration_is_told_line_by_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("listners: []\nlisteners: 5\n")
    done = run("get", "users", "--config", str(config))
    assert done == Done(
        78, "", f"{config}:1:1: listners: unknown key\n{config}:2:12: listeners: has to be a list\n"
    )
    missing = run("check", "--config", str(tmp_path / "none"))
    assert (missing.code, missing.err.count("\n")) == (78, 1)


@asyncio_test
async def test_the_configuration_is_named_before_or_after_or_around(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        good, bad = str(daemon.config), str(tmp_path / "none")

        async def code(*arguments: str, variable: str | None = None) -> int:
            done = await asyncio.to_thread(run, *arguments, GATEWAY_CONFIG=variable)
            return done.code

        assert await code("--config", good, "get", "users") == 0
        assert await code("get", "--config", good, "users") == 0
        assert await code("get", "users", "--config", good) == 0
        assert await code("users", "--config", good, "disable", "alice") == 0
        assert await code("users", "enable", "alice", "--config", good) == 0
        assert await code("get", "users", variable=good) == 0
        assert await code("get", "users", "--config", good, variable=bad) == 0
        assert await code("--config", bad, "get", "users", "--config", good) == 0, "the last word"
        assert await code("get", "users", "--config", bad, variable=good) == 78
        assert await code("get", "users", variable=bad) == 78


def test_as_a_process(tmp_path: Path) -> None:
    """Nothing on stderr but what was said, whatever the terminal can show."""
    config = tmp_path / "gateway.yaml"
    config.write_text('"näm\\u202e": 1\n')
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "check", "--config", config],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        shown = "näm" if encoding == "utf-8" else "n\\xe4m"
        assert (done.returncode, done.stdout.decode()) == (78, "")
        assert done.stderr.decode().splitlines() == [
            f"{config}:1:1: listeners: is missing",
            f"{config}:1:1: {shown}\\u202e: unknown key",
        ]


def test_nobody_reads_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "schema", "objects"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
