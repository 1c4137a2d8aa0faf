"""What is installed is what is meant: versions, files, and the first command of README.rst."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway import config
from tests.demo.demos import GATEWAY, LAST, query
from tests.real.servers import PATIENCE, until
from tests.test_readme import lines

ROOT = Path(__file__).parents[1]
INSTALLING = 300.0  # seconds: sixty packages from an index far away


# -- versions ------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    text = re.sub(r"#.*", "", (ROOT / "constraints.txt").read_text())
    split = (line.split("==") for line in text.split())
    return {canonicalize_name(name): version for name, version in split}


def needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of what *name* needs here, and what that needs."""
    waiting, seen = [(name, extras)], set()
    while waiting:
        name, extras = waiting.pop()
        for line in importlib.metadata.requires(name) or ():
            found = Requirement(line)
            key = (canonicalize_name(found.name), frozenset(found.extras))
            if key not in seen and _applies(found, extras):
                seen.add(key)
                waiting.append(key)
                yield key[0]


def _applies(found: Requirement, extras: frozenset[str]) -> bool:
    if found.marker is None:
        return True
    return any(found.marker.evaluate({"extra": extra}) for extra in extras or {""})


def test_every_version_is_pinned_and_installed_as_pinned() -> None:
    pinned = pins()
    names = {*needed("gateway"), *needed("gateway", frozenset({"test"}))}
    assert len(names) > 50
    assert {name: importlib.metadata.version(name) for name in names} == {
        name: pinned.get(name) for name in names
    }


# -- samples -------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """etc/ with the files that it refers to."""
    etc = tmp_path / "etc"
    shutil.copytree(ROOT / "etc", etc)
    for name in ("tls.crt", "tls.key", "users-ca.crt"):
        (etc / name).touch()
    return etc


def check(path: Path) -> str:
    done = subprocess.run(
        [GATEWAY, "check", "--config", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_samples_are_fine(samples: Path) -> None:
    assert check(samples / "gateway.yaml") == f"{samples / 'gateway.yaml'}: fine\n"


def test_what_the_configuration_shows_as_defaults_is_so(samples: Path) -> None:
    path = samples / "gateway.yaml"
    plain = config.load(path)
    path.write_text(uncommented(path))
    full = config.load(path)
    for name in ("tls_required", "recording", "limits", "health", "drain_seconds"):
        assert getattr(full, name) == getattr(plain, name)
    assert full.tls.minimum == plain.tls.minimum
    assert full.tls.client_ca == samples / "users-ca.crt"
    assert full.domain == "gw.example.com"
    assert full.listeners[0].trusted_proxies


def test_every_key_is_shown(samples: Path) -> None:
    text = uncommented(samples / "gateway.yaml")
    schema = config.json_schema()
    models = [schema, *schema["$defs"].values()]
    keys = {key for model in models for key in model.get("properties", ())}
    assert not [key for key in keys if not re.search(rf"\b{key}:", text)]


def uncommented(path: Path) -> str:
    """A "#" that no space follows stands before what could be set."""
    return re.sub(r"^( *)#(?=\S)", r"\1", path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("one", ["certificate", "scram-sha-256", "file", "plain"])
def test_what_objects_show_is_fine_too(samples: Path, one: str) -> None:
    """Of the ways to give bob a password, one at a time."""
    path = samples / "objects.yaml"
    text = re.sub(rf"^ *#password: {{(?!{one}).*\n", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(
        re.sub(r"^( *)#(?=\S)", r"\1", text, flags=re.MULTILINE).replace(VERIFIER, GOOD)
    )
    check(samples / "gateway.yaml")


VERIFIER = "SCRAM-SHA-256$4096:..."
GOOD = f"SCRAM-SHA-256$4096:{'A' * 22}==${'A' * 43}=:{'A' * 43}="


def test_the_unit_is_a_strict_one() -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "etc" / "gateway.service")
    service = unit["Service"]
    assert (service["ProtectSystem"], service["NoNewPrivileges"]) == ("strict", "yes")
    assert (service["StateDirectoryMode"], service["UMask"]) == ("0700", "0077")
    assert (service["CapabilityBoundingSet"], service["User"]) == ("", "gateway")
    assert service["RestartPreventExitStatus"] == "78"
    drain = config.load(ROOT / "etc" / "gateway.yaml").drain_seconds
    assert float(service["TimeoutStopSec"]) > drain


# -- the wheel, by the first command of README.rst -----------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of this state would have."""
    place = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def installed(clone: Path) -> Iterator[str]:
    """The first command, run in an empty home until it is up; what it said."""
    home, out = clone / "home", clone / "out"
    home.mkdir()
    line = lines("itself")[0]
    with out.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=clone,
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    until(lambda: LAST in out.read_text() or process.poll() is not None, line, INSTALLING)
    assert LAST in out.read_text(), out.read_text()
    yield out.read_text()
    shell = psutil.Process(process.pid)
    [demo] = (each for each in (shell, *shell.children()) if "demo" in each.cmdline())
    demo.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0


def test_the_first_command_serves(installed: str) -> None:
    line = next(line for line in installed.splitlines() if "user=alice" in line)
    assert query(line, "SELECT count(*) FROM orders") == "200"


@pytest.mark.usefixtures("installed")
def test_the_wheel_has_the_plug_in_and_the_data(clone: Path) -> None:
    for command in (("twist",), ("twistd", "-n")):
        program = str(clone / ".venv" / "bin" / command[0])
        helped = [program, *command[1:], "gateway", "--help"]
        done = subprocess.run(helped, cwd="/", capture_output=True, check=True)
        assert b"--config" in done.stdout
    [package] = clone.glob(".venv/lib/python3*/site-packages/gateway")
    for name in ("py.typed", "store/migrations/env.py"):
        assert (package / name).is_file()
