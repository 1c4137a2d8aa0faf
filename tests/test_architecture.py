"""Taste as assertions: who imports whom, where permission is minted, how long files are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gateway

ROOT = Path(gateway.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LONGEST = 400  # lines: what one reads in a sitting

BASE = {"model", "errors", "contracts"}
DECIDING = {"hours", "terms", "policy", "routing", "explain"}
WORKING = {"ca", "certificates", "health", "identity", "private", "record", "vault", "wire"}
OPERATING = {"audit", "catalog", "commands", "control", "diagnostics", "objects", "store"}

# What each room may import beside itself. A room is a module or a package of gateway/.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "errors": set(),
    "contracts": {"model", "errors"},
    "hours": {"model"},
    "forwards": {"model"},
    "loginname": {"errors"},
    "terms": {"model", "forwards"},
    "policy": {"model", "hours", "terms"},
    "routing": {"model"},
    "proxyheader": {"model", "errors"},
    "greeting": set(),
    "explain": {"model", "policy", "routing", "terms"},
    "places": set(),
    "marked": {"errors"},
    "fields": {"model"},
    "config": {"model", "fields", "marked", "places"},
    "objects": BASE | {"fields", "hours", "identity", "marked"},
    "private": {"errors"},
    "vault": {"errors", "private"},
    "audit": {"contracts", "errors", "record"},
    "record": BASE | {"private"},
    "store": BASE | {"private"},
    "catalog": BASE | {"identity", "objects", "store"},
    "ca": BASE | {"private"},
    "certificates": BASE | {"ca"},
    "health": BASE | {"reach", "routing"},
    "identity": BASE,
    "wire": BASE,
    "reach": BASE | {"wire"},
    "doorstep": BASE | {"greeting", "proxyheader", "wire"},
    "pg": BASE | {"certificates", "health", "identity", "loginname", "reach", "record", "routing",
                  "wire"},
    "ssh": BASE | {"forwards", "health", "identity", "loginname", "private", "reach", "record",
                   "routing", "wire"},
    "told": {"pg", "record", "ssh"},
    "show": {"errors", "record"},
    "live": BASE | {"policy"},
    "targets": BASE | {"health", "live", "routing"},
    "doctor": BASE | {"health"},
    "session": BASE | {"policy", "live"},
    "listen": BASE | {"wire", "session"},
    "control": BASE,
    "diagnostics": BASE | {"live", "session"},
    "commands": BASE | {"catalog", "doctor", "explain", "health", "live", "objects", "routing",
                        "store", "targets"},
    "app": BASE | DECIDING | WORKING | OPERATING
    | {"config", "doorstep", "greeting", "listen", "live", "pg", "places", "session", "ssh",
       "targets"},
    "tap": {"app", "config", "errors"},
    "demo": BASE | {"config", "objects", "places", "ssh"},
    "cli": BASE | {"audit", "commands", "config", "control", "demo", "marked", "objects", "places",
                   "record", "show", "ssh", "store", "told", "vault"},
    "simulation": BASE | {"health", "routing"},
    "__main__": {"cli"},
}  # fmt: skip

# No socket, reactor or event loop in what only parses, formats, compares and decides.
SANS_IO = [
    "model.py",
    "errors.py",
    "contracts.py",
    "hours.py",
    "forwards.py",
    "loginname.py",
    "terms.py",
    "policy.py",
    "routing.py",
    "explain.py",
    "proxyheader.py",
    "greeting.py",
    "marked.py",
    "fields.py",
    "config.py",
    "places.py",
    "health/accounts.py",
    "health/findings.py",
    "health/sightings.py",
    "health/state.py",
    "objects/parse.py",
    "objects/references.py",
    "objects/schema.py",
    "objects/settle.py",
    "objects/values.py",
    "identity/password.py",
    "record/facts.py",
    "record/format.py",
    "show/cast.py",
    "show/export.py",
    "pg/frames.py",
    "pg/startup.py",
    "pg/login.py",
    "pg/scram.py",
    "pg/effects.py",
    "pg/farewell.py",
    "pg/observe.py",
    "pg/scan.py",
    "pg/state.py",
    "pg/statements.py",
    "pg/words.py",
    "ssh/files.py",
    "ssh/messages.py",
    "ssh/notes.py",
    "ssh/rights.py",
    "ssh/scp.py",
    "ssh/sftp.py",
    "ssh/sftp_packets.py",
    "ssh/transcript.py",
    "ssh/typed.py",
    "ssh/words.py",
]
BANNED = {"twisted", "asyncio", "socket", "asyncssh"}
SHELL = "demo/shell.py"  # the demo's SSH target, a program of its own

UNTESTED = {
    "model.py": "values without behaviour; every test uses them",
    "errors.py": "names and words; every test uses them",
    "contracts.py": "protocols: the type checker is their test",
}


def inside(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports: ``from gateway import x`` counts as gateway.x."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{inside(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield name(node.func), node


def name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_imports_run_one_way(path: Path) -> None:
    if room(path) == "__init__":
        assert not [found for found in imports(path) if found.startswith("gateway")]
        return
    rooms = {found.split(".")[1] for found in imports(path) if found.startswith("gateway.")}
    assert rooms - {room(path)} <= ALLOWED[room(path)] | {"__version__"}


def test_the_table_has_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        free = {here for here, needs in left.items() if not (needs - {here}) & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {here: needs for here, needs in left.items() if here not in free}


def test_the_map_shows_every_room_behind_what_it_imports() -> None:
    rows = re.findall(r"^``([a-z, ]+)``  ", gateway.__doc__ or "", re.MULTILINE)
    rooms = [name for row in rows for name in row.split(", ")]
    assert sorted([*rooms, "__main__"]) == sorted(ALLOWED)
    for place, here in enumerate(rooms):
        assert not ALLOWED[here] & set(rooms[place + 1 :]), here


@pytest.mark.parametrize("file", SANS_IO)
def test_sans_io(file: str) -> None:
    assert not {found.split(".")[0] for found in imports(ROOT / file)} & BANNED


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_asyncssh_stays_in_its_room(path: Path) -> None:
    if room(path) != "ssh" and inside(path) != SHELL:
        assert "asyncssh" not in {found.split(".")[0] for found in imports(path)}
        assert "gateway.demo.shell" not in {found.rpartition(".")[0] for found in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_a_grant_is_minted_by_policy_only(path: Path) -> None:
    if inside(path) == "policy.py":
        return
    for called, call in calls(path):
        assert called != "Grant", f"line {call.lineno} mints a grant"
        if called in {"evolve", "replace"} and call.args:
            assert name(call.args[0]) != "grant", f"line {call.lineno} alters a grant"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.alias):
            assert node.name != "Grant" or node.asname is None, "a grant goes by its name"


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_no_import_hides_from_the_run(path: Path) -> None:
    assert not [found for found in imports(path) if found.endswith("TYPE_CHECKING")]


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_every_file_has_its_test(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if path.name == "__init__.py" or "migrations" in relative.parts:
        return  # maps and re-exports; migrations run whenever a test opens a store
    test = TESTS / relative.parent / f"test_{path.name}"
    if inside(path) in UNTESTED:
        assert not test.exists(), "it has one: its excuse can go"
    else:
        assert test.exists(), f"no {test.relative_to(TESTS)}"
