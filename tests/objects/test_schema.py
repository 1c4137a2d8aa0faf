"""Single members of objects: what may be said, and that no secret is said again."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from gateway.objects.schema import (
    MAX_KEY,
    AllowModel,
    BindingModel,
    Minted,
    ObjectsFile,
    ResourceModel,
    SelectorModel,
    Source,
    SshModel,
    TargetModel,
    UserModel,
    UserPassword,
)
from tests.objects.sample import PRIVATE, PUBLIC, VERIFIER


def wrong(model: type, value: object) -> list[str]:
    """``path: message`` of each mistake."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(value)  # type: ignore[attr-defined]
    errors = refused.value.errors(include_input=False)
    return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors]


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Source, {"value": "x\ny"}),
        (Source, {"file": "secrets/of mine"}),
        (Source, {"env": "_P2"}),
        (UserPassword, {"plain": "x"}),
        (UserPassword, {"scram-sha-256": VERIFIER}),
        (Minted, {}),
        (Minted, {"file": "c"}),
    ],
)
def test_ways_to_a_secret(model: type[Source], value: object) -> None:
    found = model.model_validate(value)
    assert found.model_dump(by_alias=True, exclude_none=True) == value


ONE_OF = "Value error, has to hold one of value, file, env"


@pytest.mark.parametrize(
    ("model", "value", "told"),
    [
        (Source, {}, f": {ONE_OF}"),
        (Source, {"value": "x", "file": "y"}, f": {ONE_OF}"),
        (Source, {"hunter2": None}, f": {ONE_OF}"),
        (Source, {"plain": "hunter2"}, f": {ONE_OF}"),
        (Source, {"value": ""}, "value: String should have at least 1 character"),
        (Source, {"file": "a\nhunter2"}, "file: Value error, may not hold control characters"),
        (Source, {"file": "a\0b"}, "file: Value error, may not hold control characters"),
        (Source, {"env": "hunter 2"}, "env: Value error, should be the name of a variable"),
        (Source, {"env": "P\n"}, "env: Value error, should be the name of a variable"),
        (UserPassword, {"verifier": VERIFIER}, f": {ONE_OF}, scram-sha-256, plain"),
        (UserPassword, {"plain": "x", "value": "y"}, f": {ONE_OF}, scram-sha-256, plain"),
        (UserPassword, {"scram-sha-256": "SCRAM-SHA-256$hunter2"},
         "scram-sha-256: Value error, not a SCRAM-SHA-256 verifier as PostgreSQL writes it"),
        (Minted, {"value": "x", "file": "y"}, f": {ONE_OF}"),
    ],
)  # fmt: skip
def test_no_way_to_a_secret(model: type, value: object, told: str) -> None:
    assert wrong(model, value) == [told]


def test_secrets_do_not_show() -> None:
    shown = [Source(value="hunter2"), UserPassword(plain="hunter2")]
    shown.append(UserPassword.model_validate({"scram-sha-256": VERIFIER}))
    assert "hunter2" not in repr(shown)
    assert VERIFIER not in repr(shown)


@pytest.mark.parametrize(
    "line",
    [
        PUBLIC,
        f"  {PUBLIC} alice@example.com \n",
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIGlBq8oo0kSgWz"
        "PPIMNCaFombGb0ixrI9IJkV0m7M2sGAAAABHNzaDo=",
    ],
)
def test_public_keys(line: str) -> None:
    assert UserModel(name="a", ssh_keys=[line]).ssh_keys == [line.strip()]


CERTIFICATE = (  # of OpenSSH: a key that somebody signed
    "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIAAAA"
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hunter2",
        "ssh-rsa AAAA",
        "ssh-ed25519 !",
        f"command=x {PUBLIC}",
        f"{PUBLIC}\n{PUBLIC}",
        f"{PUBLIC} \x1b[2J",
        f"{PUBLIC} {'x' * MAX_KEY}",
        CERTIFICATE,
        PRIVATE.decode(),
    ],
)
def test_what_is_no_public_key(line: str) -> None:
    (told,) = wrong(TargetModel, {"address": "h:1", "host_key": line})
    assert told.startswith("host_key: Value error, ")
    assert not line or line not in told


