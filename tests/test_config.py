"""The configuration: judged whole, once, with the place of every mistake."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway import config
from gateway.config import Config, Limits
from gateway.errors import BadFile
from gateway.model import Address

SAMPLE = """\
state_dir: /var/lib/gateway          # SQLite store, transcripts, keys; created 0700
listeners:
  - address: 0.0.0.0:5432
    protocols: [postgresql]
  - address: 0.0.0.0:2222
    protocols: [ssh]
  - address: 127.0.0.1:8443
    protocols: [https]               # admin UI and API
    # several protocols on one listener: told apart by the first bytes
    proxy_protocol: {trusted: [10.0.0.0/8]}
domain: gw.Example.com               # orders.gw.example.com names the resource orders
tls:                                 # all optional
  certificate: {file: tls.crt}
  key: {file: tls.key}
  client_ca: {file: DIRECTORY/users-ca.crt}
  minimum: "1.2"
postgresql: {tls: required}          # required | optional
recording: {required: true, durability: os, retention_days: 90}
limits:
  {login_seconds: 15, sessions: 10000, sessions_per_user: 100, unauthenticated_per_address: 50}
health: {interval_seconds: 2, timeout_seconds: 2}
drain_seconds: 30
diagnostics: 127.0.0.1:9090          # /livez /readyz /metrics, no secrets
objects: [DIRECTORY/objects.yaml]    # optional: applied at start and at SIGHUP
"""
LEAST = "listeners: [{address: 127.0.0.1:5432, protocols: [postgresql]}]\n"


def write(directory: Path, text: str) -> Path:
    path = directory / "gateway.yaml"
    path.write_text(text)
    return path


def load(directory: Path, text: str) -> Config:
    return config.load(write(directory, text))


def told(directory: Path, text: str) -> list[str]:
    with pytest.raises(BadFile) as refused:
        load(directory, text)
    prefix = f"{directory / 'gateway.yaml'}:"
    assert all(str(problem).startswith(prefix) for problem in refused.value.problems)
    return [str(problem).removeprefix(prefix) for problem in refused.value.problems]


def test_the_whole_of_it(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key", "users-ca.crt", "objects.yaml"):
        (tmp_path / name).touch()
    found = load(tmp_path, SAMPLE.replace("DIRECTORY", str(tmp_path)))
    assert found.state_dir == Path("/var/lib/gateway")
    assert [(str(each.address), set(each.protocols)) for each in found.listeners] == [
        ("0.0.0.0:5432", {"postgresql"}),
        ("0.0.0.0:2222", {"ssh"}),
        ("127.0.0.1:8443", {"https"}),
    ]
    assert found.listeners[2].trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert found.domain == "gw.example.com"
    assert found.tls.certificate == tmp_path / "tls.crt", "relative names are the file's own"
    assert found.tls.client_ca == tmp_path / "users-ca.crt"
    assert (found.tls_required, found.recording.durability) == (True, "os")
    assert found.diagnostics == Address("127.0.0.1", 9090)
    assert found.objects == (tmp_path / "objects.yaml",)


def test_the_least_of_it(tmp_path: Path) -> None:
    found = load(tmp_path, LEAST)
    assert found.state_dir == Path("/var/lib/gateway")
    assert found.limits == Limits()
    assert (found.tls_required, found.recording.required, found.tls.minimum) == (True, True, "1.2")
    assert (found.domain, found.diagnostics, found.objects) == (None, None, ())


def test_relative_names_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o.yaml").touch()
    write(tmp_path, LEAST + "state_dir: state\nobjects: [o.yaml]\n")
    monkeypatch.chdir(tmp_path)
    found = config.load(Path("gateway.yaml"))
    assert (found.state_dir, found.objects) == (tmp_path / "state", (tmp_path / "o.yaml",))


FIVE = """\
listners: []
listeners:
  - {address: 127.0.0.1:5432, protocols: [postgres]}
  - {address: 127.0.0.1:5432, protocols: [ssh]}
