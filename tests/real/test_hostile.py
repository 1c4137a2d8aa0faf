"""Clients that mean no good, or no longer know what they mean."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from random import Random

import pytest

from tests.real.conftest import Start
from tests.real.raw import (
    GSS_REQUEST,
    PROTOCOL_3_0,
    SSL_REQUEST,
    RawClient,
    Refusal,
    log_in,
    message,
    sasl_initial,
    sized,
    startup,
)
from tests.real.servers import GatewayProcess, until

ALICE = "alice's password"
LOGIN_SECONDS = 2
MARGIN = 3  # seconds for a refusal to be read, on a busy machine
CANCEL = struct.pack("!iii", 16, 80877102, 4242) + b"\0\1\2\3"
HELLO = startup(user="alice", database="orders")
FIRST = "n,,n=,r=fyko+d2lbbFgONRv9qkxdawL"

Client = Callable[[RawClient], None]


@pytest.fixture(scope="module")
def gateway(start: Start) -> Iterator[GatewayProcess]:
    """Does not wait long for anybody."""
    return start(f"limits: {{login_seconds: {LOGIN_SECONDS}}}\ndrain_seconds: 1\n")


@pytest.fixture(autouse=True)
def unharmed(gateway: GatewayProcess) -> Iterator[None]:
    """Whatever a client did: others are served, and nothing went wrong inside. Looked at
    after each test, so that the culprit is named."""
    yield
    assert log_in(gateway, "alice", ALICE, source="127.0.0.9") == "app_ro"
    for word in ("Traceback", "Unhandled", "failed inside the gateway"):
        assert word not in gateway.log


def sqlstate(client: RawClient) -> str:
    """Of the refusal, which has to be the last thing said."""
    with pytest.raises(Refusal) as refused:
        hear(client)
    assert client.rest() == b""
    return refused.value.sqlstate


def hear(client: RawClient) -> None:
    """Requests for a password, as long as there are any."""
    while client.receive()[0] == b"R":
        pass


# -- start-up packets ------------------------------------------------------------------------


def raw(version: int, body: bytes) -> bytes:
    return sized(struct.pack("!i", version) + body)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n", "08P01"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "08P01"),
        (b"\0\0\0\0", "08P01"),
        (b"\0\0\0\x07\0\0\0", "08P01"),
        (b"\0\0\x27\x15", "08P01"),  # 10,005: one more than PostgreSQL takes
        (b"\x7f\xff\xff\xff", "08P01"),
        (b"\xff\xff\xff\xff", "08P01"),
        (raw(2 << 16, b"user\0alice\0\0"), "08P01"),
        (raw(4 << 16, b"user\0alice\0\0"), "08P01"),
        (raw(0, b"user\0alice\0\0"), "08P01"),
        (raw(1234 << 16 | 5681, b""), "08P01"),
        (raw(PROTOCOL_3_0, b""), "08P01"),
        (raw(PROTOCOL_3_0, b"user\0alice\0"), "08P01"),
        (raw(PROTOCOL_3_0, b"user\0alice\0\0\0"), "08P01"),
        (raw(PROTOCOL_3_0, b"user"), "08P01"),
        (raw(PROTOCOL_3_0, b"\0"), "28000"),
        (raw(PROTOCOL_3_0, b"database\0orders\0\0"), "28000"),
        (HELLO, "28000"),  # in clear text
        (raw(80877103, b"more"), "08P01"),
        (SSL_REQUEST + SSL_REQUEST, "08P01"),
        (SSL_REQUEST + HELLO, "08P01"),
        (CANCEL[:-2], None),
        (raw(80877102, b"\0\0\0\1" + bytes(257)), "08P01"),
    ],
)
def test_malformed_startup(gateway: GatewayProcess, said: bytes, expected: str | None) -> None:
    with RawClient(gateway) as client:
        client.send(said)
        if expected is None:
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest() == b""
        else:
            assert sqlstate(client) == expected


@pytest.mark.parametrize("second", [GSS_REQUEST, SSL_REQUEST + HELLO, raw(80877104, b"more")])
def test_requests_out_of_turn(gateway: GatewayProcess, second: bytes) -> None:
    with RawClient(gateway) as client:
        client.send(GSS_REQUEST)
        assert client.exactly(1) == b"N"
        client.send(second)
        assert sqlstate(client) == "08P01"


def test_a_cancel_request_for_nobody_is_not_answered(gateway: GatewayProcess) -> None:
    with RawClient(gateway) as client:
        client.send(CANCEL)
        assert client.rest() == b""


@pytest.mark.parametrize(
    ("version", "options", "answer"),
    [
        (3 << 16 | 1, {}, 3 << 16),
        (3 << 16 | 99, {}, 3 << 16 | 2),
        (3 << 16, {"_pq_.magic": "on"}, 3 << 16),
        (3 << 16 | 2, {"_pq_.one": "1", "_pq_.two": "2"}, 3 << 16 | 2),
    ],
)
def test_unknown_minor_versions_and_options_are_negotiated(
    gateway: GatewayProcess, version: int, options: dict[str, str], answer: int
) -> None:
    with RawClient(gateway) as client:
        client.ask_tls()
        client.send(startup(version, user="alice", database="orders", **options))
        kind, body = client.receive()
        names = b"".join(name.encode() + b"\0" for name in options)
        assert (kind, body) == (b"v", struct.pack("!ii", answer, len(options)) + names)
        client.authenticate(ALICE)
        client.until_ready()


def test_a_log_in_byte_by_byte(gateway: GatewayProcess) -> None:
    class Slow(RawClient):
        def send(self, data: bytes) -> None:
            for place in range(len(data)):
                super().send(data[place : place + 1])

    with Slow(gateway) as client:
        client.ask_tls()
        client.send(HELLO)
        client.authenticate(ALICE)
        client.until_ready()
        assert (b"C", b"SELECT 1\0") in client.query("SELECT 1")


# -- in the middle of the log-in -------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        message(b"Q", b"SELECT 1\0"),
        message(b"X"),
        message(b"p", ALICE.encode() + b"\0"),  # a password where SASL was asked for
        message(b"p", b""),
        b"p\x7f\xff\xff\xff",
        b"p\0\0\0\3",
        b"p\xff\xff\xff\xff",
        message(b"p", bytes(2049)),
        message(b"p", b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
        message(b"p", b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,"),
        sasl_initial("SCRAM-SHA-1", FIRST),
        sasl_initial("SCRAM-SHA-256-PLUS", FIRST),
        sasl_initial("SCRAM-SHA-256", "y,,n=,r=fyko+d2lbbFgONRv9qkxdawL"),  # hides an offer
        sasl_initial("SCRAM-SHA-256", "n,a=root,n=,r=fyko"),
        sasl_initial("SCRAM-SHA-256", "n,,n=,r="),
        sasl_initial("SCRAM-SHA-256", "nonsense"),
        sasl_initial("SCRAM-SHA-256", ""),
        sasl_initial("SCRAM-SHA-256", "n,,n=,r=" + "x" * 1500),
        HELLO,  # a second one
        SSL_REQUEST,
        CANCEL,
        b"\0",
        bytes(10_000),
    ],
    ids=lambda said: repr(said[:24]),
)
def test_anything_but_a_first_sasl_message(gateway: GatewayProcess, said: bytes) -> None:
    with RawClient(gateway) as client:
        client.ask_tls()
        client.send(HELLO)
        client.send(said)
        assert sqlstate(client) == "08P01"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "08P01"),
        (b"c=biws,r={nonce}", "08P01"),
        (b"c=biws,r={nonce},p=", "08P01"),
        (b"c=biws,r={nonce},p=!!!!", "08P01"),
        (b"c=biws,r={nonce},p=AAAA", "08P01"),
        (b"c=biws,r=another,p=" + b"A" * 43 + b"=", "08P01"),
        (b"c=eSws,r={nonce},p=" + b"A" * 43 + b"=", "08P01"),
        (b"c=biws,r={nonce},p=" + b"A" * 43 + b"=", "28P01"),
    ],
)
def test_wrong_final_sasl_messages(gateway: GatewayProcess, said: bytes, expected: str) -> None:
    with RawClient(gateway) as client:
        client.ask_tls()
        client.send(HELLO)
        client.receive()
        client.send(sasl_initial("SCRAM-SHA-256", FIRST))
        nonce = client.receive()[1][4:].split(b",")[0].removeprefix(b"r=")
        client.send(message(b"p", said.replace(b"{nonce}", nonce)))
        assert sqlstate(client) == expected


@pytest.mark.parametrize("seed", range(10))
def test_noise(gateway: GatewayProcess, seed: int) -> None:
    """In the clear, inside TLS, and after the start-up message: said to or closed, in time."""
    random = Random(seed)
    noise = random.randbytes(random.randrange(1, 30_000))
    for prepare in STAGES.values():
        with RawClient(gateway) as client:
            prepare(client)
            began = time.monotonic()
            sender = threading.Thread(target=_send, args=(client, noise))
            sender.start()
            client.rest()
            assert time.monotonic() - began < LOGIN_SECONDS + MARGIN
            sender.join()  # or it would write into whatever has its descriptor next


def _send(client: RawClient, data: bytes) -> None:
    with suppress(OSError):  # it was refused before all of it had come
        client.send(data)


# -- silence ---------------------------------------------------------------------------------


def silent(client: RawClient) -> None:
    pass


def half_a_packet(client: RawClient) -> None:
    client.send(HELLO[:10])


def before_the_handshake(client: RawClient) -> None:
    client.send(SSL_REQUEST)
    assert client.exactly(1) == b"S"


def half_a_handshake(client: RawClient) -> None:
    client.send(b"\x16\3\1\2\0\1")


def after_the_handshake(client: RawClient) -> None:
    client.ask_tls()


def before_the_password(client: RawClient) -> None:
    client.ask_tls()
    client.send(HELLO)
    assert client.receive()[0] == b"R"


def before_the_proof(client: RawClient) -> None:
    before_the_password(client)
    client.send(sasl_initial("SCRAM-SHA-256", FIRST))
    assert client.receive()[0] == b"R"


def inside_a_message(client: RawClient) -> None:
    before_the_password(client)
    client.send(b"p\0\0\1\0SCRAM")


STAGES: dict[str, Client] = {
    stage.__name__: stage
    for stage in (
        silent,
        half_a_packet,
        before_the_handshake,
        half_a_handshake,
        after_the_handshake,
        before_the_password,
        before_the_proof,
        inside_a_message,
    )
}
WORDLESS = {"before_the_handshake", "half_a_handshake"}  # the protocol has none there


def test_silence_ends_in_time_whatever_was_said_before(gateway: GatewayProcess) -> None:
    with ExitStack() as stack:
        clients = {name: stack.enter_context(RawClient(gateway)) for name in STAGES}
        for name, client in clients.items():
            STAGES[name](client)
        began = time.monotonic()
        said = {name: client.rest() for name, client in clients.items()}
        assert time.monotonic() - began < LOGIN_SECONDS + MARGIN
    for name, words in said.items():
        assert (b"C08P01\0Mlog-in took too long" in words) == (name not in WORDLESS), name
        assert words or name in WORDLESS


@pytest.mark.parametrize("stage", STAGES)
def test_going_away(gateway: GatewayProcess, stage: str) -> None:
    """By closing, by closing half, and by a reset: probes of load balancers do all three."""
    for leave in ("close", "half", "reset"):
        with RawClient(gateway) as client:
            STAGES[stage](client)
            if leave == "half":
                client.sock.shutdown(socket.SHUT_WR)
                client.rest()
            elif leave == "reset":
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_who_does_not_read_its_refusal_is_dropped(gateway: GatewayProcess) -> None:
    before = gateway.files()
    with RawClient(gateway) as client:
        client.send(HELLO)
        until(lambda: gateway.files() <= before, "the connection to be closed", 2 + MARGIN)


def test_who_goes_on_talking_after_its_refusal_is_dropped(gateway: GatewayProcess) -> None:
    with RawClient(gateway) as client:
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 -- it is closed while we talk
            while True:
                client.send(bytes(65536))
        assert time.monotonic() - began < 2 + MARGIN