@pytest.mark.parametrize(
    "pattern",
    [
        "127.0.0.1:*",
        "*:5432",
        "*:*",
        "[::1]:22",
        "[fe80::*]:*",
        "*.example.com:65535",
        "/run/x.sock",
    ],
)
def test_forwards(pattern: str) -> None:
    assert SshModel(forward=[pattern]).forward == [pattern]


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "127.0.0.1",
        "host:",
        ":22",
        "::1:22",
        "host:65536",
        "host:٢٢",
        "a b:1",
        "h:**",
        "h:022",
        "/a\0",
    ],
)
def test_what_is_no_forward(pattern: str) -> None:
    (told,) = wrong(SshModel, {"forward": [pattern]})
    assert told == "forward.0: Value error, should be HOST:PORT, either of which may be *, or /PATH"


@pytest.mark.parametrize(
    ("subject", "good"),
    [
        ("user:alice", True),
        ("group:ops", True),
        ("user:alice@example.com", True),
        ("alice", False),
        ("users:alice", False),
        ("user:", False),
        ("user:a b", False),
        ("user:a:b", False),
        ("group:a\0", False),
    ],
)
def test_subjects(subject: str, good: bool) -> None:
    binding = {"name": "b", "role": "r", "subjects": [subject]}
    if good:
        assert BindingModel.model_validate(binding).subjects == [subject]
    else:
        assert wrong(BindingModel, binding)[0].startswith("subjects.0: ")


@pytest.mark.parametrize(
    ("model", "value", "path"),
    [
        (SelectorModel, {"names": []}, "names"),
        (SelectorModel, {"labels": {"env": []}}, "labels.env"),
        (SelectorModel, {"labels": {"env": [1]}}, "labels.env.0"),
        (AllowModel, {"resources": {}, "accounts": []}, "accounts"),
        (AllowModel, {"resources": {}, "accounts": ["a"], "idle_seconds": 0}, "idle_seconds"),
        (AllowModel, {"resources": {}, "accounts": ["a"], "max_lag_seconds": -1},
         "max_lag_seconds"),
        (AllowModel, {"resources": {}, "accounts": ["a"], "targets": "replica"}, "targets"),
        (BindingModel, {"name": "b", "role": "r", "subjects": []}, "subjects"),
        (ResourceModel, {"name": "o", "protocol": "ssh", "targets": []}, "targets"),
        (ResourceModel, {"name": "o", "protocol": "ssh", "targets": [{"address": "h:1"}],
                         "labels": {"a": 1}}, "labels.a"),
        (ResourceModel, {"name": "o", "protocol": "ssh", "targets": [{"address": "h:1"}],
                         "database": "a\0user\0postgres"}, "database"),
        (UserModel, {"name": "a", "admin": "true"}, "admin"),
        (UserModel, {"name": "a", "groups": ["a b"]}, "groups.0"),
        (UserModel, {"name": "a", "password": "hunter2"}, "password"),
    ],
)  # fmt: skip
def test_bounds(model: type, value: object, path: str) -> None:
    (told,) = wrong(model, value)
    assert told.startswith(f"{path}: ")
    assert "hunter2" not in told


def test_the_schema_is_one() -> None:
    """Every reference leads somewhere, and no mapping takes what it does not name."""
    schema = ObjectsFile.model_json_schema()
    written = json.dumps(schema)
    for name, part in schema["$defs"].items():
        assert f'"#/$defs/{name}"' in written
        assert part["additionalProperties"] is False
    assert written.count('"$ref"') == sum(
        written.count(f'"#/$defs/{name}"') for name in schema["$defs"]
    )
    address = schema["$defs"]["TargetModel"]["properties"]["address"]
    assert (address["type"], address["description"]) == ("string", "HOST:PORT or [IPv6]:PORT")
