"""Secrets: read from where they are said to be, judged, sealed, and told to nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from gateway import objects
from gateway.contracts import Body, Document
from gateway.errors import BadFile
from gateway.identity.password import matches, parse_verifier
from gateway.objects.settle import MAX_SECRET
from gateway.vault import FileVault
from tests.objects.sample import AUTHORITY, ENCRYPTED, LEAF, PRIVATE, PUBLIC, VERIFIER, sample

PEM = AUTHORITY.cert_pem.bytes().decode()


@define
class Desk:
    """A directory with a vault and an objects file in it."""

    directory: Path
    vault: FileVault = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.vault = FileVault.open(self.directory / "keys")

    def parse(self, text: str) -> list[Document]:
        return objects.parse(text, str(self.directory / "objects.yaml"))

    def settle(self, text: str, before: Body | None = None) -> dict[str, Any]:
        (document,) = self.parse(text)
        return dict(objects.settle(document, before, self.vault))

    def told(self, text: str) -> list[str]:
        with pytest.raises(BadFile) as refused:
            self.settle(text)
        prefix = f"{self.directory}/"
        return [str(problem).replace(prefix, "") for problem in refused.value.problems]

    def write(self, name: str, data: bytes) -> None:
        (self.directory / name).write_bytes(data)

    def unsealed(self, stored: Body) -> bytes:
        return self.vault.unseal(stored["sealed"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def user(password: str) -> str:
    return f"users: [{{name: alice, password: {password}}}]\n"


def postgresql(account: str) -> str:
    target = "targets: [{address: h:1}]"
    return f"resources: [{{name: o, protocol: postgresql, {target}, accounts: [{account}]}}]\n"


def ssh(account: str) -> str:
    target = f"targets: [{{address: h:1, host_key: '{PUBLIC}'}}]"
    return f"resources: [{{name: w, protocol: ssh, {target}, accounts: [{account}]}}]\n"


def test_the_sample_twice_is_once_and_tells_nothing(desk: Desk) -> None:
    documents = desk.parse(sample(desk.directory))
    bodies = [objects.settle(each, None, desk.vault) for each in documents]
    again = [
        objects.settle(each, before, desk.vault)
        for each, before in zip(documents, bodies, strict=True)
    ]
    assert again == bodies
    written = json.dumps(bodies)
    assert "hunter2" not in written
    assert "PRIVATE" not in written
    orders, web = bodies[0], bodies[1]
    assert desk.unsealed(orders["accounts"][0]["password"]) == b"read-only hunter2"
    assert desk.unsealed(orders["accounts"][1]["password"]) == b"read-write hunter2"
    assert desk.unsealed(web["accounts"][1]["private_key"]) == PRIVATE
    assert web["accounts"][0]["certificate"] == {}
    assert orders["tls"]["ca"] == {"pem": PEM, "file": "orders-ca.crt"}


@pytest.mark.parametrize(
    ("way", "password"),
    [
        ("{plain: pencil}", "pencil"),
        ("{value: pencil}", "pencil"),
        ("{file: secret}", "from the file"),
        ("{env: GATEWAY_TEST_SECRET}", "from the environment"),
        (f"{{scram-sha-256: '{VERIFIER}'}}", "pencil"),
        (f"{{plain: '{VERIFIER}'}}", "pencil"),
        ("{file: verifier}", "pencil"),
    ],
)
def test_ways_to_a_users_password(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, way: str, password: str
) -> None:
    monkeypatch.setenv("GATEWAY_TEST_SECRET", "from the environment")
    desk.write("secret", b"from the file\r\n")
    desk.write("verifier", f"{VERIFIER}\n".encode())
    body = desk.settle(user(way))
    stored = body["password"]
    assert matches(parse_verifier(stored["scram-sha-256"]), password)
    assert stored.keys() <= {"scram-sha-256", "file", "env"}
    assert desk.settle(user(way), body) == body, "the salt stays"


def test_another_password_is_another_verifier(desk: Desk) -> None:
    before = desk.settle(user("{plain: pencil}"))
    after = desk.settle(user("{plain: pen}"), before)
    assert matches(parse_verifier(after["password"]["scram-sha-256"]), "pen")
    assert desk.settle("users: [{name: alice}]\n", before) == {
        "groups": [], "ssh_keys": [], "admin": False, "disabled": False
    }  # fmt: skip


def test_what_has_not_changed_stays_sealed_as_it_is(desk: Desk) -> None:
    text = postgresql("{name: a, password: {value: one}}, {name: b, password: {value: two}}")
    before = desk.settle(text)
    after = desk.settle(text.replace("two", "three"), before)
    assert after["accounts"][0] == before["accounts"][0]
    assert after["accounts"][1] != before["accounts"][1]
    assert desk.unsealed(after["accounts"][1]["password"]) == b"three"
    other = Desk(desk.directory / "other")
    renewed = other.settle(text, before)
    assert other.unsealed(renewed["accounts"][0]["password"]) == b"one", "sealed anew"


def test_undecodable_bytes_are_a_password_too(desk: Desk) -> None:
    desk.write("secret", b"\xff\xfe\n")
    body = desk.settle(postgresql("{name: a, password: {file: secret}}"))
    assert desk.unsealed(body["accounts"][0]["password"]) == b"\xff\xfe"
    verifier = parse_verifier(desk.settle(user("{file: secret}"))["password"]["scram-sha-256"])
    assert matches(verifier, "\udcff\udcfe")


UNREADABLE = [
    (b"", "is empty"),
    (b"\r\n", "is empty"),
    (b"hunter2\nhunter3\n", "holds more than one line, or a NUL"),
    (b"hunter2\0", "holds more than one line, or a NUL"),
    (b"x" * (MAX_SECRET + 1), "secret is longer than 65536 bytes"),
    (None, "secret: No such file or directory"),
]


@pytest.mark.parametrize(("data", "why"), UNREADABLE)
def test_files_without_a_password(desk: Desk, data: bytes | None, why: str) -> None:
    if data is not None:
        desk.write("secret", data)
    assert desk.told(user("{file: secret}")) == [f"objects.yaml:1:33: users.alice.password: {why}"]
    assert desk.told(postgresql("{name: a, password: {file: secret}}")) == [
        f"objects.yaml:1:103: resources.o.accounts.0.password: {why}"
    ]


def test_what_never_ends_and_what_never_begins(desk: Desk) -> None:
    os.mkfifo(desk.directory / "pipe")
    for name, why in (
        ("pipe", "is empty"),
        ("/dev/zero", "/dev/zero is longer than 65536 bytes"),
        ("/", "/: Is a directory"),
    ):
        assert desk.told(user(f"{{file: {name}}}"))[0].endswith(f": {why}")


def test_no_such_variable(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("hunter2", raising=False)
    assert desk.told(user("{env: hunter2}")) == [
        "objects.yaml:1:33: users.alice.password: is not in the daemon's environment"
    ]


def test_a_damaged_verifier_is_not_taken_for_a_password(desk: Desk) -> None:
    desk.write("verifier", b"SCRAM-SHA-256$4096:hunter2\n")
    assert desk.told(user("{file: verifier}")) == [
        "objects.yaml:1:33: users.alice.password: "
        "not a SCRAM-SHA-256 verifier as PostgreSQL writes it"
    ]


KEYS = [
    ("openssh", PRIVATE, ssh, None),
    ("openssh", PRIVATE, postgresql, "is not a private key"),
    ("pem", LEAF.private_key_pem.bytes(), ssh, None),
    ("pem", LEAF.private_key_pem.bytes(), postgresql, None),
    ("locked", ENCRYPTED, ssh, "is encrypted"),
    ("another's", AUTHORITY.private_key_pem.bytes(), postgresql,
     "is not the key of the certificate"),
    ("public", PUBLIC.encode(), ssh, "is not a private key"),
    ("certificate", PEM.encode(), postgresql, "is not a private key"),
    ("nothing", b"", ssh, "is not a private key"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "wire", "why"),
    [each[1:] for each in KEYS],
    ids=[f"{each[0]}-{each[2].__name__}" for each in KEYS],
)
def test_private_keys(desk: Desk, data: bytes, wire: Any, why: str | None) -> None:
    desk.write("key", data)
    desk.write("leaf.crt", LEAF.cert_chain_pems[0].bytes())
    pair = "{name: a, private_key: {file: key}}"
    text = wire(pair if wire is ssh else pair.replace("}}", "}, certificate: {file: leaf.crt}}"))
    if why is None:
        body = desk.settle(text)
        assert desk.unsealed(body["accounts"][0]["private_key"]) == data
        assert desk.settle(text, body) == body
    else:
        (told,) = desk.told(text)
        assert told.endswith(f"accounts.0.private_key: {why}")


def test_a_key_beside_its_certificate_is_not_stored_in_the_clear(desk: Desk) -> None:
    desk.write("both", LEAF.private_key_and_cert_chain_pem.bytes())
    body = desk.settle(
        postgresql("{name: a, certificate: {file: both}, private_key: {file: both}}")
    )
    (account,) = body["accounts"]
    assert account["certificate"]["pem"] == LEAF.cert_chain_pems[0].bytes().decode()
    assert b"PRIVATE" in desk.unsealed(account["private_key"])


def test_all_that_is_wrong_is_told_at_once(desk: Desk) -> None:
    desk.write("ca", b"-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n")
    text = (
        "resources:\n- name: o\n  protocol: postgresql\n  targets: [{address: h:1}]\n"
        "  tls: {ca: {file: ca}}\n  accounts:\n"
        "  - {name: a, password: {file: none}}\n"
        "  - {name: b, certificate: {file: ca}, private_key: {value: hunter2}}\n"
    )
    assert sorted(desk.told(text)) == [
        "objects.yaml:5:13: resources.o.tls.ca: is not a certificate in PEM",
        "objects.yaml:7:25: resources.o.accounts.0.password: none: No such file or directory",
        "objects.yaml:8:28: resources.o.accounts.1.certificate: is not a certificate in PEM",
        "objects.yaml:8:53: resources.o.accounts.1.private_key: is not a private key",
    ]


def test_roles_and_bindings_hold_no_secrets(desk: Desk) -> None:
    text = "bindings: [{name: b, role: r, subjects: [user:a]}]\n"
    assert desk.settle(text) == desk.parse(text)[0].body


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are relative to the objects file, wherever the daemon was started."""
    somewhere = tmp_path / "somewhere"
    somewhere.mkdir()
    monkeypatch.chdir(somewhere)
