"""What an objects file may say. Field names and defaults are the file's own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway import hours
from gateway.fields import AddressField, Moment, Name, Network
from gateway.identity.password import parse_verifier
from gateway.marked import Model

MAX_KEY = 16_384  # characters of a public key line; RSA-16384 has 2,800

Method = Literal["scram-sha-256", "certificate", "md5", "password", "trust"]
TextField = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0)]


def _public_key(line: str) -> str:
    try:
        load_ssh_public_key(line[:MAX_KEY].strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not an OpenSSH public key line") from None
    return line.strip()


def _verifier(text: str) -> str:
    parse_verifier(text)
    return text


def _forward(pattern: str) -> str:
    if re.fullmatch(r"(\[[0-9a-fA-F:*.]+\]|[^\s\[\]:]+):(\*|\d{1,5})", pattern) is None:
        raise ValueError("should be HOST:PORT, either of which may be *")
    return pattern


def _hours(text: str) -> str:
    hours.parse(text)
    return text


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _subject(text: str) -> str:
    kind, colon, name = text.partition(":")
    if kind not in ("user", "group") or not colon or not name:
        raise ValueError("should be user:NAME or group:NAME")
    return text


PublicKey = Annotated[str, AfterValidator(_public_key)]
Verifier = Annotated[str, AfterValidator(_verifier)]
Forward = Annotated[str, AfterValidator(_forward)]
HoursField = Annotated[str, AfterValidator(_hours)]
Subject = Annotated[str, AfterValidator(_subject)]
Values = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class _OneOf(Model):
    """Exactly one of its members."""

    @model_validator(mode="after")
    def _one(self) -> _OneOf:
        if sum(value is not None for _, value in self) != 1:
            names = [info.alias or name for name, info in type(self).model_fields.items()]
            raise ValueError(f"has to hold one of {', '.join(names)}")
        return self


class Source(_OneOf):
    """Where something is read: here, a file, or the daemon's environment."""

    value: TextField | None = Field(default=None, repr=False)
    file: TextField | None = None
    env: TextField | None = None


class UserPassword(Source):
    """A password, or what PostgreSQL would keep of it."""

    verifier: Verifier | None = Field(default=None, alias="scram-sha-256", repr=False)
    plain: TextField | None = Field(default=None, repr=False)


class Minted(Model):
    """``certificate: {}``: a short-lived certificate, signed by the gateway's user CA."""

    value: TextField | None = None
    file: TextField | None = None
    env: TextField | None = None


class AccountModel(Model):
    name: Name
    password: Source | None = None
    certificate: Minted | None = None
    private_key: Source | None = None


class TargetModel(Model):
    address: AddressField
    host_key: PublicKey | None = None
    host_ca: PublicKey | None = None


class TlsModel(Model):
    mode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    ca: Source | None = None


class ResourceModel(Model):
    name: Name
    protocol: Literal["postgresql", "ssh"]
    labels: dict[str, str] = {}
    targets: Annotated[list[TargetModel], Field(min_length=1)]
    accounts: list[AccountModel] = []
    database: TextField | None = None
    tls: TlsModel = TlsModel()
    authentication: Annotated[list[Method], Field(min_length=1)] = ["scram-sha-256", "certificate"]
    tag_application_name: bool = True


class UserModel(Model):
    name: Name
    groups: list[Name] = []
    password: UserPassword | None = None
    ssh_keys: list[PublicKey] = []
    admin: bool = False
    disabled: bool = False


class SelectorModel(Model):
    names: Annotated[list[Name], Field(min_length=1)] | None = None
    labels: dict[str, Values] = {}


class SshModel(Model):
    shell: bool = True
    exec: bool = True
    sftp: bool = True
    forward: list[Forward] = []
    agent: bool = False
    x11: bool = False


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
