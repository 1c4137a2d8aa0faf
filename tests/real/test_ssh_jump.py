"""The jump form: ssh -J alice@gateway deploy@web, with certificates for names that are no hosts."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, UnixUser

pytest_plugins = ["tests.real.ssh_fixtures"]

HOSTS = ["web", "web.gw.test", "WEB.gw.test", "web.gw.test."]


@pytest.mark.parametrize("host", HOSTS)
def test_all_names_of_a_resource(alice: Person, deploy: UnixUser, host: str) -> None:
    done = alice.jump("alice", f"{deploy.name}@{host}", "id -un; exit 3")
    assert done.stdout.decode().split() == [deploy.name]
    assert (done.returncode, done.stderr) == (3, b"")


def test_it_is_a_session_like_others(
    alice: Person, ssh_gateway: SshGateway, deploy: UnixUser
) -> None:
    alice.jump("alice", f"{deploy.name}@web", "true")
    row = ssh_gateway.newest()
    assert (row["user"], row["resource"], row["account"]) == ("alice", "web", deploy.name)
    assert ssh_gateway.audited("session.started", session=row["id"])[0]["method"] == "jump"
    (command,) = [e for e in ssh_gateway.events(row["id"]) if e["kind"] == "exec"]
    assert (command["command"], command["exit_status"]) == ("true", 0)


@pytest.mark.parametrize("host", ["nope", "hidden", "nope.gw.test", "hidden.gw.test", "gw.test"])
def test_what_is_not_there_and_what_is_forbidden_look_the_same(alice: Person, host: str) -> None:
    done = alice.jump("alice", f"x@{host}", "true")
    first = done.stderr.decode().splitlines()[0]
    said = "channel 0: open failed: administratively prohibited: access denied"
    assert re.fullmatch(rf"{said} \(audit id \w{{8}}\)", first)
    assert done.returncode == 255


def test_forwards_elsewhere_are_refused(alice: Person, ssh_gateway: SshGateway) -> None:
    for place in ("127.0.0.1", "localhost", "169.254.169.254"):
        done = alice.jump("alice", f"x@{place}", "true")
        assert b"administratively prohibited: access denied" in done.stderr
    assert ssh_gateway.audited("session.refused", resource="169.254.169.254")


def test_an_account_that_is_not_there(alice: Person, ssh_gateway: SshGateway) -> None:
    done = alice.jump("alice", "root@web", "true")
    assert done.returncode == 255
    assert b"access denied (audit id " in done.stderr
    refused = ssh_gateway.audit("session.refused", account="root")
    assert (refused["user"], refused["resource"]) == ("alice", "web")


def test_a_stranger_does_not_get_in(alice: Person, deploy: UnixUser) -> None:
    done = alice.having("NumberOfPasswordPrompts=0").jump("bob", f"{deploy.name}@web", "true")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied" in done.stderr


def test_a_connection_for_jumping_has_no_shell(alice: Person) -> None:
    done = alice.ssh("alice")
    assert done.returncode == 255
    assert b"name what you want" in done.stderr


def test_files_through_it(alice: Person, deploy: UnixUser, ssh_tmp: Path) -> None:
    source, back = ssh_tmp / "jump_source", ssh_tmp / "jump_back"
    source.write_bytes(os.urandom(3_000_000))
    through = alice.through("alice")
    for old in ([], ["-O"]):
        put = through.run("scp", *old, source, f"{deploy.name}@web:there")
        got = through.run("scp", *old, f"{deploy.name}@web:there", back)
        assert (put.returncode, got.returncode) == (0, 0), put.stderr + got.stderr
        assert sha256(back) == sha256(source)
        back.unlink()
    batch = f"rename there elsewhere\nget elsewhere {back}\n".encode()
    done = through.run("sftp", "-b", "-", f"{deploy.name}@web", input=batch)
    assert (done.returncode, sha256(back)) == (0, sha256(source))


def test_several_through_one(alice: Person, deploy: UnixUser, ssh_tmp: Path) -> None:
    """A ControlMaster to the gateway carries connections to resources, each with its story."""
    with alice.master("alice", ssh_tmp / "jump_control") as master:
        through = alice.having(f"ProxyCommand={proxy(master)}")
        begun = [through.start(f"{deploy.name}@web", f"read x; echo $x {n}") for n in range(5)]
        for n, process in enumerate(begun):
            out, err = process.communicate(b"hello\n", timeout=30)
            assert out.decode().split() == ["hello", str(n)], err
        assert b"refused by peer" in through.run("ssh", "x@hidden", "true").stderr
        assert through.run("ssh", f"{deploy.name}@web", "exit 4").returncode == 4


def test_it_ends_with_the_connection_that_carries_it(
    alice: Person, ssh_gateway: SshGateway, deploy: UnixUser, ssh_tmp: Path
) -> None:
    with alice.master("alice", ssh_tmp / "jump_broken") as master:
        through = alice.having(f"ProxyCommand={proxy(master)}")
        inner = through.start(f"{deploy.name}@web", "echo in; cat")
        assert inner.stdout is not None
        assert inner.stdout.readline() == b"in\n"
    inner.communicate(timeout=30)
    assert inner.returncode == 255
    session = ssh_gateway.newest()["id"]
    assert ssh_gateway.audit("session.ended", session=session)["reason"] == "client closed"


def proxy(master: Person) -> str:
    """Reaches a host through a connection that is there."""
    return " ".join(master.command("ssh", "-W", "%h:%p", "alice@127.0.0.1"))


def test_terminals_through_it(alice: Person, deploy: UnixUser) -> None:
    through = alice.through("alice")
    done = through.run("ssh", "-tt", f"{deploy.name}@web.gw.test", "tty")
    assert done.stdout.startswith(b"/dev/pts/")


def test_the_certificate_is_for_the_name_that_was_asked_for(
    alice: Person, deploy: UnixUser, ssh_tmp: Path
) -> None:
    """Whoever trusts the host CA for some names only does not trust it for others."""
    known = ssh_tmp / "known_web_only"
    known.write_text(alice.gateway.host_ca.replace("*", "web,127.0.0.1,[127.0.0.1]:*"))
    careful = alice.having(f"UserKnownHostsFile={known}")
    assert careful.jump("alice", f"{deploy.name}@web", "true").returncode == 0
    done = careful.jump("alice", f"{deploy.name}@web.gw.test", "true")
    assert b"Host key verification failed" in done.stderr


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
