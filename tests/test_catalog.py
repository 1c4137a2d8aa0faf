"""Applying objects over a real store: who owns what, what is refused, what is seen when."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import objects
from gateway.catalog import (
    BadPassword,
    Catalog,
    Change,
    NoSuchObject,
    StillNeeded,
)
from gateway.errors import BadFile, NotRecorded
from gateway.identity.password import matches
from gateway.model import Snapshot
from gateway.store import Bodies, Conflict, Store
from gateway.vault import FileVault
from tests.support import asyncio_test

ORDERS = """
resources:
  - name: orders
    protocol: postgresql
    targets: [{address: "db.example.com:5432"}]
    accounts: [{name: app_ro, password: {value: hunter2-for-orders}}]
"""
READER = "roles: [{name: reader, allow: [{resources: {names: [orders]}, accounts: [app_ro]}]}]\n"
ALICE = "users: [{name: alice, groups: [a], password: {plain: hunter2-of-alice}}]\n"
BOB = "users: [{name: bob, groups: [b]}]\n"
BOTH = "users: [{name: alice, groups: [c]}, {name: bob, groups: [b]}]\n"
BOUND = "bindings: [{name: alice-reads, role: reader, subjects: [user:alice]}]\n"
ALL = ORDERS + READER + ALICE + BOUND


@define
class Rig:
    """A catalog on real files; what the audit log and those who listen were told."""

    directory: Path
    audited: list[tuple[str, dict[str, Any]]] = field(factory=list)
    seen: list[Snapshot] = field(factory=list)
    noting: Callable[[], None] = lambda: None

    def write(self, event: str, **facts: Any) -> str:
        self.audited.append((event, facts))
        self.noting()
        return str(len(self.audited))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Catalog, Store]]:
        store = await Store.open(self.directory / "gateway.sqlite")
        vault = FileVault.open(self.directory / "keys")
        catalog = Catalog(store, vault, self, self.seen.append)
        await catalog.load()
        try:
            yield catalog, store
        finally:
            await store.close()


async def apply(
    catalog: Catalog, text: str, owner: str | None = None, **options: bool
) -> list[Change]:
    documents = objects.parse(text, owner or "by-hand.yaml")
    return await catalog.apply(documents, owner=owner, **options)


def short(changes: Sequence[Change]) -> list[str]:
    return [" ".join((change.sign, change.name, *change.paths)) for change in changes]


# What is there (owner, text), what is applied (owner, text, prune), what that changes.
STEPS = [
    ("made by hand", [], (None, BOTH, False), ["+ alice", "+ bob"]),
    ("again", [(None, ALICE)], (None, ALICE, False), []),
    ("what is not named stays", [(None, ALICE)], (None, BOB, False), ["+ bob"]),
    ("unless pruned", [(None, ALICE)], (None, BOB, True), ["- alice", "+ bob"]),
    ("changed", [(None, ALICE)], (None, BOTH, False), ["~ alice groups", "+ bob"]),
    ("a file drops its own", [("f", ALICE)], ("f", BOB, False), ["- alice", "+ bob"]),
    ("not another file's", [("f", ALICE)], ("g", BOB, False), ["+ bob"]),
    ("nor what was made by hand", [(None, ALICE)], ("f", BOB, False), ["+ bob"]),
    ("a file takes over", [(None, ALICE)], ("f", ALICE, False), ["~ alice owner"]),
    ("and keeps it against a hand", [("f", ALICE), (None, BOTH)], ("f", BOB, False),
     ["- alice", "~ bob owner"]),
    ("an empty file drops all its own", [("f", ALL)], ("f", "", False),
     ["- alice-reads", "- orders", "- reader", "- alice"]),
    ("pruned by hand, files' too", [("f", ALL)], (None, BOB, True),
     ["- alice-reads", "- orders", "- reader", "- alice", "+ bob"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "step", "expected"), [each[1:] for each in STEPS], ids=[each[0] for each in STEPS]
)
@asyncio_test
async def test_who_owns_what(
    tmp_path: Path,
    before: list[tuple[str | None, str]],
    step: tuple[str | None, str, bool],
    expected: list[str],
) -> None:
    rig = Rig(tmp_path)
    owner, text, prune = step
    async with rig.open() as (catalog, store):
        for earlier, written in before:
            await apply(catalog, written, earlier)
        stored, snapshot = await store.bodies(), catalog.snapshot
        rig.audited.clear()
        rig.seen.clear()
        planned = await apply(catalog, text, owner, prune=prune, dry_run=True)
        assert short(planned) == expected
        assert (await store.bodies(), catalog.snapshot) == (stored, snapshot)
        assert (rig.audited, rig.seen) == ([], [])
        assert await apply(catalog, text, owner, prune=prune) == planned
        assert await apply(catalog, text, owner, prune=prune) == []
        assert [event for event, _ in rig.audited] == ["objects.changed"] * bool(expected)
        assert rig.seen == [catalog.snapshot] * bool(expected)
        after = catalog.snapshot
    async with rig.open() as (catalog, _):
        assert catalog.snapshot == after, "the same after a restart"


@asyncio_test
async def test_files_are_one_state_whatever_their_order(tmp_path: Path) -> None:
    async with Rig(tmp_path).open() as (catalog, _):
        await apply(catalog, BOB)
        files = {"f": READER + ALICE + BOUND, "g": ORDERS}
        read = {owner: objects.parse(text, owner) for owner, text in files.items()}
        assert short(await catalog.adopt(read)) == [
            "+ alice-reads", "+ orders", "+ reader", "+ alice"
        ]  # fmt: skip
        assert await catalog.adopt(read) == []
        assert short(await catalog.adopt({"g": read["g"]})) == [
            "- alice-reads", "- reader", "- alice"
        ]  # fmt: skip
        assert catalog.snapshot.users.keys() == {"bob"}, "made by hand, it stays"
        with pytest.raises(BadFile, match=r"h:3:11: resources.orders: is in g already"):
            await catalog.adopt({"g": read["g"], "h": objects.parse(ORDERS, "h")})


@asyncio_test
async def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.open() as (catalog, store):
        await apply(catalog, ALL, "f")
        before, audited = (await store.bodies(), catalog.snapshot), len(rig.audited)
        for text, words in (
            (BOB + BOUND.replace("reader", "nobody"), r"f:2:\d+: .*nobody"),
            (ORDERS + ALICE + BOUND, "reader"),
            (BOTH + ORDERS.replace("{value: hunter2-for-orders}", "{file: /no/such}"), "/no/such"),
        ):
            with pytest.raises(BadFile, match=words):
                await apply(catalog, text, "f")
        with pytest.raises(StillNeeded, match="reader"):
            await catalog.delete("roles", "reader")
        assert (await store.bodies(), catalog.snapshot) == before
        assert len(rig.audited) == audited


@asyncio_test
async def test_what_cannot_be_noted_does_not_happen(tmp_path: Path) -> None:
    rig = Rig(tmp_path)

    def full() -> None:
        raise NotRecorded("no space left on device")

    async with rig.open() as (catalog, store):
        rig.noting = full
        with pytest.raises(NotRecorded):
            await apply(catalog, ALL)
        assert (await store.bodies(), catalog.snapshot) == ((0, {}), Snapshot())
        assert rig.seen == []


@asyncio_test
async def test_what_cannot_be_stored_is_not_seen_and_the_log_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path)

    def overtaken() -> None:
        with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as other:
            other.execute("UPDATE meta SET version = version + 1")
            other.commit()

    async with rig.open() as (catalog, store):
        rig.noting = overtaken
        with pytest.raises(Conflict):
            await apply(catalog, ALL)
        assert (await store.bodies())[1] == {}
        assert catalog.snapshot == Snapshot()
        assert [event for event, _ in rig.audited] == ["objects.changed", "objects.unchanged"]
        assert rig.seen == []


@asyncio_test
async def test_changes_at_the_same_time_follow_one_another(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.open() as (catalog, _):
        await asyncio.gather(*(apply(catalog, f"users: [{{name: user{n}}}]\n") for n in range(5)))
        assert len(catalog.snapshot.users) == catalog.snapshot.version == 5


@asyncio_test
async def test_a_caller_who_goes_away_leaves_stored_and_seen_alike(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.open() as (catalog, store):
        applying = asyncio.ensure_future(apply(catalog, ALICE))
        rig.noting = lambda: bool(applying.cancel()) and None
        with pytest.raises(asyncio.CancelledError):
            await applying
        await apply(catalog, BOB)
        version, stored = await store.bodies()
        assert stored["users"].keys() == catalog.snapshot.users.keys() == {"alice", "bob"}
        assert version == catalog.snapshot.version == 2


@asyncio_test
async def test_single_steps(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.open() as (catalog, _):
        await apply(catalog, ALL, "f")
        await catalog.set_disabled("alice", True)
        assert catalog.snapshot.users["alice"].disabled
        assert await apply(catalog, ALL, "f") == [], "the file does not let her in again"
        await catalog.set_disabled("alice", False)
        assert not catalog.snapshot.users["alice"].disabled
        await catalog.set_password("alice", "correct horse")
        verifier = catalog.snapshot.users["alice"].password
        assert verifier is not None
        assert matches(verifier, "correct horse")
        await catalog.delete("bindings", "alice-reads")
        assert catalog.snapshot.bindings == ()
        assert len(rig.seen) == len(rig.audited) == 5
        for bad in ("", "\ud800"):
            with pytest.raises(BadPassword):
                await catalog.set_password("alice", bad)


@asyncio_test
async def test_draining_is_kept_until_it_is_taken_back(tmp_path: Path) -> None:
    two = ORDERS.replace("]\n    accounts", ', {address: "db2.example.com:5432"}]\n    accounts')
    explicit = two.replace('db.example.com:5432"', 'db.example.com:5432", draining: false')

    def draining(catalog: Catalog) -> list[bool]:
        return [target.draining for target in catalog.snapshot.resources["orders"].targets]

    async with Rig(tmp_path).open() as (catalog, _):
        await apply(catalog, two, "f")
        await catalog.set_draining("orders", "db.example.com:5432", True)
        assert draining(catalog) == [True, False]
        assert await apply(catalog, two, "f") == []
        assert draining(catalog) == [True, False]
        await apply(catalog, explicit, "f")
        assert draining(catalog) == [False, False], "a file that says so is believed"
        await catalog.set_draining("orders", "db2.example.com:5432", True)
        await catalog.set_draining("orders", "db2.example.com:5432", False)
        await catalog.set_draining("orders", "elsewhere:1", True)
        assert draining(catalog) == [False, False]
        with pytest.raises(NoSuchObject):
            await catalog.set_draining("nothing", "db.example.com:5432", True)


@asyncio_test
async def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    async with Rig(tmp_path).open() as (catalog, _):
        assert await catalog.get("users") == []
        for asked in (
            catalog.get("users", "eve"),
            catalog.set_disabled("eve", True),
            catalog.set_password("eve", "x"),
            catalog.delete("users", "eve"),
        ):
            with pytest.raises(NoSuchObject, match="no user 'eve'"):
                await asked


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@asyncio_test
async def test_secrets_are_nowhere_to_be_seen(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.open() as (catalog, _):
        changes = await apply(catalog, ALL, "f")
        changes += await apply(catalog, ALL.replace("hunter2", "hunter3"), "f")
        await catalog.set_password("alice", "hunter2-again")
        shown = [await catalog.get(kind) for kind in ("resources", "users", "roles", "bindings")]
        account = catalog.snapshot.resources["orders"].accounts["app_ro"]
        assert account.password is not None
        assert account.password.reveal() == b"hunter3-for-orders"
        written = contents(tmp_path)
        told = f"{changes} {rig.audited} {shown} {catalog.snapshot}"
    assert b"app_ro" in written
    assert b"hunter" not in written
    assert "alice" in told
    assert "hunter" not in told
    assert "SCRAM" not in told
    assert "v1:" not in told
    assert told.count("(set)") == 2


NAMES = st.sets(st.sampled_from("abc"))


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Users a to c, and bindings of some of them, as an objects file."""
    users = sorted(draw(NAMES))
    bound = [user for user in users if draw(st.booleans())]
    lines = [f"  - {{name: {user}, admin: {str(draw(st.booleans())).lower()}}}" for user in users]
    binds = [f"  - {{name: of-{user}, role: r, subjects: [user:{user}]}}" for user in bound]
    text = "\n".join(["users:" if lines else "", *lines, "bindings:" if binds else "", *binds])
    return f"{text}\n{ORDERS}roles: [{{name: r, allow: [{{resources: {{}}, accounts: [x]}}]}}]\n"


@settings(deadline=None, max_examples=25)
@given(st.lists(texts(), min_size=1, max_size=4))
def test_only_the_last_of_a_files_states_matters_and_twice_is_once(states: list[str]) -> None:
    async def scenario(directory: Path) -> None:
        async with Rig(directory / "a").open() as (one, store):
            for text in states:
                await apply(one, text, "f")
                assert await apply(one, text, "f") == []
            _, reached = await store.bodies()
        async with Rig(directory / "b").open() as (other, store):
            await apply(other, states[-1], "f")
            _, direct = await store.bodies()
        assert names(reached) == names(direct)
        assert one.snapshot.users == other.snapshot.users
        assert one.snapshot.bindings == other.snapshot.bindings

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, scenario(Path(directory))).result()


def names(stored: Bodies) -> dict[str, set[str]]:
    return {kind: set(found) for kind, found in stored.items() if found}
