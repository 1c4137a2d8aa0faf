"""Secrets of an object: read from where it says, judged, and sealed.

What has not changed stays as it is stored, so that applying a file twice changes nothing.
Relative file names are relative to the objects file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    load_ssh_private_key,
)

from gateway.contracts import Body, Document, Vault
from gateway.errors import BadFile, GatewayError, Problem
from gateway.identity.password import (
    SALT,
    format_verifier,
    make_verifier,
    matches,
    parse_verifier,
)

MAX_SECRET = 65_536  # bytes: a chain of certificates or an RSA key; a password has a few

Judge = Callable[[bytes], bytes]


class _Wrong(GatewayError):
    """What is wrong with one value, in words without the value."""


def settle(document: Document, before: Body | None, vault: Vault) -> Body:
    """The body to store. *before*: what is stored of this object now.

    :raises BadFile: secrets that cannot be read or used, all of them
    """
    settler = _Settler(document, vault)
    body = dict(document.body)
    if document.kind == "users":
        settler.user(body, before or {})
    elif document.kind == "resources":
        settler.resource(body, before or {})
    if settler.problems:
        raise BadFile(tuple(settler.problems))
    return body


class _Settler:
    def __init__(self, document: Document, vault: Vault) -> None:
        self._document = document
        self._vault = vault
        self._base = Path(document.file).absolute().parent
        self.problems: list[Problem] = []

    def user(self, body: dict[str, Any], before: Body) -> None:
        source = body.get("password")
        if source is not None:
            kept = before.get("password", {})
            self._put(body, "password", "password", lambda: self._verifier(source, kept))

    def resource(self, body: dict[str, Any], before: Body) -> None:
        ssh = body["protocol"] == "ssh"
        kept = {account["name"]: account for account in before.get("accounts", ())}
        accounts = [dict(account) for account in body["accounts"]]
        for place, account in enumerate(accounts):
            was = kept.get(account["name"], {})
            for name, judge in (("password", _password), ("private_key", _key(ssh))):
                if name in account:
                    self._sealed(account, name, f"accounts.{place}.{name}", judge, was)
            if not ssh and "certificate" in account:
                self._pem(account, "certificate", f"accounts.{place}.certificate")
                self._pair(account, f"accounts.{place}.private_key")
        body["accounts"] = accounts
        body["tls"] = tls = dict(body["tls"])
        if "ca" in tls:
            self._pem(tls, "ca", "tls.ca")

    # -- one value each; what is wrong with it is noted, and the others go on

    def _put(self, holder: dict[str, Any], name: str, path: str, make: Callable[[], Any]) -> None:
        try:
            holder[name] = make()
        except _Wrong as wrong:
            line, column = self._document.marks.get(path, self._document.marks.get("", (1, 1)))
            where = f"{self._document.kind}.{self._document.name}.{path}"
            self.problems.append(Problem(self._document.file, line, column, where, str(wrong)))

    def _sealed(
        self, holder: dict[str, Any], name: str, path: str, judge: Judge, before: Body
    ) -> None:
        source, kept = holder[name], before.get(name, {})

        def make() -> Body:
            secret = judge(self._read(source))
            same = _origin(source) == _origin(kept) and self._unsealed(kept) == secret
            sealed = kept["sealed"] if same else self._vault.seal(secret)
            return {"sealed": sealed, **_origin(source)}

        self._put(holder, name, path, make)

    def _unsealed(self, kept: Body) -> bytes | None:
        try:
            return self._vault.unseal(kept["sealed"]) if "sealed" in kept else None
        except GatewayError:
            return None  # of another vault: sealed anew

    def _pem(self, holder: dict[str, Any], name: str, path: str) -> None:
        """Certificates are no secrets and stay readable."""
        source = holder[name]
        self._put(
            holder,
            name,
            path,
            lambda: {"pem": _certificates(self._read(source)).decode(), **_origin(source)},
        )

    def _pair(self, account: dict[str, Any], path: str) -> None:
        """Looked at only where both are good."""
        certificate, key = account["certificate"], account.get("private_key", {})
        if "pem" not in certificate or "sealed" not in key:
            return

        def make() -> Any:
            leaf = x509.load_pem_x509_certificate(certificate["pem"].encode())
            private = load_pem_private_key(self._vault.unseal(key["sealed"]), None)
            if leaf.public_key() != private.public_key():
                raise _Wrong("is not the key of the certificate")
            return key

        self._put(account, "private_key", path, make)

    def _verifier(self, source: Body, kept: Body) -> Body:
        text = source.get("scram-sha-256") or self._made(source, kept.get("scram-sha-256"))
        return {"scram-sha-256": text, **_origin(source)}

    def _made(self, source: Body, kept: str | None) -> str:
        """From a password; a file may as well hold a verifier, as PostgreSQL has it."""
        password = _password(self._read(source)).decode("utf-8", "surrogateescape")
        try:
            if password.startswith("SCRAM-SHA-256$"):
                parse_verifier(password)
                return password
            if kept is not None and matches(parse_verifier(kept), password):
                return kept
            return format_verifier(make_verifier(password, secrets.token_bytes(SALT)))
        except ValueError as wrong:
            raise _Wrong(str(wrong)) from None

    def _read(self, source: Body) -> bytes:
        for way in ("value", "plain"):
            if way in source:
                return str(source[way]).encode("utf-8", "surrogateescape")
        if "env" in source:
            found = os.environb.get(source["env"].encode())
            if found is None:
                raise _Wrong("is not in the daemon's environment")
            return found
        return _file(self._base / source["file"])


def _origin(source: Mapping[str, Any]) -> dict[str, str]:
    """Where it was read, for people; what was read is not there."""
    return {way: source[way] for way in ("file", "env") if way in source}


def _file(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_at_once) as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as wrong:
        raise _Wrong(f"{path}: {wrong.strerror}") from None
    if len(data) > MAX_SECRET:
        raise _Wrong(f"{path} is longer than {MAX_SECRET} bytes")
    return data


def _at_once(path: str, flags: int) -> int:
    """Of a pipe that nobody writes to, nothing is read; all else waits behind us."""
    return os.open(path, flags | os.O_NONBLOCK)


def _password(data: bytes) -> bytes:
    """One line; the end of it is the editor's, not the password's."""
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise _Wrong("is empty")
    if any(mark in data for mark in (b"\0", b"\n")):
        raise _Wrong("holds more than one line, or a NUL")
    return data


def _key(ssh: bool) -> Judge:
    def judge(data: bytes) -> bytes:
        loads = (load_ssh_private_key, load_pem_private_key) if ssh else (load_pem_private_key,)
        said = set(_said(loads, data))
        if None in said:
            return data
        raise _Wrong("is encrypted" if TypeError in said else "is not a private key")

    return judge


def _said(loads: tuple[Callable[..., Any], ...], data: bytes) -> Iterator[type | None]:
    """What each loader says: None where it takes it."""
    for load in loads:
        try:
            load(data, None)
            yield None
        except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
            yield type(wrong)


def _certificates(data: bytes) -> bytes:
    """Those in *data* and nothing else: a private key often stands in the same file."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise _Wrong("is not a certificate in PEM") from None
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found)
