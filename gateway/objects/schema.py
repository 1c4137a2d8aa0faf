"""What an objects file may say. Field names and defaults are the file's own."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway import hours
from gateway.fields import AddressField, Moment, Name, Network, Text, name
from gateway.identity.password import parse_verifier
from gateway.marked import Model
from gateway.model import Address

MAX_KEY = 16_384  # characters of a public key line; RSA-16384 has 2,800, and a comment

Method = Literal["scram-sha-256", "certificate", "md5", "password", "trust"]
SecretText = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(gt=0, le=1000)]  # beyond that the others would have nothing


def _public_key(line: str) -> str:
    line = line.strip()
    try:
        load_ssh_public_key(line[:MAX_KEY].encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not an OpenSSH public key line") from None
    if len(line) > MAX_KEY or not line.isprintable() or "-cert-v" in line.partition(" ")[0]:
        raise ValueError("holds more than an OpenSSH public key")
    return line


def _variable(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
        raise ValueError("should be the name of a variable")
    return name


def _verifier(text: str) -> str:
    parse_verifier(text)
    return text


def _dialled(address: Address) -> Address:
    if address.port == 0:
        raise ValueError("port 0 cannot be connected to")
    return address


def _forward(pattern: str) -> str:
    """HOST:PORT, or the path of a Unix socket."""
    if pattern.startswith("/") and pattern.isprintable():
        return pattern
    found = re.fullmatch(r"(?:\[[0-9a-fA-F:*.]+\]|[^\s\[\]:]+):(\*|0|[1-9][0-9]{0,4})", pattern)
    if found is None or (found[1] != "*" and int(found[1]) > 65535):
        raise ValueError("should be HOST:PORT, either of which may be *, or /PATH")
    return pattern


def _hours(text: str) -> str:
    hours.parse(text)
    return text


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _subject(text: str) -> str:
    kind, _, who = text.partition(":")
    if kind not in ("user", "group"):
        raise ValueError("should be user:NAME or group:NAME")
    name(who)
    return text


PublicKey = Annotated[str, AfterValidator(_public_key)]
Variable = Annotated[str, AfterValidator(_variable)]
Verifier = Annotated[str, AfterValidator(_verifier)]
Forward = Annotated[str, AfterValidator(_forward)]
HoursField = Annotated[str, AfterValidator(_hours)]
Subject = Annotated[str, AfterValidator(_subject)]
Values = Annotated[
    list[Text],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Source(Model):
    """Where something is read: here, a file, or the daemon's environment. One of them."""

    least: ClassVar[int] = 1

    value: SecretText | None = Field(default=None, repr=False)
    file: Text | None = None
    env: Variable | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        """A wrong key is not named: it may be the secret itself."""
        if isinstance(data, dict):
            ways = [info.alias or name for name, info in cls.model_fields.items()]
            if not cls.least <= len(data) <= 1 or not data.keys() <= set(ways):
                raise ValueError(f"has to hold one of {', '.join(ways)}")
        return data


class UserPassword(Source):
    """A password, or what PostgreSQL would keep of it."""

    verifier: Verifier | None = Field(default=None, alias="scram-sha-256", repr=False)
    plain: SecretText | None = Field(default=None, repr=False)


class Minted(Source):
    """``certificate: {}``: a short-lived certificate, signed by the gateway's user CA."""

    least = 0


class AccountModel(Model):
    name: Name
    password: Source | None = None
    certificate: Minted | None = None
    private_key: Source | None = None


class TargetModel(Model):
    address: Annotated[AddressField, AfterValidator(_dialled)]
    host_key: PublicKey | None = None
    host_ca: PublicKey | None = None
    weight: Weight | None = None
    zone: Text | None = None
    draining: bool | None = None


class HealthModel(Model):
    account: Name
    database: Text | None = None


class TlsModel(Model):
    mode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    ca: Source | None = None


class ResourceModel(Model):
    name: Name
    protocol: Literal["postgresql", "ssh"]
    labels: dict[Text, Text] = {}
    targets: Annotated[list[TargetModel], Field(min_length=1)]
    accounts: list[AccountModel] = []
    database: Text | None = None
    tls: TlsModel = TlsModel()
    authentication: Annotated[list[Method], Field(min_length=1)] = ["scram-sha-256", "certificate"]
    tag_application_name: bool = True
    move_idle_sessions: bool = True
    health: HealthModel | None = None


class UserModel(Model):
    name: Name
    groups: list[Name] = []
    password: UserPassword | None = None
    ssh_keys: list[PublicKey] = []
    admin: bool = False
    disabled: bool = False


class SelectorModel(Model):
    names: Annotated[list[Name], Field(min_length=1)] | None = None
    labels: dict[Text, Values] = {}


class SshModel(Model):
    shell: bool = True
    exec: bool = True
    sftp: bool = True
    forward: list[Forward] = []
    agent: bool = False
    x11: bool = False
    record_input: bool = False


class AllowModel(Model):
    resources: SelectorModel
    accounts: Annotated[list[Name], Field(min_length=1)]
    targets: Literal["primary", "standby", "prefer-standby", "any"] = "any"
    max_lag_seconds: Annotated[float, Field(ge=0)] | None = None
    read_only: bool = False
    statement_timeout_seconds: Seconds | None = None
    max_session_seconds: Seconds | None = None
    idle_seconds: Seconds | None = None
    replication: bool = False
    ssh: SshModel = SshModel()


class RoleModel(Model):
    name: Name
    allow: list[AllowModel] = []


class BindingModel(Model):
    name: Name
    role: Name
    subjects: Annotated[list[Subject], Field(min_length=1)]
    sources: list[Network] = []
    deny_sources: list[Network] = []
    hours: HoursField | None = None
    expires: Moment | None = None


KINDS: dict[str, type[Model]] = {
    "resources": ResourceModel,
    "users": UserModel,
    "roles": RoleModel,
    "bindings": BindingModel,
}
"""What a file may list, and what each entry of a list has to be."""


class ObjectsFile(Model):
    """The whole file."""

    resources: list[ResourceModel] = []
    users: list[UserModel] = []
    roles: list[RoleModel] = []
    bindings: list[BindingModel] = []
