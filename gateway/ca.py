"""The gateway's own certificate authority, and the server certificate it makes.

In the state directory::

    ca.crt            for clients to trust (psql: sslrootcert)
    keys/ca.key       0600
    keys/server.pem   0600, certificate and key in one file, so that they change together

Keys are P-256: a handshake costs 40 % less than with RSA-2048.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway import private
from gateway.errors import BadFile

AUTHORITY_LIFE = timedelta(days=3653)  # ten years: clients have to be told of a new one
SERVER_LIFE = timedelta(days=365)  # some clients refuse more than 398
RENEW_BEFORE = timedelta(days=30)
BACKDATE = timedelta(hours=1)  # clocks of clients may be a little behind


@frozen
class Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def server_names(hosts: Iterable[str], host_name: str, domain: str | None) -> frozenset[str]:
    """What a server certificate has to carry: names and IP literals.

    *hosts*: the listeners' addresses; "0.0.0.0" and "::" name nothing and are left out.
    """
    named = {"localhost", "127.0.0.1", "::1", host_name, *hosts}
    if domain is not None:
        named |= {domain, f"*.{domain}"}
    # What is not ASCII cannot stand in a dNSName (RFC 5280, 4.2.1.6).
    return frozenset(name for name in named if name.isascii() and name not in {"", "0.0.0.0", "::"})  # noqa: S104 -- nothing is bound here


def authority(state_dir: Path, now: datetime) -> Authority:
    """The CA in *state_dir*; made at the first start.

    :raises BadFile: its files are there and cannot be used
    """
    key_path, certificate_path = state_dir / "keys" / "ca.key", state_dir / "ca.crt"
    if certificate_path.exists() and not key_path.exists():
        raise BadFile.about(certificate_path, f"its key {key_path} is missing")
    key = _kept_key(key_path)
    if not certificate_path.exists():
        private.replace(certificate_path, _authority_certificate(key, now), 0o644)
    certificate = read_chain(certificate_path)[0]
    if certificate.public_key() != key.public_key():
        raise BadFile.about(certificate_path, f"does not belong to the key {key_path}")
    if certificate.not_valid_after_utc <= now:
        raise BadFile.about(
            certificate_path, f"expired at {certificate.not_valid_after_utc.isoformat()}"
        )
    return Authority(certificate, key)


def server_pem(state_dir: Path, names: frozenset[str], now: datetime) -> bytes:
    """The gateway's own server certificate and key; made anew when :data:`RENEW_BEFORE`
    is left of it, or *names* or the CA have changed.

    :raises BadFile: the CA or the certificate cannot be used
    """
    path = state_dir / "keys" / "server.pem"
    made_by = authority(state_dir, now)
    if path.exists():
        found = private.read(path)
        if _serves(found, made_by, names, now):
            return found
    fresh = _server_pem(made_by, names, now)
    private.replace(path, fresh)
    return fresh


def _serves(pem: bytes, made_by: Authority, names: frozenset[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        load_pem_private_key(pem, None)
        certificate.verify_directly_issued_by(made_by.certificate)
        kept = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except Exception:  # whatever is wrong with it, a new one costs nothing
        return False
    # An authority in its last year signs shorter; renewing early would not lengthen that.
    left = min(RENEW_BEFORE, (made_by.certificate.not_valid_after_utc - now) / 2)
    fresh = certificate.not_valid_after_utc - now >= left
    return fresh and set(kept.value) == set(map(_general_name, names))


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"Gateway CA {identifier.digest[:4].hex()}")  # tells gateways apart in a store
    certificate = (
        _builder(name, name, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _server_pem(made_by: Authority, names: frozenset[str], now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = made_by.certificate
    until = min(now + SERVER_LIFE, issuer.not_valid_after_utc)
    alternatives = x509.SubjectAlternativeName(map(_general_name, sorted(names)))
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(made_by.key.public_key())
    certificate = (
        _builder(_name("gateway"), issuer.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(server, critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issued_by, critical=False)
        .sign(made_by.key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + _key_pem(key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=(since - BACKDATE).astimezone(UTC),
        not_valid_after=until.astimezone(UTC),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _kept_key(path: Path) -> ec.EllipticCurvePrivateKey:
    pem = private.kept(path, lambda: _key_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as wrong:
        raise BadFile.about(path, "is not a private key in PEM") from wrong
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadFile.about(path, "is not an elliptic curve key")
    return key


def read(path: Path) -> bytes:
    """:raises BadFile: in words"""
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise BadFile.about(path, f"cannot be read: {wrong.strerror}") from wrong


def read_chain(path: Path) -> list[x509.Certificate]:
    """At least one certificate.

    :raises BadFile: it has none, or cannot be read
    """
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as wrong:
        raise BadFile.about(path, "is not a certificate in PEM") from wrong
