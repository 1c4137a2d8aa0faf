"""Files: scp, sftp, rsync and git work as they do, and the transcript says what moved."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, UnixUser, give, run

pytest_plugins = ["tests.real.ssh_fixtures"]

MEGABYTES = 5 * 1_000_000 + 7  # bytes: not a multiple of anything


@pytest.fixture(scope="module")
def source(ssh_tmp: Path) -> Path:
    path = ssh_tmp / "source"
    path.write_bytes(os.urandom(MEGABYTES))
    return path


@pytest.fixture
def there(deploy: UnixUser, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A directory of the account's on the target."""
    path = deploy.home / f"{tmp_path.name}"
    path.mkdir()
    give(path, deploy)
    return path


def operations(gateway: SshGateway) -> list[dict[str, Any]]:
    told = gateway.events()
    assert not [event for event in told if event.get("operation") == "undecoded"]
    return [event for event in told if event["kind"] == "file"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- scp -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["-O"]], ids=["sftp", "rcp"])
def test_scp_both_ways(
    alice: Person, ssh_gateway: SshGateway, source: Path, there: Path, form: list[str]
) -> None:
    person = alice.having("User=alice#web")  # scp -O itself refuses a # before the host
    put = person.run("scp", *form, source, f"127.0.0.1:{there}/a")
    assert (put.returncode, put.stderr) == (0, b"")
    assert sha256(there / "a") == sha256(source)
    (written,) = [e for e in operations(ssh_gateway) if e["operation"] == "write"]
    # In rcp's protocol nothing tells whether the target's path is a directory.
    assert written["path"] == (f"{there}/a/source" if form else f"{there}/a")
    assert written["bytes"] == MEGABYTES
    assert written["sha256"] == sha256(source)
    back = there.parent.parent / f"{there.name}_back"
    got = person.run("scp", *form, f"127.0.0.1:{there}/a", back)
    assert (got.returncode, got.stderr) == (0, b"")
    assert sha256(back) == sha256(source)
    (read,) = [e for e in operations(ssh_gateway) if e["operation"] == "read"]
    assert (read["path"], read["bytes"], read["sha256"]) == (
        f"{there}/a",
        MEGABYTES,
        sha256(source),
    )
    assert not [event for event in ssh_gateway.events() if event["kind"] == "output"]


@pytest.mark.parametrize("form", [[], ["-O"]], ids=["sftp", "rcp"])
def test_scp_of_a_tree(
    alice: Person, there: Path, tmp_path: Path, form: list[str], ssh_gateway: SshGateway
) -> None:
    tree = tmp_path / "tree with spaces"
    (tree / "below").mkdir(parents=True)
    for number in range(20):
        (tree / "below" / f"{number} ü").write_bytes(os.urandom(1000 * number + 1))
    person = alice.having("User=alice#web")
    done = person.run("scp", "-r", "-p", *form, tree, f"127.0.0.1:{there}/")
    assert done.returncode == 0, done.stderr
    copied = there / tree.name / "below"
    assert {path.name: sha256(path) for path in copied.iterdir()} == {
        path.name: sha256(path) for path in (tree / "below").iterdir()
    }
    wrote = [e for e in operations(ssh_gateway) if e["operation"] == "write"]
    assert len(wrote) == 20


def test_scp_to_where_nobody_may(alice: Person, source: Path) -> None:
    done = alice.run("scp", source, "alice#web@127.0.0.1:/proc/nowhere")
    assert done.returncode == 1
    assert b"No such file or directory" in done.stderr


# -- sftp ----------------------------------------------------------------------------------

BATCH = """\
put {source} {there}/put
rename {there}/put {there}/renamed
chmod 640 {there}/renamed
symlink renamed {there}/link
ln {there}/renamed {there}/hard
mkdir {there}/made
rmdir {there}/made
get {there}/link {back}
df {there}
rm {there}/hard
ls -l {there}
"""


