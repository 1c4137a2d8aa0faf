"""TLS: real handshakes, through memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from gateway.certificates import (
    Certificates,
    certified_names,
    check_name,
    client_context,
    server_context,
    tls_server_end_point,
)
from gateway.errors import BadFile, Unreachable
from gateway.model import Account, Secret, ServerTls, TargetTls, TlsMode

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
NAMES = frozenset({"localhost", "127.0.0.1"})
CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
OTHER_CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
PLAIN = Account("app")


def issued(*names: str, by: trustme.CA = CA, common: str | None = None) -> trustme.LeafCert:
    return by.issue_cert(*names, common_name=common, key_type=trustme.KeyType.ECDSA)


def pem(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def certificate(leaf: trustme.LeafCert) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem(leaf))


def serving(leaf: trustme.LeafCert, minimum: str = "1.2", clients: bool = False) -> SSL.Context:
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    trusted = [root()] if clients else []
    return server_context(x509.load_pem_x509_certificates(pem(leaf)), key, minimum, trusted)


def root() -> x509.Certificate:
    return x509.load_pem_x509_certificate(CA.cert_pem.bytes())


def shake(
    server: SSL.Context,
    client: SSL.Context,
    prepare: Callable[[SSL.Connection], None] = lambda connection: None,
) -> tuple[SSL.Connection, SSL.Connection]:
    """Both ends of a finished handshake (server, client); raises what either raises."""
    ends = SSL.Connection(server, None), SSL.Connection(client, None)
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    prepare(ends[1])
    done = {0: False, 1: False}
    for _ in range(20):
        for side in (1, 0):
            try:
                ends[side].do_handshake()
                done[side] = True
            except SSL.WantReadError:
                pass
            _carry(ends[side], ends[1 - side])
        if all(done.values()):
            return ends
    raise AssertionError("the handshake does not end")


def _carry(source: SSL.Connection, sink: SSL.Connection) -> None:
    with suppress(SSL.WantReadError):
        sink.bio_write(source.bio_read(65536))


def target(mode: TlsMode, ca: trustme.CA | None = CA) -> SSL.Context:
    return client_context(TargetTls(mode, ca.cert_pem.bytes() if ca else None), PLAIN)


def anyone() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    return context


# The server's side


def test_alpn_and_server_name() -> None:
    def prepare(connection: SSL.Connection) -> None:
        connection.set_alpn_protos([b"h2", b"postgresql"])
        connection.set_tlsext_host_name(b"orders.gw.example.com")

    server, client = shake(serving(issued("gw")), anyone(), prepare)
    assert client.get_alpn_proto_negotiated() == b"postgresql"
    assert server.get_servername() == b"orders.gw.example.com"
    server, _ = shake(serving(issued("gw")), anyone())
    assert server.get_alpn_proto_negotiated() == b""


def test_another_application_protocol_is_refused() -> None:
    with pytest.raises(SSL.Error, match="no application protocol in common"):
        shake(serving(issued("gw")), anyone(), lambda c: c.set_alpn_protos([b"h2"]))


@pytest.mark.parametrize(
    ("minimum", "offered", "works"),
    [
        ("1.2", SSL.TLS1_2_VERSION, True),
        ("1.2", SSL.TLS1_1_VERSION, False),
        ("1.3", SSL.TLS1_3_VERSION, True),
        ("1.3", SSL.TLS1_2_VERSION, False),
    ],
)
def test_minimum(minimum: str, offered: int, works: bool) -> None:
    client = anyone()
    client.set_cipher_list(b"ALL:@SECLEVEL=0")
    client.set_max_proto_version(offered)
    if works:
        shake(serving(issued("gw"), minimum), client)
    else:
        with pytest.raises(SSL.Error):
            shake(serving(issued("gw"), minimum), client)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_session_is_resumed_so_that_each_certificate_is_looked_at(version: int) -> None:
    server, client = serving(issued("gw"), clients=True), _showing(issued(common="alice"))
    client.set_max_proto_version(version)
    first = shake(server, client)
    first[0].send(b"x")
    _carry(*first)
    assert first[1].recv(1) == b"x"  # brings the tickets of TLS 1.3 along
    session = first[1].get_session()
    assert session is not None
    again = shake(server, client, lambda c: c.set_session(session))
    assert not SSL._lib.SSL_session_reused(again[0]._ssl)


def _showing(leaf: trustme.LeafCert) -> SSL.Context:
    account = Account(
        "app", certificate=pem(leaf), private_key=Secret(leaf.private_key_pem.bytes())
    )
    return client_context(TargetTls(TlsMode.VERIFY_CA, CA.cert_pem.bytes()), account)


def test_client_certificates_are_wanted_not_needed() -> None:
    gateway = serving(issued("gw"), clients=True)
    server, _ = shake(gateway, target(TlsMode.VERIFY_CA))
    assert server.get_peer_certificate() is None
    server, _ = shake(gateway, _showing(issued("alice@example.com", common="alice")))
    peer = server.get_peer_certificate(as_cryptography=True)
    assert peer is not None
    assert certified_names(peer) == {"alice", "alice@example.com"}
    with pytest.raises(SSL.Error, match="certificate"):
        shake(gateway, _showing(issued(common="alice", by=OTHER_CA)))


def test_without_a_client_ca_nobody_is_asked_for_a_certificate() -> None:
    server, _ = shake(serving(issued("gw")), _showing(issued(common="alice")))
    assert server.get_peer_certificate() is None


# The target's side


@pytest.mark.parametrize(
    ("mode", "ca", "works"),
    [
        (TlsMode.REQUIRE, None, True),
        (TlsMode.REQUIRE, CA, True),
        (TlsMode.REQUIRE, OTHER_CA, False),  # as libpq: a CA that is named is used
        (TlsMode.VERIFY_CA, CA, True),
        (TlsMode.VERIFY_CA, OTHER_CA, False),
        (TlsMode.VERIFY_CA, None, False),  # the system does not know this CA
        (TlsMode.VERIFY_FULL, CA, True),
        (TlsMode.VERIFY_FULL, OTHER_CA, False),
        (TlsMode.VERIFY_FULL, None, False),
    ],
)
def test_chains_of_targets(mode: TlsMode, ca: trustme.CA | None, works: bool) -> None:
    server, client = serving(issued("db.example.com")), target(mode, ca)
    if works:
        shake(server, client)
    else:
        with pytest.raises(SSL.Error, match="certificate verify failed"):
            shake(server, client)


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        (["db.example.com"], "db.example.com", True),
        (["db.example.com"], "DB.example.com", True),
        (["*.example.com"], "db.example.com", True),
        (["*.example.com"], "a.db.example.com", False),
        (["db.example.com"], "other.example.com", False),
        (["10.0.0.11"], "10.0.0.11", True),
        (["10.0.0.11"], "10.0.0.12", False),
        (["::1"], "::1", True),
        (["db.example.com"], "10.0.0.11", False),
        (["10.0.0.11"], "db.example.com", False),
        ([], "db.example.com", False),  # a common name is no name of a server
    ],
)
def test_names_of_targets(names: list[str], host: str, fits: bool) -> None:
    leaf = issued(*names, common="db.example.com")
    _, client = shake(serving(leaf), target(TlsMode.VERIFY_FULL))
    if fits:
        check_name(client, host)
    else:
        with pytest.raises(Unreachable):
            check_name(client, host)


@pytest.mark.parametrize(
    ("tls", "account"),
    [
        (TargetTls(TlsMode.DISABLE), PLAIN),
        (TargetTls(TlsMode.VERIFY_CA, b"junk"), PLAIN),
        (TargetTls(TlsMode.VERIFY_CA, b""), PLAIN),
        (TargetTls(TlsMode.REQUIRE), Account("a", None, b"junk", Secret(b"hidden"))),
        (
            TargetTls(TlsMode.REQUIRE),
            Account("a", None, pem(issued("x")), Secret(issued("y").private_key_pem.bytes())),
        ),
    ],
)
def test_settings_that_cannot_be_used(tls: TargetTls, account: Account) -> None:
    with pytest.raises(Unreachable) as refused:
        client_context(tls, account)
    assert "hidden" not in refused.value.detail
    assert refused.value.public == Unreachable.public


# Names and bindings


def signed(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    digest: hashes.SHA256 | hashes.SHA384 | None,
    commons: list[str],
    alternatives: list[x509.GeneralName],
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common) for common in commons])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, digest)


EC_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("commons", "alternatives", "names"),
    [
        (["alice"], [], {"alice"}),
        ([], [x509.RFC822Name("a@b.c")], {"a@b.c"}),
        (
            ["alice"],
            [x509.UniformResourceIdentifier("spiffe://x/a"), x509.DNSName("alice.example.com")],
            {"alice", "spiffe://x/a"},
        ),
        (["alice", "root"], [x509.RFC822Name("a@b.c")], {"a@b.c"}),
        ([], [], set()),
    ],
)
def test_certified_names(
    commons: list[str], alternatives: list[x509.GeneralName], names: set[str]
) -> None:
    assert certified_names(signed(EC_KEY, hashes.SHA256(), commons, alternatives)) == names


def test_end_point_uses_the_hash_of_the_signature() -> None:
    for digest, function in ((hashes.SHA256(), hashlib.sha256), (hashes.SHA384(), hashlib.sha384)):
        leaf = signed(EC_KEY, digest, ["x"], [])
        assert tls_server_end_point(leaf) == function(leaf.public_bytes(Encoding.DER)).digest()
    edwards = signed(ed25519.Ed25519PrivateKey.generate(), None, ["x"], [])
    assert tls_server_end_point(edwards) is None


SHA1_SIGNED = b"""-----BEGIN CERTIFICATE-----
MIIBazCCARKgAwIBAgIUa578VGdRHzrdLwCbaJL1lVD8t5gwCQYHKoZIzj0EATAM
MQowCAYDVQQDDAF4MB4XDTI2MTEyNDA5MTQzMFoXDTI2MTEyNTA5MTQzMFowDDEK
MAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFg8A09P1PaHxhYW
RILzRKUuihv3VqEK69aoLqbQj0UShftcPhttzjqk0By/oKKORtVyJ3sHWmXoY0g9
b95F256jUzBRMB0GA1UdDgQWBBTe5pFQvYn2ElkroWU1yNIxqt60BjAfBgNVHSME
GDAWgBTe5pFQvYn2ElkroWU1yNIxqt60BjAPBgNVHRMBAf8EBTADAQH/MAkGByqG
SM49BAEDSAAwRQIgCLatiQ1Ry4n4D5HOvBvcypZMKNuPVCfODUyOU8vAmNQCIQDq
KypPwtlqQjspsAd+lAX5xY5VTWiq+QyE2mJB/at+/w==
-----END CERTIFICATE-----
"""


def test_end_point_puts_sha256_in_place_of_sha1() -> None:
    leaf = x509.load_pem_x509_certificate(SHA1_SIGNED)
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA1)
    expected = hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    assert tls_server_end_point(leaf) == expected


# What is served, and its reload


def certificates(state: Path, tls: ServerTls) -> Certificates:
    return Certificates(state, tls, NAMES, lambda: NOW)


def write(path: Path, leaf: trustme.LeafCert) -> ServerTls:
    leaf.private_key_pem.write_to_path(path / "tls.key")
    (path / "tls.crt").write_bytes(pem(leaf))
    return ServerTls(path / "tls.crt", path / "tls.key")


def served(context: SSL.Context) -> x509.Certificate:
    _, client = shake(context, anyone())
    found = client.get_peer_certificate(as_cryptography=True)
    assert found is not None
    return found


def test_the_gateways_own_certificate_is_served(tmp_path: Path) -> None:
    own = Certificates(tmp_path, ServerTls(), NAMES, lambda: datetime.now(UTC))
    trusting = client_context(
        TargetTls(TlsMode.VERIFY_FULL, (tmp_path / "ca.crt").read_bytes()), PLAIN
    )
    _, client = shake(own.current.context, trusting)
    check_name(client, "localhost")
    check_name(client, "127.0.0.1")
    found = client.get_peer_certificate(as_cryptography=True)
    assert found is not None
    assert own.current.end_point == found.fingerprint(hashes.SHA256())


def test_reload_swaps_and_leaves_what_stands(tmp_path: Path) -> None:
    tls = write(tmp_path, first := issued("gw"))
    state = certificates(tmp_path / "state", tls)
    before = state.current
    assert served(before.context) == certificate(first)
    write(tmp_path, second := issued("gw"))
    state.reload(tls, NAMES)
    assert served(state.current.context) == certificate(second)
    assert state.current.end_point == tls_server_end_point(certificate(second))
    assert served(before.context) == certificate(first)
    assert not (tmp_path / "state").exists()  # no CA where none is needed


def _encrypted(path: Path) -> None:
    key = load_pem_private_key((path / "tls.key").read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (path / "tls.key").write_bytes(text)


def _foreign(path: Path) -> None:
    text = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "tls.key").write_bytes(text)


def _weak(path: Path) -> None:
    """A key that this OpenSSL does not take at its level of security."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    leaf = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(1))
    text = leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (path / "tls.crt").write_bytes(text)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "tls.key").write_bytes(private)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "tls.crt").unlink(), r"tls\.crt:1:1: cannot be read: No such file"),
        (lambda path: (path / "tls.crt").write_bytes(b""), r"tls\.crt:1:1: is not a certificate"),
        (lambda path: (path / "tls.key").write_bytes(b"x"), r"tls\.key:1:1: is not a private key"),
        (_encrypted, r"tls\.key:1:1: is encrypted"),
        (_foreign, r"tls\.key:1:1: does not belong"),
        (_weak, r"tls\.crt:1:1: cannot be served"),
    ],
)
def test_a_reload_that_fails_says_why_and_keeps_what_was(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    state = certificates(tmp_path, tls := write(tmp_path, issued("gw")))
    before = state.current
    spoil(tmp_path)
    with pytest.raises(BadFile, match=words):
        state.reload(tls, NAMES)
    assert state.current is before
