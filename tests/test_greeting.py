"""Greetings: real ones of each protocol, in pieces, and garbage."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Mapping
from functools import cache

import pytest
import trustme
from attrs import frozen
from cryptography.hazmat.bindings._rust import _openssl
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from gateway.greeting import LONGEST, MAX_RECORDS, UNKNOWN, WORDS, Greeting, Spoken, tell

POSTGRESQL = Greeting(Spoken.POSTGRESQL)
SSH = Greeting(Spoken.SSH)
HTTP = Greeting(Spoken.HTTP)
HTTPS = Greeting(Spoken.HTTPS)
HOST = "orders.gw.example.com"


# -- hellos --------------------------------------------------------------------------------


@cache
def python_hello(alpn: tuple[str, ...] = (), host: str | None = HOST) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = host is not None
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@cache
def openssl_hello(
    groups: bytes = b"", alpn: tuple[bytes, ...] = (), version: int = SSL.TLS1_3_VERSION
) -> bytes:
    """*groups* as OpenSSL lists them; a share of each one with a star is sent."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    if alpn:
        context.set_alpn_protos(list(alpn))
    tls = SSL.Connection(context, None)
    tls.set_tlsext_host_name(HOST.encode())
    if groups:  # pyOpenSSL itself can set one group only, and no share
        assert _openssl.lib.SSL_set1_curves_list(tls._ssl, groups) == 1
    tls.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(65536)


