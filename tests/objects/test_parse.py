"""Objects files: what they say becomes documents, and what is wrong is told all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import objects
from gateway.contracts import Document
from gateway.errors import BadFile
from tests.objects.sample import PUBLIC, SAMPLE, sample


def told(text: str) -> list[str]:
    """Mistakes as people read them, without the name of the file."""
    with pytest.raises(BadFile) as refused:
        objects.parse(text, "f")
    return [str(problem).removeprefix("f:") for problem in refused.value.problems]


def test_the_sample(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(sample(tmp_path))
    documents = objects.read(path)
    assert [(each.kind, each.name) for each in documents] == [
        ("resources", "orders"), ("resources", "web"),
        ("users", "alice"), ("users", "bob"), ("users", "carol"),
        ("roles", "reader"), ("roles", "operator"),
        ("bindings", "analysts-read"), ("bindings", "ops"),
    ]  # fmt: skip
    by_name = {each.name: each for each in documents}
    assert {each.file for each in documents} == {str(path)}
    assert by_name["orders"].marks["accounts.0.password"] == (9, 34)
    assert by_name["orders"].marks[""] == (2, 5)
    assert by_name["ops"].body["expires"] == "2027-01-01T00:00:00+00:00"
    assert by_name["operator"].body["allow"][0]["resources"]["labels"] == {"env": ["prod", "test"]}
    assert by_name["reader"].body["allow"][0]["ssh"]["forward"] == []
    assert "hunter2" not in repr(documents)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "users:\nroles: # none yet\n", "users: []\nbindings: []\n", "~\n"]
)
def test_nothing_in_it(text: str) -> None:
    assert objects.parse(text, "f") == []


SAME = [
    ("database", "users: [{name: a}]\n", "users:\n- name: a\n"),
    ("one label", "roles: [{name: r, allow: [{resources: {labels: {e: [p]}}, accounts: [a]}]}]\n",
     "roles: [{name: r, allow: [{resources: {labels: {e: p}}, accounts: [a]}]}]\n"),
    ("defaults", "users: [{name: a}]\n",
     "users: [{name: a, groups: [], ssh_keys: [], admin: false, disabled: false}]\n"),
    ("times", "bindings: [{name: b, role: r, subjects: [user:a], expires: 2027-01-01T00:00:00Z}]\n",
     "bindings: [{name: b, role: r, subjects: [user:a], expires: '2027-01-01T00:00:00Z'}]\n"),
    ("aliases", "users: [{name: a, groups: [g]}, {name: b, groups: [g]}]\n",
     "users: [{name: a, groups: &g [g]}, {name: b, groups: *g}]\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"), [each[1:] for each in SAME], ids=[each[0] for each in SAME]
)
def test_other_ways_to_write_the_same(one: str, other: str) -> None:
    def bodies(documents: list[Document]) -> list[object]:
        return [(each.kind, each.name, each.body) for each in documents]

    assert bodies(objects.parse(one, "f")) == bodies(objects.parse(other, "f"))


MANY = """\
resource: []
users:
  - {name: alice, pasword: {plain: hunter2}}
  - {name: alice}
  - {name: b b, groups: ops}
resources:
  - {name: orders, protocol: mysql, targets: []}
roles: {name: reader}
bindings:
  - {name: b, role: r, subjects: [alice], expires: 2027-13-01, hours: always}
