"""People log in with OpenSSH: how they say what they want, and prove who they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, UnixUser, keygen, run

pytest_plugins = ["tests.real.ssh_fixtures"]

KEYS_ONLY = ("PreferredAuthentications=publickey",)
PASSWORD_ONLY = ("PubkeyAuthentication=no", "NumberOfPasswordPrompts=1")


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode()


@pytest.mark.parametrize("login", ["alice#web", "alice:web", "alice/{}#web", "alice/{}:web"])
def test_all_forms_of_a_login_name(alice: Person, deploy: UnixUser, login: str) -> None:
    done = alice.ssh(login.format(deploy.name), "id -un; echo $HOME")
    assert done.stdout.decode().split() == [deploy.name, str(deploy.home)]
    assert (done.returncode, done.stderr) == (0, b"")


def test_who_went_where_is_known(alice: Person, ssh_gateway: SshGateway, deploy: UnixUser) -> None:
    alice.ssh("alice#web", "true")
    row = ssh_gateway.newest()
    assert (row["user"], row["resource"], row["account"]) == ("alice", "web", deploy.name)
    assert (row["protocol"], row["source"], row["statements"]) == ("ssh", "127.0.0.1", 1)
    told = ssh_gateway.audited("session.started")[-1]
    assert (told["session"], told["method"]) == (row["id"], "publickey")
    assert (told["role"], told["binding"]) == ("worker", "alice-works")


def test_without_a_resource_people_are_told_how_to_name_one(alice: Person) -> None:
    done = alice.ssh("alice", "true")
    assert done.returncode == 255
    assert "ssh USER#RESOURCE@GATEWAY" in said(done)


REFUSED = {
    "no such resource": "alice#nope",
    "one that is not for alice": "alice#hidden",
    "no such account": "alice/nobody#web",
}


def test_what_is_not_there_and_what_is_not_allowed_look_the_same(
    alice: Person, ssh_gateway: SshGateway
) -> None:
    heard = set()
    for login in REFUSED.values():
        done = alice.ssh(login, "true")
        assert done.returncode == 255
        words, _, audit_id = said(done).partition("\n")[0].partition(" (audit id ")
        heard.add(words)
        found = [e for e in ssh_gateway.audited("session.refused") if e["id"] in audit_id]
        assert [e["refusal"] for e in found] == ["NotAllowed"]
    assert len(heard) == 1
    assert heard.pop().endswith("access denied")


@pytest.mark.parametrize("login", ["#web", "alice#", "alice/#web", "a/b/c#web", "alice#a#b"])
def test_malformed_names(alice: Person, login: str) -> None:
    done = alice.run("ssh", "-l", login, "127.0.0.1", "id")
    assert (done.returncode, done.stdout) == (255, b"")
    assert "malformed" in said(done)


# -- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["alice", "bob", "nobody", "ghost"])
def test_a_key_is_good_for_its_owner_only(alice: Person, user: str) -> None:
    done = alice.having(*KEYS_ONLY).ssh(f"{user}#web", "true")
    assert done.returncode == (0 if user == "alice" else 255)
    assert ("Permission denied" in said(done)) == (user != "alice")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys(
    alice: Person, ssh_gateway: SshGateway, ssh_objects: str, tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "key"
    other = f'  - {{name: {kind}-user, ssh_keys: ["{keygen(key, kind)}"]}}\n'
    ssh_gateway.put(
        ssh_objects.replace("users:\n", f"users:\n{other}").replace(
            "[user:alice]", f"[user:alice, user:{kind}-user]"
        )
    )
    done = Person(tmp_path, key, ssh_gateway).set_up().ssh(f"{kind}-user#web", "echo in")
    assert done.stdout == b"in\n", said(done)


def test_six_wrong_keys_are_enough(alice: Person, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    for file in files:
        keygen(file)
    wrong = [f"IdentityFile={file}" for file in files]
    assert alice.having(*wrong[:5]).ssh("alice#web", "true").returncode == 0
    done = alice.having(*wrong).ssh("alice#web", "true")  # their own key would be the seventh
    assert "too many authentication failures" in said(done)


# -- certificates --------------------------------------------------------------------------

GOOD = {
    "for alice": ("-n", "alice", "-V", "+5m"),
    "for several": ("-n", "bob,alice", "-V", "+5m"),
    "from here": ("-n", "alice", "-V", "+5m", "-O", "source-address=127.0.0.0/8"),
}
BAD = {
    "for bob": ("-n", "bob", "-V", "+5m"),
    "for nobody in particular": ("-V", "+5m"),
    "for the whole log-in name": ("-n", "alice#web", "-V", "+5m"),
    "over": ("-n", "alice", "-V", "20200101:20200102"),
    "not yet": ("-n", "alice", "-V", "20990101:20990102"),
    "from elsewhere": ("-n", "alice", "-V", "+5m", "-O", "source-address=10.0.0.0/8"),
    "for one command": ("-n", "alice", "-V", "+5m", "-O", "force-command=id"),
    "with a condition that nobody knows": ("-n", "alice", "-O", "critical:x@y=z"),
    "of a host": ("-h", "-n", "alice", "-V", "+5m"),
}


def certified(person: Person, directory: Path, ca: Path, *options: str) -> Person:
    """Somebody with a key that nobody knows, and a certificate for it."""
    key = directory / "fresh"
    keygen(key)
    own = Path(shutil.copy(ca, directory / "ca"))
    run("ssh-keygen", "-q", "-s", own, "-I", "somebody", *options, f"{key}.pub")
    return Person(directory, key, person.gateway).set_up().having(*KEYS_ONLY)


@pytest.mark.parametrize("case", GOOD)
def test_certificates_of_the_user_ca(
    alice: Person, ssh_gateway: SshGateway, tmp_path: Path, case: str
) -> None:
    person = certified(alice, tmp_path, ssh_gateway.user_ca, *GOOD[case])
    done = person.ssh("alice#web", "echo in")
    assert done.stdout == b"in\n", said(done)
    assert ssh_gateway.audited("session.started")[-1]["method"] == "certificate"
    assert person.ssh("ghost#web", "true").returncode == 255


@pytest.mark.parametrize("case", BAD)
def test_certificates_that_do_not_do(
    alice: Person, ssh_gateway: SshGateway, tmp_path: Path, case: str
) -> None:
    person = certified(alice, tmp_path, ssh_gateway.user_ca, *BAD[case])
    done = person.ssh("alice#web", "true")
    assert done.returncode == 255
    assert "Permission denied" in said(done)


def test_a_certificate_of_somebody_else(alice: Person, tmp_path: Path) -> None:
    keygen(tmp_path / "other_ca")
    person = certified(alice, tmp_path, tmp_path / "other_ca", *GOOD["for alice"])
    assert "Permission denied" in said(person.ssh("alice#web", "true"))


# -- passwords -----------------------------------------------------------------------------


def asked(person: Person, directory: Path, password: str, method: str) -> Person:
    """*person* without a key, who types *password* when asked."""
    helper = directory / "askpass"
    helper.write_text('#!/bin/sh\nprintf "%s\\n" "$ANSWER"\n')
    helper.chmod(0o700)
    return person.having(
        *PASSWORD_ONLY,
        f"PreferredAuthentications={method}",
        SSH_ASKPASS=str(helper),
        SSH_ASKPASS_REQUIRE="force",
        ANSWER=password,
    )


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_passwords(alice: Person, ssh_gateway: SshGateway, tmp_path: Path, method: str) -> None:
    person = asked(alice, tmp_path, "alice's password", method)
    done = person.ssh("alice#web", "echo in")
    assert done.stdout == b"in\n", said(done)
    assert ssh_gateway.audited("session.started")[-1]["method"] == "password"


WRONG = [
    ("alice", "bob's password"),
    ("alice", ""),
    ("alice", "x" * 1000),
    ("ghost", "alice's password"),
]


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
@pytest.mark.parametrize(("user", "password"), WRONG)
def test_wrong_passwords(
    alice: Person, ssh_gateway: SshGateway, tmp_path: Path, user: str, password: str, method: str
) -> None:
    done = asked(alice, tmp_path, password, method).ssh(f"{user}#web", "true")
    assert "Permission denied" in said(done)
    assert ssh_gateway.audit("session.refused", user=user)["refusal"] == "BadProof"
    assert password == "" or password not in ssh_gateway.log


def test_a_disabled_user_is_out(alice: Person, ssh_gateway: SshGateway, tmp_path: Path) -> None:
    assert ssh_gateway.cli("users", "disable", "alice").returncode == 0
    try:
        done = alice.having(*KEYS_ONLY).ssh("alice#web", "true")
        assert "Permission denied" in said(done)
        person = asked(alice, tmp_path, "alice's password", "password")
        assert "Permission denied" in said(person.ssh("alice#web", "true"))
    finally:
        ssh_gateway.cli("users", "enable", "alice")
    assert alice.ssh("alice#web", "true").returncode == 0
