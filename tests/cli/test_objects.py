"""apply, get, delete, users and passwd, asked of a real daemon on its real socket."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import objects
from gateway.identity.password import matches
from tests.daemon import OBJECTS, Daemon, Done, running
from tests.objects.sample import sample
from tests.support import asyncio_test

BOB = "  - {name: bob, password: {plain: hunter2-of-bob}, disabled: true}\n"


def verified(daemon: Daemon, user: str, password: str) -> bool:
    verifier = daemon.catalog.snapshot.users[user].password
    return verifier is not None and matches(verifier, password)


@asyncio_test
async def test_apply_prints_a_diff_and_twice_is_once(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        text = OBJECTS.replace("groups: [analysts]", "groups: [ops], admin: true").replace(
            BOB, "  - {name: eve}\n"
        )
        path = str(daemon.write("o.yaml", text))
        diff = "~ user alice (admin, groups)\n+ user eve\n"
        before = daemon.catalog.snapshot
        assert await daemon.cli("apply", "-f", path, "--dry-run") == Done(0, diff, "")
        assert daemon.catalog.snapshot is before
        assert await daemon.cli("apply", "-f", path) == Done(0, diff, "")
        assert await daemon.cli("apply", "-f", path) == Done(0, "no changes\n", "")
        assert (await daemon.cli("apply", "-f", path, "--prune", "--dry-run")).out == "- user bob\n"
        assert (await daemon.cli("apply", "--file", path, "--prune")).out == "- user bob\n"
        assert "bob" not in daemon.catalog.snapshot.users
        assert (await daemon.cli("apply", "-f", path, "--format", "json")).json() == []


@asyncio_test
async def test_apply_in_json(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        path = str(daemon.write("o.yaml", OBJECTS.replace("hunter2-for-orders", "hunter3")))
        done = await daemon.cli("apply", "-f", path, "--format", "json")
        assert done.json() == [
            {
                "sign": "~",
                "kind": "resources",
                "name": "orders",
                "paths": ["accounts.app_ro.password"],
            }
        ]


@asyncio_test
async def test_the_whole_sample_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "o.yaml").write_text(sample(files))
    monkeypatch.chdir(files)
    async with running(tmp_path, "") as daemon:
        done = await daemon.cli("apply", "-f", "o.yaml")
        assert (done.code, done.err) == (0, "")
        assert [line[0] for line in done.out.splitlines()] == ["+"] * 9
        assert verified(daemon, "carol", "pencil")
        assert (await daemon.cli("apply", "-f", "o.yaml")).out == "no changes\n"
        for kind in ("resources", "users", "roles", "bindings"):
            shown = await daemon.cli("get", kind, "--format", "json")
            assert len(shown.json()) >= 2
            for secret in ("hunter2", "PRIVATE", "SCRAM", "v1:"):
                assert secret not in shown.out


@asyncio_test
async def test_what_is_refused_is_told_with_its_place(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        before = daemon.catalog.snapshot
        for text, told in (
            ("users: [{name: a, passwrd: {plain: hunter2}}]\n",
             "1:19: users.0.passwrd: unknown key"),
            ("users: [{name: a, password: {plain: *hunter2}}]\n",
             "1:37: an alias of nothing: quote text that begins with *"),
            ("users: [{name: a, password: {file: none}}]\n",
             f"1:29: users.a.password: {tmp_path}/none: No such file or directory"),
            ("bindings:\n- {name: ops, role: reader, subjects: [user:dave]}\n",
             "2:40: bindings.ops.subjects.0: there is no user 'dave' (binding ops)"),
            ('users: [{name: a, "\\e[2J\\nx": 1}]\n', "1:19: users.0.\\x1b[2J\\nx: unknown key"),
        ):  # fmt: skip
            path = str(daemon.write("o.yaml", text))
            assert await daemon.cli("apply", "-f", path) == Done(78, "", f"{path}:{told}\n")
        assert daemon.catalog.snapshot is before


@asyncio_test
async def test_files_that_are_none(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        (tmp_path / "latin1").write_bytes(b"users: [{name: j\xfcrgen}]\n")
        for name, code, told in (
            ("none", 78, "none:1:1: cannot be read: No such file or directory\n"),
            (".", 78, f"{tmp_path}:1:1: cannot be read: Is a directory\n"),
            ("latin1", 78, "latin1:1:17: is not UTF-8\n"),
        ):
            done = await daemon.cli("apply", "-f", str(tmp_path / name))
            assert (done.code, done.out) == (code, "")
            assert done.err.endswith(told)


@asyncio_test
async def test_labels_do_not_write_to_the_terminal(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        role = "roles: [{name: r, allow: [{accounts: [x], resources: {labels: {a: b}}}]}]\n"
        path = str(daemon.write("o.yaml", role))
        await daemon.cli("apply", "-f", path)
        daemon.write("o.yaml", role.replace("a: b", "ä: b"))
        assert (await daemon.cli("apply", "-f", path)).out == (
            "~ role r (allow.0.resources.labels.a, allow.0.resources.labels.ä)\n"
        )


@asyncio_test
async def test_get(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        one = (await daemon.cli("get", "user", "alice")).json()
        assert (one["name"], one["groups"], one["password"]) == ("alice", ["analysts"], "(set)")
        listed = await daemon.cli("get", "users")
        assert [line.split()[0] for line in listed.out.splitlines() if "true" in line] == ["bob"]
        resource = (await daemon.cli("get", "resource", "orders", "--format", "json")).json()
        assert resource["accounts"] == [{"name": "app_ro", "password": "(set)"}]
        for kind in ("resources", "resource", "roles", "bindings"):
            done = await daemon.cli("get", kind)
            assert (done.code, done.err) == (0, "")
            assert "hunter2" not in done.out
        line = (await daemon.cli("get", "resources")).out.splitlines()[1]
        assert line.endswith("  app_ro    db1.example.com:5432, db2.example.com:5432")
        assert await daemon.cli("get", "users", "eve") == Done(
            1, "", "gateway: there is no user 'eve'\n"
        )


@asyncio_test
async def test_delete(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        needed = await daemon.cli("delete", "role", "reader")
        assert (needed.code, needed.out) == (1, "")
        assert needed.err.startswith("gateway: ")
        assert "binding analysts-read" in needed.err
        assert await daemon.cli("delete", "binding", "analysts-read") == Done(0, "", "")
        assert await daemon.cli("delete", "roles", "reader") == Done(0, "", "")
        assert (await daemon.cli("delete", "roles", "reader")).code == 1
        assert daemon.catalog.snapshot.roles == {}


@asyncio_test
async def test_what_a_file_brings_back_is_told(tmp_path: Path) -> None:
    file = "/etc/gateway/objects.yaml"
    text = "users: [{name: zoe, password: {plain: of the file}}]\n"
    async with running(tmp_path) as daemon:
        await daemon.catalog.apply(objects.parse(text, file), owner=file)
        assert await daemon.cli("passwd", "zoe", "--stdin", stdin=b"pencil\n") == Done(
            0, "", f"{file}: a password of zoe there holds again when it is read next\n"
        )
        assert await daemon.cli("delete", "user", "zoe") == Done(
            0, "", f"{file}: user zoe comes back when it is read next, unless you remove it there\n"
        )
        assert await daemon.cli("users", "disable", "alice") == Done(0, "", "")


@asyncio_test
async def test_disable_and_enable(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        for command, disabled in (("disable", True), ("disable", True), ("enable", False)):
            assert await daemon.cli("users", command, "alice") == Done(0, "", "")
            assert daemon.catalog.snapshot.users["alice"].disabled is disabled
        assert (await daemon.cli("users", "disable", "eve")).code == 1


@pytest.mark.parametrize(
    ("piped", "password"),
    [
        (b"pencil\n", "pencil"),
        (b"pencil", "pencil"),
        (b"pencil\r\nsecond line\n", "pencil"),
        (b" spaces \n", " spaces "),
        ("grüße 😀\n".encode(), "grüße 😀"),
        (b"\xff\xfe\n", "\udcff\udcfe"),
    ],
)
@asyncio_test
async def test_passwd_from_a_pipe(tmp_path: Path, piped: bytes, password: str) -> None:
    async with running(tmp_path) as daemon:
        assert await daemon.cli("passwd", "alice", "--stdin", stdin=piped) == Done(0, "", "")
        assert verified(daemon, "alice", password)


@pytest.mark.parametrize("piped", [b"", b"\n", b"\r\n", b"x" * 65537])
@asyncio_test
async def test_passwords_that_are_none(tmp_path: Path, piped: bytes) -> None:
    async with running(tmp_path) as daemon:
        done = await daemon.cli("passwd", "alice", "--stdin", stdin=piped)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("gateway: an empty password is refused, and one of more than")
        assert verified(daemon, "alice", "hunter2-of-alice")


@asyncio_test
async def test_passwd_asks_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        differing = await daemon.cli("passwd", "alice", stdin=b"pencil\npen\n")
        assert (differing.code, differing.err.strip()) == (1, "gateway: given up")
        assert verified(daemon, "alice", "hunter2-of-alice")
        done = await daemon.cli("passwd", "alice", stdin=b"pencil\npencil\n")
        assert (done.code, "pencil" in done.out + done.err) == (0, False)
        assert verified(daemon, "alice", "pencil")
        assert (await daemon.cli("passwd", "eve", "--stdin", stdin=b"x\n")).err == (
            "gateway: there is no user 'eve'\n"
        )


@asyncio_test
async def test_as_a_process_with_secrets_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TEST_SECRET", "of the daemon")
    async with running(tmp_path) as daemon:
        text = "users: [{name: eve, password: {env: GATEWAY_TEST_SECRET}}]\n"
        path = daemon.write("o.yaml", text)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "gateway", "apply", "-f", path.name],
            cwd=tmp_path,
            env={**os.environ, "GATEWAY_CONFIG": "gateway.yaml", "GATEWAY_TEST_SECRET": "mine"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "+ user eve\n", "")
        assert verified(daemon, "eve", "of the daemon")