def test_an_sftp_batch(
    alice: Person, ssh_gateway: SshGateway, source: Path, there: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    batch = BATCH.format(source=source, there=there, back=back).encode()
    done = alice.run("sftp", "-b", "-", "alice#web@127.0.0.1", input=batch)
    assert done.returncode == 0, done.stderr
    assert sha256(back) == sha256(there / "renamed") == sha256(source)
    assert (there / "renamed").stat().st_mode & 0o777 == 0o640
    assert (there / "link").readlink() == Path("renamed")
    told = operations(ssh_gateway)
    named = {event["operation"]: event for event in told}
    assert named["write"]["sha256"] == named["read"]["sha256"] == sha256(source)
    assert named["write"]["bytes"] == named["read"]["bytes"] == MEGABYTES
    assert {"rename", "symlink", "mkdir", "rmdir", "remove", "setstat"} <= set(named)
    assert named["rename"]["path"] == f"{there}/put"
    assert not [event for event in ssh_gateway.events() if event["kind"] == "output"]


def test_a_directory_of_ten_thousand_files(
    alice: Person, ssh_gateway: SshGateway, there: Path
) -> None:
    for number in range(10_000):
        (there / f"file{number:05}").touch()
    command = f"ls -1 {there}\n".encode()
    done = alice.run("sftp", "-b", "-", "alice#web@127.0.0.1", input=command)
    names = [line for line in done.stdout.splitlines() if b"file" in line and b"sftp>" not in line]
    assert len(names) == 10_000
    listed = [e for e in operations(ssh_gateway) if e["operation"] == "list"]
    assert [event["path"].rstrip("/") for event in listed] == [str(there)]


def test_sftp_where_a_role_has_none(
    alice: Person, ssh_gateway: SshGateway, ssh_objects: str
) -> None:
    ssh_gateway.put(
        ssh_objects.replace(
            "{env: test}}, accounts", "{env: test}}, ssh: {sftp: false, exec: false}, accounts"
        )
    )
    try:
        done = alice.run("sftp", "-b", "-", "alice#web@127.0.0.1", input=b"pwd\n")
        assert done.returncode != 0
        assert b"subsystem request failed" in done.stderr
        denied = [e["request"] for e in ssh_gateway.events() if e["kind"] == "denied"]
        assert denied == ["subsystem"]
        assert b"exec request failed" in alice.ssh("alice#web", "true").stderr
    finally:
        ssh_gateway.put(ssh_objects)


# -- rsync and git -------------------------------------------------------------------------


def test_rsync_of_three_thousand_files(
    alice: Person, ssh_gateway: SshGateway, there: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    for number in range(3000):
        directory = tree / f"{number % 30}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(f"{number}\n".encode() * 50)
    rsync = ("rsync", "-a", "--delete", "--stats", "-e", shlex.join(alice.command("ssh")))
    target = f"alice#web@127.0.0.1:{there}/tree/"
    first = run(*rsync, f"{tree}/", target, env=alice.env())
    assert "Number of regular files transferred: 3,000" in first
    (tree / "7" / "7").write_text("changed")
    (tree / "8" / "8").unlink()
    second = run(*rsync, f"{tree}/", target, env=alice.env())
    assert "Number of regular files transferred: 1\n" in second
    back = tmp_path / "back"
    run(*rsync, target, f"{back}/", env=alice.env())
    run("diff", "-r", tree, back)
    (command,) = [event for event in ssh_gateway.events() if event["kind"] == "exec"]
    assert command["command"].startswith("rsync --server --sender")
    assert command["exit_status"] == 0


def test_git_clone_and_push(
    alice: Person, ssh_gateway: SshGateway, there: Path, deploy: UnixUser, tmp_path: Path
) -> None:
    made = alice.ssh("alice#web", f"git init -q --bare -b main {there}/repo.git")
    assert made.returncode == 0, made.stderr
    url = f"ssh://alice%23web@127.0.0.1{there}/repo.git"
    environment = {
        **alice.env(),
        "GIT_SSH_COMMAND": shlex.join(alice.command("ssh")),
        **{
            f"GIT_{who}_{what}": "a@b"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }

    def git(*arguments: str) -> str:
        return run("git", "-C", str(tmp_path), *arguments, env=environment)

    git("clone", "-q", url, "one")
    (tmp_path / "one" / "file").write_bytes(os.urandom(1_000_000))
    git("-C", "one", "add", "file")
    git("-C", "one", "commit", "-qm", "a file")
    git("-C", "one", "push", "-q", "origin", "HEAD:main")
    git("clone", "-q", "-b", "main", url, "two")
    assert sha256(tmp_path / "two" / "file") == sha256(tmp_path / "one" / "file")
    (command,) = [event for event in ssh_gateway.events() if event["kind"] == "exec"]
    assert command["command"] == f"git-upload-pack '{there}/repo.git'"
    (channel,) = [event for event in ssh_gateway.events() if event["kind"] == "channel"]
    assert channel["environment"].get("GIT_PROTOCOL") == "version=2"
