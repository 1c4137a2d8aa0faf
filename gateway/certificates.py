"""TLS on both sides: what the gateway shows to clients, and how it judges targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

import service_identity
from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from gateway import ca
from gateway.errors import BadFile, Unreachable
from gateway.model import Account, ServerTls, TargetTls, TlsMode

ALPN = b"postgresql"
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2; those of TLS 1.3 are all sane
VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


@frozen
class Serving:
    """What one connection is served with; taken once, since a reload may come between.

    ``end_point``: the channel binding (RFC 5929), None where it is not defined.
    """

    context: SSL.Context
    end_point: bytes | None


class Certificates:
    """The server side's TLS, as of now. *names*: see :func:`gateway.ca.server_names`."""

    def __init__(
        self,
        state_dir: Path,
        tls: ServerTls,
        names: frozenset[str],
        clock: Callable[[], datetime],
    ) -> None:
        """*clock* is aware.

        :raises GatewayError: a file is wrong, and which
        """
        self._state_dir = state_dir
        self._clock = clock
        self.reload(tls, names)

    def reload(self, tls: ServerTls, names: frozenset[str]) -> None:
        """Read the files again; connections that stand keep what they have.

        :raises GatewayError: a file is wrong, and which; what was served is served on
        """
        serving = load(self._state_dir, tls, names, self._clock())
        self.current = serving
        _client_context.cache_clear()  # the system's trust store may be what has changed


def load(state_dir: Path, tls: ServerTls, names: frozenset[str], now: datetime) -> Serving:
    """:raises GatewayError: a file is wrong, and which"""
    if tls.certificate is None or tls.key is None:
        pem = ca.server_pem(state_dir, names, now)
        chain, key = x509.load_pem_x509_certificates(pem), _private_key(pem)
    else:
        chain = ca.read_chain(tls.certificate)
        key = _configured_key(tls.key)
        if chain[0].public_key() != key.public_key():
            raise BadFile.about(tls.key, f"does not belong to the certificate {tls.certificate}")
    client_ca = ca.read_chain(tls.client_ca) if tls.client_ca is not None else []
    try:
        context = server_context(chain, key, tls.minimum, client_ca)
    except (SSL.Error, crypto.Error) as wrong:
        blamed = tls.certificate or state_dir / "keys" / "server.pem"
        raise BadFile.about(blamed, f"cannot be served: {wrong}") from wrong
    return Serving(context, tls_server_end_point(chain[0]))


def server_context(
    chain: Sequence[x509.Certificate],
    key: PrivateKey,
    minimum: str = "1.2",
    client_ca: Sequence[x509.Certificate] = (),
) -> SSL.Context:
    """*chain* begins with the server's own certificate.

    Clients may show a certificate of one of *client_ca*, and need not; one that does not
    verify ends the handshake. SNI is read from the connection afterwards.
    """
    context = _context(SSL.TLS_SERVER_METHOD, minimum)
    # A resumed session is one whose client certificate nobody looks at again.
    context.set_options(SSL.OP_NO_TICKET)
    _show(context, chain, key)
    context.set_alpn_select_callback(_select_protocol)
    context.set_session_id(b"gateway")  # resumption fails without one where clients verify
    if client_ca:
        context.set_verify(SSL.VERIFY_PEER)
        _trust(context, client_ca)
        for certificate in client_ca:
            context.add_client_ca(certificate)
    return context


def client_context(tls: TargetTls, account: Account) -> SSL.Context:
    """TLS to a target. A name is not checked here: see :func:`check_name`.

    As with libpq, "require" verifies the chain too where the resource names a CA.

    :raises Unreachable: the CA or the account's certificate cannot be used
    """
    private_key = (
        account.private_key.reveal() if account.certificate and account.private_key else b""
    )
    try:
        return _client_context(tls.mode, tls.ca, account.certificate, private_key)
    except (ValueError, TypeError, SSL.Error, crypto.Error) as wrong:
        raise Unreachable(f"the resource's TLS settings cannot be used: {wrong}") from None