recording: {required: "yes"}
drain_seconds: 30
drain_seconds: 60
tls: {certificate: {file: none.crt}}
"""


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert told(tmp_path, FIVE) == [
        "1:1: listners: unknown key",
        "3:43: listeners.0.protocols.0: should be 'postgresql', 'ssh' or 'https'",
        "4:15: listeners.1.address: is taken by listeners.0.address already",
        "5:23: recording.required: should be a valid boolean",
        "7:1: drain_seconds: the key is there twice",
        "8:20: tls.certificate: is of no use without tls.key",
        f"8:27: tls.certificate.file: there is no file {tmp_path / 'none.crt'}",
    ]


CONTRADICTIONS = [
    ("a key alone", LEAST + "tls: {key: {file: gateway.yaml}}\n",
     ["2:12: tls.key: is of no use without tls.certificate"]),
    ("no listener", "domain: x\n", ["1:1: listeners: is missing"]),
    ("no listeners", "listeners: []\n", ["1:12: listeners: may not be empty"]),
    ("a listener for nothing", LEAST.replace("[postgresql]", "[]"),
     ["1:50: listeners.0.protocols: may not be empty"]),
    ("diagnostics", LEAST + "diagnostics: 127.0.0.1:5432\n",
     ["2:14: diagnostics: is taken by listeners.0.address already"]),
    ("written otherwise", LEAST + "diagnostics: 127.0.0.1:05432\n",
     ["2:14: diagnostics: is taken by listeners.0.address already"]),
    ("by every address", LEAST + "diagnostics: 0.0.0.0:5432\n",
     ["2:14: diagnostics: is taken by listeners.0.address already"]),
    ("in IPv6", "listeners: [{address: '[::1]:5', protocols: [ssh]}]\ndiagnostics: '[0::1]:5'\n",
     ["2:14: diagnostics: is taken by listeners.0.address already"]),
    ("by name", "listeners: [{address: 'a:5', protocols: [ssh]}]\ndiagnostics: A:5\n",
     ["2:14: diagnostics: is taken by listeners.0.address already"]),
    ("no proxies", LEAST[:-3] + ", proxy_protocol: {trusted: []}}]\n",
     ["1:90: listeners.0.proxy_protocol.trusted: may not be empty"]),
    ("no such proxy", LEAST[:-3] + ", proxy_protocol: {trusted: [10.0.0.1/8]}}]\n",
     ["1:91: listeners.0.proxy_protocol.trusted.0: 10.0.0.1/8 has host bits set"]),
    ("a long way", LEAST + f"state_dir: /{'x' * 100}\n",
     ["2:12: state_dir: is too long: a socket in it has to fit in 107 bytes"]),
    ("NUL", LEAST + 'state_dir: "/a\\0b"\n',
     ["2:12: state_dir: may not hold control characters"]),
    ("a directory", LEAST + "objects: [/]\n", ["2:11: objects.0: there is no file /"]),
    ("no file's name", LEAST + f"objects: [{'x' * 300}]\n",
     ["2:11: objects.0: cannot be read: File name too long"]),
    ("no domain", LEAST + "domain: .example.com\n",
     ["2:9: domain: should be a domain's name, like gw.example.com"]),
    ("old TLS", LEAST + "tls: {minimum: '1.1'}\n",
     ["2:16: tls.minimum: should be '1.2' or '1.3'"]),
    ("a number for it", LEAST + "tls: {minimum: 1.2}\n",
     ["2:16: tls.minimum: should be '1.2' or '1.3'"]),
    ("no end of time", LEAST + "recording: {retention_days: 99999}\n",
     ["2:29: recording.retention_days: should be less than or equal to 36500"]),
    ("nothing", LEAST + "tls:\n", ["2:1: tls: has no value: give it one, or leave it out"]),
    ("nonsense", "- 1\n", ["1:1: has to be a mapping"]),
    ("no YAML", "a: b: c\n", ["1:5: mapping values are not allowed here"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [each[1:] for each in CONTRADICTIONS],
    ids=[each[0] for each in CONTRADICTIONS],
)
def test_contradictions(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert told(tmp_path, text) == expected


def test_what_does_not_collide(tmp_path: Path) -> None:
    listeners = ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:5", "127.0.0.2:5", "'[::]:5'", "b:5")
    text = ", ".join(f"{{address: {each}, protocols: [ssh]}}" for each in listeners)
    found = load(tmp_path, f"listeners: [{text}]\n")
    assert len(found.listeners) == len(listeners)


def test_no_file(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BadFile, match=f"^{path}:1:1: cannot be read: {why}"):
            config.load(path)


def test_where_it_is_looked_for() -> None:
    assert config.locate("a", {"GATEWAY_CONFIG": "b"}) == Path("a")
    assert config.locate(None, {"GATEWAY_CONFIG": "b"}) == Path("b")
    assert config.locate(None, {"GATEWAY_CONFIG": ""}) == Path("/etc/gateway/gateway.yaml")
    assert config.locate(None, {}) == Path("/etc/gateway/gateway.yaml")


def test_objects_files_of_a_file_with_mistakes(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").touch()
    path = write(tmp_path, "listeners: 5\nobjects: [o.yaml, none.yaml, 7, '']\n")
    assert config.objects_files(path) == (tmp_path / "o.yaml",)
    assert config.objects_files(write(tmp_path, "[]")) == ()
    assert config.objects_files(write(tmp_path, "a: b: c")) == ()


def test_the_schema_knows_every_key() -> None:
    schema = config.json_schema()
    assert schema["title"] == "gateway.yaml"
    assert schema["required"] == ["listeners"]
    assert schema["properties"].keys() == {
        "state_dir", "listeners", "domain", "tls", "postgresql", "recording", "limits", "health",
        "drain_seconds", "diagnostics", "objects", "zone",
    }  # fmt: skip
    assert schema["additionalProperties"] is False