HYBRIDS = b"*X25519MLKEM768:*SecP256r1MLKEM768:*SecP384r1MLKEM1024:*MLKEM1024"


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def server_name(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def hello_of(extensions: bytes) -> bytes:
    """A ClientHello with that behind its compression methods, in one record."""
    head = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    return record(b"\x01" + vector(3, head + extensions))


def hello(*extensions: bytes) -> bytes:
    return hello_of(vector(2, b"".join(extensions)))


def record(fragment: bytes) -> bytes:
    return b"\x16\x03\x01" + vector(2, fragment)


def recut(one: bytes, sizes: Iterable[int]) -> bytes:
    """The hello in the record *one*, in records of *sizes* and one of what is left."""
    message, cut = one[5:], b""
    for size in sizes:
        if 0 < size < len(message):
            cut += record(message[:size])
            message = message[size:]
    return cut + record(message)


# -- vectors -------------------------------------------------------------------------------


@frozen
class Vector:
    """``decided``: after how many bytes; 0 stands for all of them."""

    name: str
    data: bytes
    greeting: Greeting
    decided: int = 0


def https(name: str | None = HOST, *protocols: bytes) -> Greeting:
    return Greeting(Spoken.HTTPS, name, protocols)


def postgresql(*protocols: bytes) -> Greeting:
    return Greeting(Spoken.POSTGRESQL, HOST, protocols)


VECTORS = [
    Vector("SSLRequest", bytes.fromhex("0000000804d2162f"), POSTGRESQL),
    Vector("GSSENCRequest", bytes.fromhex("0000000804d21630"), POSTGRESQL),
    Vector("CancelRequest", bytes.fromhex("0000001004d2162e0000109200000000"), POSTGRESQL, 8),
    Vector(
        "libpq 18, protocol 3.2",
        bytes.fromhex(
            "00000033000300027573657200616c6963652f6170705f726f006461746162617365006f726465"
            "72732f7265706f7274730000"
        ),
        POSTGRESQL,
        6,
    ),
    Vector(
        "asyncpg",
        bytes.fromhex(
            "0000003c00030000636c69656e745f656e636f64696e6700277574662d3827007573657200616c"
            "696365006461746162617365006f72646572730000"
        ),
        POSTGRESQL,
        6,
    ),
    Vector("the longest startup", struct.pack("!ii", 10_004, 3 << 16), POSTGRESQL, 6),
    Vector("a minor version to come", struct.pack("!ii", 9, 3 << 16 | 9999), POSTGRESQL, 6),
    Vector("OpenSSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n", SSH, 4),
    Vector("SSH 1", b"SSH-1.5-old\n", SSH, 4),
    Vector("curl", b"GET / HTTP/1.1\r\nHost: gw\r\n", HTTP, 4),
    Vector("a form", b"POST /log-in HTTP/1.1\r\n", HTTP, 5),
    Vector("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP, 4),
    Vector("Python", python_hello(), https()),
    Vector("Python, no name", python_hello(host=None), https(None)),
    Vector("Python, postgresql", python_hello(("postgresql",)), postgresql(b"postgresql")),
    Vector(
        "Python, a browser's ALPN",
        python_hello(("h2", "http/1.1")),
        https(HOST, b"h2", b"http/1.1"),
    ),
    Vector(
        "Python, postgresql among others",
        python_hello(("h2", "postgresql")),
        postgresql(b"h2", b"postgresql"),
    ),
    Vector(
        "Python, nearly postgresql", python_hello(("postgresql2",)), https(HOST, b"postgresql2")
    ),
    Vector("OpenSSL, its own groups", openssl_hello(alpn=(b"h2",)), https(HOST, b"h2")),
    Vector("OpenSSL, TLS 1.2", openssl_hello(version=SSL.TLS1_2_VERSION), https()),
    Vector("OpenSSL, X25519", openssl_hello(b"X25519"), https()),
    Vector("OpenSSL, P-256", openssl_hello(b"P-256", (b"postgresql",)), postgresql(b"postgresql")),
    Vector("OpenSSL, many shares", openssl_hello(HYBRIDS, (b"h2",)), https(HOST, b"h2")),
    Vector(
        "OpenSSL, many shares in two records",
        recut(openssl_hello(HYBRIDS, (b"postgresql",)), [2000]),
        postgresql(b"postgresql"),
    ),
    Vector("a record a byte", recut(hello(), [1] * 20), HTTPS),
    Vector("no extensions at all", hello_of(b""), HTTPS),
    Vector("an empty block of extensions", hello(), HTTPS),
    Vector("GREASE", hello(extension(0x0A0A, b""), alpn(b"\x1a\x1a")), https(None, b"\x1a\x1a")),
    Vector("a name in upper case", hello(server_name(b"Orders.GW")), https("orders.gw")),
    Vector("a name with a control character", hello(server_name(b"a\x1b[2J")), https(None)),
    Vector("a name with a NUL", hello(server_name(b"gw\0.example.com")), https(None)),
    Vector("an empty name", hello(server_name(b"")), https(None)),
    Vector("a name beyond ASCII", hello(server_name("gß".encode())), https(None)),
    Vector("a name longer than names are", hello(server_name(b"a" * 256)), https(None)),
    Vector("the longest hello", hello(extension(21, bytes(LONGEST - 56))), HTTPS),
]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


def waited(data: bytes) -> tuple[list[int], Greeting]:
    """What a caller goes through that looks at exactly what it was told to wait for."""
    waits, told = [], tell(b"")
    while isinstance(told, int):
        waits.append(told)
        assert told <= len(data), "waits for more than there will be"
        told = tell(data[:told])
    return waits, told


@by_name
@pytest.mark.parametrize("tail", [b"", b"\0", b"\x16\x03\x01\0\x01", b"x" * 70_000], ids=len)
def test_whole_and_with_a_tail(vector: Vector, tail: bytes) -> None:
    assert tell(vector.data + tail) == vector.greeting


@by_name
def test_byte_by_byte(vector: Vector) -> None:
    decided = vector.decided or len(vector.data)
    for seen in range(decided):
        wanted = tell(vector.data[:seen])
        assert isinstance(wanted, int)
        assert seen < wanted <= decided
    for seen in range(decided, len(vector.data) + 1):
        assert tell(vector.data[:seen]) == vector.greeting


@by_name
def test_waiting_for_what_is_wanted_gets_there(vector: Vector) -> None:
    waits, greeting = waited(vector.data + b"tail")
    assert greeting == vector.greeting
    assert waits[-1] == (vector.decided or len(vector.data))


def test_a_hello_is_waited_for_record_by_record() -> None:
    whole = openssl_hello(HYBRIDS)
    assert waited(whole)[0] == [1, 2, 5, 6, 9, len(whole)]
    cut = recut(whole, [2, 3000])
    assert waited(cut)[0] == [1, 2, 5, 6, 7, 9, 12, 14, 3012, 3014, 3017, len(whole) + 10]


def test_the_longest_hello_is_as_long_as_promised() -> None:
    assert len(next(case for case in VECTORS if case.name == "the longest hello").data) == LONGEST


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_every_word(word: bytes) -> None:
    assert tell(word) == Greeting(WORDS[word])
    assert [tell(word[:seen]) for seen in range(len(word))] == [*range(1, len(word) + 1)]
    assert tell(word.lower()) == UNKNOWN
    assert tell(word[:-1] + b"\r") == UNKNOWN


@pytest.mark.parametrize(
    ("data", "out"),
    [
        (b"\x01", 1),
        (b"\x80\x2e\x01", 1),  # an SSL 2 hello
        (b"HELO there", 3),
        (b"SSX-", 3),
        (b"GETS /", 4),
        (b"PROXY TCP4", 3),
        (b"\r\n\r\n\0\r\nQUIT\n", 1),
        (b"\0\1", 2),
        (b"\0\0\x28", 3),
        (b"\0\0\x27\x15", 4),
        (b"\0\0\0\x07", 4),
        (b"\0\0\0\0", 4),
        (b"\0\0\0\x08\0\x02\0\0", 6),  # protocol 2
        (b"\0\0\0\x08\0\x04\0\0", 6),
        (b"\0\0\0\x08\x04\xd3", 6),
        (b"\0\0\0\x08\x04\xd2\x16\x2d", 8),
        (b"\0\0\0\x08\x04\xd2\x16\x31", 8),
        (b"\x16\x02", 2),
        (b"\x16\x03\x01\0\0", 5),
        (b"\x16\x03\x01\x40\x01", 5),
        (b"\x16\x03\x01\x02\0\x02", 6),  # a ServerHello
        (b"\x16\x03\x01\x02\0\x01\0\x40\x01", 9),
        (b"\x16\x03\x01\x02\0\x01\xff\xff\xff", 9),
        (b"\x16\x03\x01\x40\0\x01\0\x3f\xf8", 9),  # one byte longer than the longest
        (b"\x16\x03\x01\0\x01\x01\x15\x03", 8),  # an alert amid the hello
        (b"\x16\x03\x01\0\x01\x01\x16\x03\x01\0\0", 11),
    ],
    ids=repr,
)
def test_unknown_as_soon_as_a_byte_excludes_the_rest(data: bytes, out: int) -> None:
    assert isinstance(tell(data[: out - 1]), int)
    for seen in range(out, len(data) + 1):
        assert tell(data[:seen]) == UNKNOWN
    assert tell(data + b"tail") == UNKNOWN


MALFORMED: Mapping[str, bytes] = {
    "nothing in it": record(b"\x01\0\0\0"),
    "cut in the random": record(b"\x01" + vector(3, b"\x03\x03" + bytes(31))),
    "cut in the session": record(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\x20")),
    "a byte behind the extensions": hello_of(vector(2, b"") + b"\0"),
    "half a length of extensions": hello_of(b"\0"),
    "extensions cut short": hello_of(b"\0\x01"),
    "an extension cut short": hello(b"\0\x10\0\x05\0\x03\x02h"),
    "half an extension's type": hello(b"\0"),
    "two of a type": hello(alpn(b"h2"), alpn(b"postgresql")),
    "two of a type that matters to nobody": hello(extension(99, b""), extension(99, b"")),
    "ALPN, empty": hello(extension(16, b"")),
    "ALPN, an empty list": hello(alpn()),
    "ALPN, an empty protocol": hello(alpn(b"h2", b"")),
    "ALPN, a byte behind the list": hello(extension(16, vector(2, vector(1, b"h2")) + b"\0")),
    "ALPN, a protocol cut short": hello(extension(16, vector(2, b"\x0bpostgresql"))),
    "name, empty": hello(extension(0, b"")),
    "name, an empty list": hello(extension(0, vector(2, b""))),
    "name, of another type": hello(extension(0, vector(2, b"\1" + vector(2, b"gw")))),
    "name, two": hello(extension(0, vector(2, (b"\0" + vector(2, b"gw")) * 2))),
    "name, a byte behind the list": hello(extension(0, vector(2, b"\0" + vector(2, b"gw")) + b"x")),
    "another message in the record": record(hello()[5:] + b"\x14\0\0\0"),
    "another message in the last record": recut(record(hello()[5:] + b"\x14\0\0\0"), [10]),
    "too long, in records": recut(record(hello(extension(21, bytes(LONGEST - 60)))[5:]), [9000]),
    "a record a byte": recut(hello(extension(21, bytes(200))), [1] * 200),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_hello_is_unknown(name: str) -> None:
    assert tell(MALFORMED[name]) == UNKNOWN
    assert tell(MALFORMED[name] + b"tail") == UNKNOWN


@pytest.mark.parametrize(("pieces", "greeting"), [(MAX_RECORDS, HTTPS), (MAX_RECORDS + 1, UNKNOWN)])
def test_pieces_are_counted(pieces: int, greeting: Greeting) -> None:
    cut = recut(hello(extension(21, bytes(200))), [2] * (pieces - 1))
    waits, told = waited(cut)
    assert told == tell(cut) == greeting
    assert len(waits) <= 4 * MAX_RECORDS


# -- properties ----------------------------------------------------------------------------

HELLOS = [
    vector.data
    for vector in VECTORS
    if len(vector.data) < 2000 and vector.data == record(vector.data[5:])  # one record each
]
CUTS = st.lists(st.integers(1, 600), max_size=12)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good beginning with some bytes that are not its own, or none."""
    data = bytearray(draw(st.sampled_from([vector.data for vector in VECTORS] + HELLOS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from([10, 100, 2000])))))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


STREAMS = st.one_of(
    spoilt(),
    st.builds(recut, spoilt().filter(lambda data: len(data) > 5), CUTS),
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda data: b"\0\0\0" + data),
    st.binary(max_size=300).map(hello),
    st.binary(max_size=300).map(hello_of),
    st.binary(max_size=300).map(lambda data: record(b"\x01" + vector(3, data))),
)


@given(STREAMS, st.data())
def test_no_split_changes_the_answer_and_no_wait_delays_it(data: bytes, draws) -> None:
    seen = 0
    while isinstance(now := tell(data[:seen]), int):
        assert seen < now <= LONGEST
        last = min(now - 1, len(data))
        for fewer in {last, draws.draw(st.integers(seen, last))}:
            assert tell(data[:fewer]) == now
        if now > len(data):
            return
        seen = now
    assert tell(data) == tell(data[: draws.draw(st.integers(seen, len(data)))]) == now


@given(st.sampled_from(HELLOS), CUTS)
def test_no_cut_into_records_changes_the_answer(data: bytes, cuts: list[int]) -> None:
    assert tell(recut(data, cuts)) == tell(data)


@given(
    st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=8),
    st.from_regex(r"[a-z0-9_.-]{1,63}", fullmatch=True),
    st.lists(st.tuples(st.integers(17, 0xFFFF), st.binary(max_size=40)), unique_by=lambda e: e[0]),
)
def test_what_a_hello_asks_for_comes_through(protocols, name, others) -> None:
    rest = b"".join(extension(kind, content) for kind, content in others)
    spoken = Spoken.POSTGRESQL if b"postgresql" in protocols else Spoken.HTTPS
    greeting = Greeting(spoken, name, tuple(protocols))
    assert tell(hello(rest, alpn(*protocols), server_name(name.encode()))) == greeting
    assert tell(hello(server_name(name.encode()), alpn(*protocols), rest)) == greeting


# -- against OpenSSL -----------------------------------------------------------------------


class Server:
    """OpenSSL as the server of one handshake: what it read in the hello."""

    def __init__(self) -> None:
        self.alpn: tuple[bytes, ...] | None = None
        self.name: str | None = None
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        trustme.CA().issue_cert(HOST).configure_cert(self._context)
        self._context.set_alpn_select_callback(self._select)

    def _select(self, tls: SSL.Connection, offered: list[bytes]) -> bytes:
        name = tls.get_servername()
        self.alpn, self.name = tuple(offered), name.decode("latin-1") if name else None
        return offered[0]

    def read(self, data: bytes) -> None:
        self.alpn = self.name = None
        tls = SSL.Connection(self._context, None)
        tls.set_accept_state()
        tls.bio_write(data)
        with pytest.raises(SSL.Error):
            tls.do_handshake()


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


WITH_ALPN = [  # from real clients: OpenSSL looks at ALPN last, when all the rest is good
    vector.data
    for vector in VECTORS
    if vector.greeting.alpn
    and vector.name.startswith(("Python", "OpenSSL"))
    and not vector.name.endswith("records")
]


@pytest.mark.parametrize("data", WITH_ALPN + [recut(data, [7, 200]) for data in WITH_ALPN], ids=len)
def test_openssl_reads_the_same(server: Server, data: bytes) -> None:
    server.read(data)
    greeting = tell(data)
    assert isinstance(greeting, Greeting)
    assert (greeting.alpn, greeting.server_name) == (server.alpn, server.name)


@given(
    st.sampled_from(WITH_ALPN),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_openssl_reads_nothing_else(server: Server, data: bytes, changes) -> None:
    """Of a hello that both of us accept, both read the same."""
    changed = bytearray(data)
    for at, octet in changes:
        changed[at % len(changed)] = octet
    server.read(bytes(changed))
    greeting = tell(bytes(changed))
    if isinstance(greeting, Greeting) and greeting != UNKNOWN and server.alpn is not None:
        assert greeting.alpn == server.alpn
        assert greeting.server_name in (None, (server.name or "").lower())