@lru_cache(maxsize=256)  # the system's trust store takes milliseconds to read
def _client_context(
    mode: TlsMode, ca_pem: bytes | None, chain: bytes | None, private_key: bytes
) -> SSL.Context:
    if mode is TlsMode.DISABLE:
        raise ValueError("TLS is disabled")
    context = _context(SSL.TLS_CLIENT_METHOD, "1.2")
    if ca_pem is not None:
        _trust(context, x509.load_pem_x509_certificates(ca_pem))
    elif mode is not TlsMode.REQUIRE:
        context.set_default_verify_paths()
    verified = mode is not TlsMode.REQUIRE or ca_pem is not None
    context.set_verify(SSL.VERIFY_PEER if verified else SSL.VERIFY_NONE)
    if chain is not None and private_key:
        _show(context, x509.load_pem_x509_certificates(chain), _private_key(private_key))
    return context


def check_name(connection: SSL.Connection, host: str) -> None:
    """Whether the peer's certificate, whose chain has been verified, is *host*'s.

    Subject alternative names only (RFC 9525); *host* is a name or an IP literal.

    :raises Unreachable: it is somebody else's
    """
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise Unreachable(f"{host} showed no certificate")
    try:
        if _is_address(host):
            verify_certificate_ip_address(certificate, host)
        else:
            verify_certificate_hostname(certificate, host)
    except (
        service_identity.VerificationError,
        service_identity.CertificateError,
        ValueError,
    ) as wrong:
        raise Unreachable(f"the target's certificate is not for {host}") from wrong


def tls_server_end_point(certificate: x509.Certificate) -> bytes | None:
    """The channel binding of RFC 5929, chapter 4.1: the certificate's hash by the hash of
    its signature, SHA-256 in place of MD5 and SHA-1; None where the signature has none."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def certified_names(certificate: x509.Certificate) -> frozenset[str]:
    """The users that a verified client certificate may speak for: its common name, and its
    e-mail and URI alternative names. Of several common names none counts: which of them
    its CA looked at, nobody knows."""
    try:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = {str(common[0].value)} if len(common) == 1 else set[str]()
        return frozenset(names | _alternatives(certificate))
    except ValueError:
        return frozenset()


def _alternatives(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {
        *found.value.get_values_for_type(x509.RFC822Name),
        *found.value.get_values_for_type(x509.UniformResourceIdentifier),
    }


def _context(method: int, minimum: str) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(VERSIONS[minimum])
    context.set_options(OPTIONS)
    context.set_cipher_list(CIPHERS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle session gives back 34 KB
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def _show(context: SSL.Context, chain: Sequence[x509.Certificate], key: PrivateKey) -> None:
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    context.check_privatekey()


def _trust(context: SSL.Context, authorities: Sequence[x509.Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None
    for certificate in authorities:
        store.add_cert(crypto.X509.from_cryptography(certificate))


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """A client that wants to speak anything else is told so (RFC 7301, chapter 3.2): going on
    without a choice would let bytes meant for another service in."""
    if ALPN in offered:
        return ALPN
    raise SSL.Error([("gateway", "alpn", "no application protocol in common")])


def _configured_key(path: Path) -> PrivateKey:
    try:
        return _private_key(ca.read(path))
    except TypeError as wrong:
        raise BadFile.about(
            path, "is encrypted; the gateway cannot ask for a passphrase"
        ) from wrong
    except ValueError as wrong:
        raise BadFile.about(path, "is not a private key in PEM that TLS can use") from wrong


def _private_key(pem: bytes) -> PrivateKey:
    """:raises TypeError: it is encrypted; ValueError: it is something else"""
    key = load_pem_private_key(pem, None)
    if not isinstance(key, PrivateKey):
        raise ValueError(f"{type(key).__name__} is of no use for TLS")
    return key


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