"""


def test_all_mistakes_are_told_at_once() -> None:
    assert told(MANY) == [
        "1:1: resource: unknown key; there are resources, users, roles, bindings",
        "3:19: users.0.pasword: unknown key",
        "4:12: users.1.name: alice is there twice",
        "5:12: users.2.name: may not hold spaces, control characters, or any of / # :",
        "5:25: users.2.groups: has to be a list",
        "7:30: resources.0.protocol: should be 'postgresql' or 'ssh'",
        "7:46: resources.0.targets: may not be empty",
        "8:8: roles: has to be a list",
        "10:35: bindings.0.subjects.0: should be user:NAME or group:NAME",
        "10:52: bindings.0.expires: is no number or date: quote it if it is text",
        "10:71: bindings.0.hours: should be like: Mon-Fri 08:00-18:00 Europe/Berlin",
    ]


def postgresql(account: str = "{name: a, password: {env: P}}", more: str = "") -> str:
    targets = "targets: [{address: h:1}]"
    return (
        f"resources:\n- name: o\n  protocol: postgresql\n  {targets}\n  accounts:\n  - {account}\n"
        f"{more}"
    )


def ssh(account: str = "{name: a, certificate: {}}", more: str = "") -> str:
    targets = f"targets: [{{address: h:1, host_key: '{PUBLIC}'}}]"
    return (
        f"resources:\n- name: w\n  protocol: ssh\n  {targets}\n  accounts:\n  - {account}\n{more}"
    )


FINE = [
    postgresql(),
    postgresql("{name: a, certificate: {file: c}, private_key: {file: k}}"),
    postgresql("{name: a, password: {file: p}, certificate: {file: c}, private_key: {file: k}}"),
    postgresql("{name: a}", "  authentication: [trust]\n"),
    postgresql(more="  authentication: [password]\n"),
    postgresql(more="  authentication: [md5]\n  tls: {mode: disable}\n"),
    postgresql(more="  tls: {mode: require, ca: {file: c}}\n"),
    postgresql(more="  health: {account: a, database: d}\n"),
    postgresql().replace("h:1", "h:1, weight: 0.5, zone: here, draining: true"),
    ssh().replace("h:1,", "h:1, weight: 2, zone: here, draining: false,"),
    ssh(),
    ssh("{name: a, password: {file: p}, private_key: {file: k}}"),
    ssh().replace("host_key", "host_ca"),
]


@pytest.mark.parametrize("text", FINE)
def test_what_goes_together(text: str) -> None:
    assert len(objects.parse(text, "f")) == 1


CONTRADICTIONS = [
    ("half a certificate", postgresql("{name: a, certificate: {file: c}}"),
     ["6:5: resources.0.accounts.0: certificate and private_key are of use only together"]),
    ("half a key", postgresql("{name: a, private_key: {file: k}}"),
     ["6:5: resources.0.accounts.0: certificate and private_key are of use only together"]),
    ("minted by nobody", postgresql("{name: a, certificate: {}, private_key: {file: k}}"),
     ["6:28: resources.0.accounts.0.certificate: has to name a file, a value or an env"]),
    ("no credential", postgresql("{name: a}"),
     ["6:5: resources.0.accounts.0: needs a password, or a certificate and its private_key"]),
    ("a certificate without TLS",
     postgresql("{name: a, certificate: {file: c}, private_key: {file: k}}",
                "  tls: {mode: disable}\n"),
     ["6:28: resources.0.accounts.0.certificate: is of no use with tls.mode disable"]),
    ("a CA without TLS", postgresql(more="  tls: {mode: disable, ca: {file: c}}\n"),
     ["7:28: resources.0.tls.ca: is of no use with tls.mode disable"]),
    ("a password in the clear",
     postgresql(more="  authentication: [password]\n  tls: {mode: require}\n"),
     ["7:19: resources.0.authentication: "
      "a clear-text password needs tls.mode verify-ca or verify-full"]),
    ("a host key", postgresql().replace("h:1", f"h:1, host_key: '{PUBLIC}'"),
     ["4:38: resources.0.targets.0.host_key: means nothing for postgresql"]),
    ("nobody to ask with", postgresql(more="  health: {account: b}\n"),
     ["7:21: resources.0.health.account: there is no account 'b' here"]),
    ("health of another kind", ssh(more="  health: {account: a}\n"),
     ["7:11: resources.0.health: means nothing for ssh"]),
    ("no weight", postgresql().replace("h:1", "h:1, weight: 0"),
     ["4:36: resources.0.targets.0.weight: should be greater than 0"]),
    ("a target twice", postgresql().replace("h:1}", "h:1}, {address: h:1}"),
     ["4:39: resources.0.targets.1.address: h:1 is there twice"]),
    ("port 0", postgresql().replace("h:1", "h:0"),
     ["4:23: resources.0.targets.0.address: port 0 cannot be connected to"]),
    ("an account twice", postgresql("{name: a, password: {env: P}}\n  - {name: a, certificate: }"),
     ["7:5: resources.0.accounts.1: certificate and private_key are of use only together",
      "7:12: resources.0.accounts.1.name: a is there twice",
      "7:15: resources.0.accounts.1.certificate: has no value: give it one, or leave it out"]),
    ("no host key", ssh().replace(f", host_key: '{PUBLIC}'", ""),
     ["4:13: resources.0.targets.0: needs a host_key or a host_ca: host keys are always checked"]),
    ("an empty host key", ssh().replace(PUBLIC, ""),
     ["4:13: resources.0.targets.0: needs a host_key or a host_ca: host keys are always checked",
      "4:38: resources.0.targets.0.host_key: is not an OpenSSH public key line"]),
    ("a certificate from elsewhere", ssh("{name: a, certificate: {file: c}}"),
     ["6:28: resources.0.accounts.0.certificate: is minted for ssh: write certificate: {}"]),
    ("no way in", ssh("{name: a}"),
     ["6:5: resources.0.accounts.0: needs a password, a private_key, or certificate: {}"]),
    ("postgresql's words", ssh(more="  database: d\n  tls: {}\n"),
     ["7:13: resources.0.database: means nothing for ssh",
      "8:8: resources.0.tls: means nothing for ssh"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [each[1:] for each in CONTRADICTIONS],
    ids=[each[0] for each in CONTRADICTIONS],
)
def test_contradictions(text: str, expected: list[str]) -> None:
    assert told(text) == expected


FORGOTTEN = [
    "bindings: [{name: b, role: r, subjects: [user:a], hours: }]\n",
    "bindings: [{name: b, role: r, subjects: [user:a], expires: ~}]\n",
    "bindings: [{name: b, role: r, subjects: [user:a], deny_sources: }]\n",
    "roles: [{name: r, allow: [{resources: {names: }, accounts: [a]}]}]\n",
    "roles: [{name: r, allow: [{resources: {labels: }, accounts: [a]}]}]\n",
    "roles: [{name: r, allow: [{resources: {names: [o]}, accounts: [a], idle_seconds: }]}]\n",
    "users:\n  - name: a\n    password:\n",
]


@pytest.mark.parametrize("text", FORGOTTEN)
def test_a_limit_that_was_forgotten_is_not_no_limit(text: str) -> None:
    (only,) = told(text)
    assert only.endswith("has no value: give it one, or leave it out")


def test_names_that_are_nobodys() -> None:
    for name in ("a/b", "a#b", '"a:b"', "a b", '"a\\0b"', '"\\e[31m"', "''", "5", "x" * 129):
        (only,) = told(f"users: [{{name: {name}}}]\n")
        assert only.startswith("1:16: users.0.name: ")
        assert "\x1b" not in only


def test_each_object_has_the_places_of_its_own_values() -> None:
    text = "users: [{name: a, groups: &g [g, h]}, {name: b, groups: *g}]\nroles: [{name: r}]\n"
    one, other, role = objects.parse(text, "f")
    assert one.marks == {
        "": (1, 9), "name": (1, 16), "groups": (1, 27), "groups.0": (1, 31), "groups.1": (1, 34)
    }  # fmt: skip
    assert other.marks == {**one.marks, "": (1, 39), "name": (1, 46)}
    assert role.marks == {"": (2, 9), "name": (2, 16)}


def test_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_bytes(b"users: [{name: \xff}]\n")
    with pytest.raises(BadFile, match=f"^{path}:1:16: is not UTF-8$"):
        objects.read(path)
    with pytest.raises(BadFile, match="cannot be read: No such file"):
        objects.read(tmp_path / "none")


def test_the_schema_knows_every_key() -> None:
    schema = objects.json_schema()
    assert schema["title"] == "Objects of Gateway"
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == {"resources", "users", "roles", "bindings"}
    assert SAMPLE.split(":")[0] in schema["properties"]
    password = schema["$defs"]["UserPassword"]["properties"]
    assert password.keys() == {"value", "file", "env", "scram-sha-256", "plain"}
