"""Commands that need no daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.ssh.authority import SshAuthority
from tests.daemon import Done, run
from tests.objects.sample import sample
from tests.test_config import FIVE, SAMPLE


def files(directory: Path, configuration: str, **others: str) -> str:
    for name, text in others.items():
        (directory / f"{name}.yaml").write_text(text)
    config = directory / "gateway.yaml"
    config.write_text(configuration)
    return str(config)


def test_check_the_samples(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key", "users-ca.crt"):
        (tmp_path / name).touch()
    config = files(tmp_path, SAMPLE.replace("DIRECTORY", str(tmp_path)), objects=sample(tmp_path))
    assert run("check", "--config", config) == Done(0, f"{config}: fine\n", "")


def test_check_tells_of_every_file_at_once(tmp_path: Path) -> None:
    config = files(
        tmp_path,
        FIVE + "objects: [one.yaml, two.yaml, none.yaml]\n",
        one="users: [{name: a b, password: {plain: hunter2, value: hunter2}}]\n",
        two="users:\n  - {name: *hunter2}\n",
    )
    done = run("check", "--config", config)
    told = [line.replace(f"{tmp_path}/", "").split(": ")[0] for line in done.err.splitlines()]
    assert (done.code, done.out) == (78, "")
    assert told == [
        *(f"gateway.yaml:{at}" for at in ("1:1", "3:43", "4:15", "5:23", "7:1", "8:20", "8:27")),
        "gateway.yaml:9:31",
        "one.yaml:1:16",
        "one.yaml:1:31",
        "two.yaml:2:12",
    ]
    assert "hunter2" not in done.err


def test_check_what_cannot_be_read(tmp_path: Path) -> None:
    config = files(tmp_path, "a: [\n")
    assert run("check", "--config", config).code == 78
    for path in (tmp_path, tmp_path / "none"):
        done = run("check", "--config", str(path))
        assert done.code == 78
        assert done.err.startswith(f"{path}:1:1: cannot be read: ")


def walk(part: Any) -> list[dict[str, Any]]:
    """All mappings in a JSON document."""
    if isinstance(part, list):
        return [found for each in part for found in walk(each)]
    if isinstance(part, dict):
        return [part, *(found for each in part.values() for found in walk(each))]
    return []


@pytest.mark.parametrize("which", ["configuration", "objects"])
def test_schema(which: str) -> None:
    schema = run("schema", which).json()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["type"] == "object"
    for part in walk(schema):
        reference = part.get("$ref")
        assert reference is None or reference.removeprefix("#/$defs/") in schema["$defs"]
        if "type" in part and isinstance(part["type"], str):
            assert part["type"] in {"object", "array", "string", "integer", "number", "boolean"}
        assert part.get("default", "") is not None, "null is refused wherever it stands"
    assert run("schema").json()["title"] == "gateway.yaml"


def test_ca(tmp_path: Path) -> None:
    config = files(tmp_path, "listeners: [{address: 'h:0', protocols: [ssh]}]\nstate_dir: s\n")
    early = run("ca", "--config", config)
    assert (early.code, early.out, early.err.count("\n")) == (78, "", 1)
    assert not (tmp_path / "s").exists(), "looking makes nothing"
    keys = tmp_path / "s" / "keys"
    keys.mkdir(0o700, parents=True)
    authority = SshAuthority.open(keys)
    assert run("ca", "--config", config).err == (
        f"gateway: {tmp_path}/s/ca.crt: No such file or directory\n"
    )
    (tmp_path / "s" / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    whole = run("ca", "--config", config)
    assert (whole.code, whole.err) == (0, "")
    for which, line in (
        ("hosts", authority.host_ca_line()),
        ("users", authority.user_ca_line()),
        ("tls", "-----BEGIN CERTIFICATE-----"),
    ):
        assert run("ca", which, "--config", config) == Done(0, f"{line}\n", "")
        assert line in whole.out
    assert "PRIVATE" not in whole.out


def test_schema_is_json_even_for_a_pipe() -> None:
    assert json.loads(run("schema", "objects").out)["properties"]
