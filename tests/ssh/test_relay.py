"""The relay as a dialogue: who says what, and what reaches whom."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.model import SshRights
from gateway.record.format import NOTE
from gateway.ssh import messages as m
from gateway.ssh.messages import string, uint32
from gateway.ssh.notes import Notes
from gateway.ssh.relay import CLIENT, MAX_CHANNELS, MAX_PACKET, MAX_PENDING, TARGET, Relay

ALL = SshRights(forward=("db:5432", "localhost:*", "/run/*"), agent=True, x11=True)
NONE = SshRights(shell=False, exec=False, sftp=False)


def msg(kind: int, *fields: bytes) -> bytes:
    return bytes((kind,)) + b"".join(fields)


def opening(number: int, kind: bytes = b"session", rest: bytes = b"", packet: int = 100) -> bytes:
    return msg(m.CHANNEL_OPEN, string(kind), *map(uint32, (number, 1000, packet))) + rest


def confirmed(recipient: int, sender: int, packet: int = 100) -> bytes:
    return msg(m.CHANNEL_OPEN_CONFIRMATION, *map(uint32, (recipient, sender, 1000, packet)))


def request(recipient: int, name: bytes, *rest: bytes, reply: bool = True) -> bytes:
    head = msg(m.CHANNEL_REQUEST, uint32(recipient), string(name), bytes((reply,)))
    return head + b"".join(rest)


def asked(name: bytes, *rest: bytes, reply: bool = True) -> bytes:
    return msg(m.GLOBAL_REQUEST, string(name), bytes((reply,)), *rest)


def tcpip(host: bytes, port: int) -> bytes:
    return string(host) + uint32(port) + string(b"127.0.0.1") + uint32(4711)


def data(number: int, carried: bytes) -> bytes:
    return msg(m.CHANNEL_DATA, uint32(number), string(carried))


def success(number: int) -> bytes:
    return msg(m.CHANNEL_SUCCESS, uint32(number))


def failure(number: int) -> bytes:
    return msg(m.CHANNEL_FAILURE, uint32(number))


@define
class Dialogue:
    """Says something on one side and expects all that comes of it; nothing goes unexpected."""

    rights: SshRights = ALL
    heard: list[tuple[int, bytes]] = field(factory=list)
    records: list[tuple[int, bytes]] = field(factory=list)
    relay: Relay = field(init=False)

    def __attrs_post_init__(self) -> None:
        notes = Notes(lambda *record: self.records.append(record))
        self.relay = Relay(self.rights, notes, lambda *sent: self.heard.append(sent))

    def say(self, side: int, payload: bytes, *expected: tuple[int, bytes]) -> None:
        self.heard.clear()
        self.relay.receive(side, payload)
        assert self.heard == list(expected)

    def passes(self, side: int, *payloads: bytes) -> None:
        for payload in payloads:
            self.say(side, payload, (1 - side, payload))

    def session(self, client: int = 7, target: int = 3) -> None:
        self.passes(CLIENT, opening(client))
        self.passes(TARGET, confirmed(client, target))

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for kind, payload in self.records if kind == NOTE]


def test_a_command_from_its_channel_to_its_end() -> None:
    talk = Dialogue()
    talk.session(client=7, target=3)
    talk.passes(CLIENT, request(3, b"exec", string(b"exit 37")))
    talk.passes(TARGET, success(7))
    talk.passes(TARGET, data(7, b"hello"), msg(m.CHANNEL_WINDOW_ADJUST, uint32(7), uint32(9)))
    talk.passes(CLIENT, msg(m.CHANNEL_EOF, uint32(3)))
    talk.passes(TARGET, request(7, b"exit-status", uint32(37), reply=False))
    talk.passes(TARGET, msg(m.CHANNEL_CLOSE, uint32(7)))
    talk.passes(CLIENT, msg(m.CHANNEL_CLOSE, uint32(3)))
    kinds = [note["kind"] for note in talk.notes()]
    assert kinds == ["channel", "exit", "closed"]
    assert talk.notes()[1]["exit_status"] == 37
    assert talk.relay.requests == 1
    talk.session(client=7, target=3)  # both numbers are free again


def test_what_a_role_does_not_allow_is_answered_here_and_in_its_turn() -> None:
    talk = Dialogue(SshRights(exec=False))
    talk.session()
    talk.passes(
        CLIENT, request(3, b"pty-req", string(b"xterm"), *map(uint32, (80, 24, 0, 0)), string(b""))
    )
    talk.say(CLIENT, request(3, b"exec", string(b"id")))  # its no waits for the target's answer
    talk.say(CLIENT, request(3, b"x11-req", reply=False))
    talk.passes(CLIENT, request(3, b"shell"))
    talk.say(TARGET, success(7), (CLIENT, success(7)), (CLIENT, failure(7)))
    talk.passes(TARGET, success(7))
    assert [note.get("request") for note in talk.notes() if note["kind"] == "denied"] == [
        "exec",
        "x11-req",
    ]


@pytest.mark.parametrize(
    ("rights", "name", "first", "allowed"),
    [
        (NONE, b"shell", b"", False),
        (NONE, b"subsystem", b"sftp", False),
        (ALL, b"subsystem", b"sftp", True),
        (SshRights(exec=False), b"subsystem", b"netconf", False),
        (ALL, b"env", b"LC_ALL", True),
        (ALL, b"env", b"LD_PRELOAD", False),
        (ALL, b"env", b"LC_ALL=x\nLD_PRELOAD", False),
        (SshRights(), b"auth-agent-req@openssh.com", b"", False),
        (ALL, b"auth-agent-req@openssh.com", b"", True),
        (ALL, b"something-new@example.com", b"", False),
    ],
)
def test_requests(rights: SshRights, name: bytes, first: bytes, allowed: bool) -> None:
    talk = Dialogue(rights)
    talk.session()
    rest = (string(first), string(b"value")) if first else ()
    if allowed:
        talk.passes(CLIENT, request(3, name, *rest))
    else:
        talk.say(CLIENT, request(3, name, *rest), (CLIENT, failure(7)))


@pytest.mark.parametrize(
    ("kind", "rest", "allowed"),
    [
        (b"direct-tcpip", tcpip(b"db", 5432), True),
        (b"direct-tcpip", tcpip(b"DB", 5432), True),
        (b"direct-tcpip", tcpip(b"db", 22), False),
        (b"direct-tcpip", tcpip(b"localhost", 1), True),
        (b"direct-tcpip", tcpip(b"169.254.169.254", 80), False),
        (b"direct-streamlocal@openssh.com", string(b"/run/x.sock") + string(b"") + uint32(0), True),
        (
            b"direct-streamlocal@openssh.com",
            string(b"/etc/x.sock") + string(b"") + uint32(0),
            False,
        ),
        (b"tun@openssh.com", uint32(1) + uint32(0), False),
        (b"x11", tcpip(b"a", 1), False),
    ],
)
def test_channels_that_a_client_opens(kind: bytes, rest: bytes, allowed: bool) -> None:
    talk = Dialogue()
    payload = opening(1, kind, rest)
    if allowed:
        talk.passes(CLIENT, payload)
    else:
        talk.say(CLIENT, payload, (CLIENT, m.open_failure(1, m.PROHIBITED, "not permitted")))
        assert talk.notes()[-1]["refused"] is True


def test_a_target_opens_only_what_was_asked_for() -> None:
    talk = Dialogue()
    no = (TARGET, m.open_failure(5, m.PROHIBITED, "not permitted"))
    agent = opening(5, b"auth-agent@openssh.com")
    forwarded = opening(6, b"forwarded-tcpip", tcpip(b"localhost", 8080))
    talk.session()
    talk.say(TARGET, agent, no)
    talk.say(TARGET, opening(5), no)
    talk.passes(CLIENT, request(3, b"auth-agent-req@openssh.com", reply=False))
    talk.passes(TARGET, agent)
    talk.passes(CLIENT, confirmed(5, 8))
    talk.passes(TARGET, data(8, b"question"))
    talk.passes(CLIENT, data(5, b"answer"))
    talk.say(TARGET, forwarded, (TARGET, m.open_failure(6, m.PROHIBITED, "not permitted")))
    talk.passes(CLIENT, asked(b"tcpip-forward", string(b"localhost"), uint32(8080)))
    talk.passes(TARGET, msg(m.REQUEST_SUCCESS))
    talk.passes(TARGET, forwarded)
    talk.passes(CLIENT, msg(m.CHANNEL_OPEN_FAILURE, uint32(6), uint32(2), string(b""), string(b"")))


def test_global_requests() -> None:
    talk = Dialogue()
    no = bytes((m.REQUEST_FAILURE,))
    talk.passes(CLIENT, asked(b"keepalive@openssh.com"))
    talk.say(CLIENT, asked(b"tcpip-forward", string(b"0.0.0.0"), uint32(80)))
    talk.say(CLIENT, asked(b"something@example.com"))
    talk.say(CLIENT, asked(b"something@example.com", reply=False))
    talk.say(TARGET, no, (CLIENT, no), (CLIENT, no), (CLIENT, no))
    talk.say(TARGET, asked(b"hostkeys-00@openssh.com", string(b"key"), reply=False))
    talk.say(TARGET, asked(b"tcpip-forward", string(b"localhost"), uint32(1)), (TARGET, no))
    talk.passes(TARGET, asked(b"keepalive@openssh.com"))
    talk.passes(CLIENT, no)


def test_packets_are_kept_small() -> None:
    talk = Dialogue()
    huge = 1 << 31
    talk.say(CLIENT, opening(7, packet=huge), (TARGET, opening(7, packet=MAX_PACKET)))
    talk.say(TARGET, confirmed(7, 3, packet=huge), (CLIENT, confirmed(7, 3, packet=MAX_PACKET)))


@pytest.mark.parametrize("opened", [True, False])
def test_channels_by_the_thousand(opened: bool) -> None:
    """Those that the target has not opened yet count, too."""
    talk = Dialogue()
    for number in range(MAX_CHANNELS):
        talk.passes(CLIENT, opening(number))
        if opened:
            talk.passes(TARGET, confirmed(number, number))
    no = m.open_failure(9999, m.RESOURCE_SHORTAGE, "too many channels")
    talk.say(CLIENT, opening(9999), (CLIENT, no))
    if opened:
        talk.passes(CLIENT, msg(m.CHANNEL_CLOSE, uint32(7)))
        talk.passes(TARGET, msg(m.CHANNEL_CLOSE, uint32(7)))
    else:
        refused = msg(m.CHANNEL_OPEN_FAILURE, uint32(7), uint32(2), string(b""), string(b""))
        talk.passes(TARGET, refused)
    talk.passes(CLIENT, opening(9999))


VIOLATIONS = {
    "data before a channel": (CLIENT, data(3, b"x")),
    "data for another channel": (CLIENT, data(4, b"x")),
    "the client's own number": (CLIENT, data(7, b"x")),
    "a number in use": (CLIENT, opening(7)),
    "an answer to nothing": (TARGET, success(7)),
    "a confirmation of nothing": (TARGET, confirmed(9, 9)),
    "a confirmation of its own": (CLIENT, confirmed(7, 7)),
    "a global answer to nothing": (TARGET, msg(m.REQUEST_SUCCESS)),
    "extended data from the client": (
        CLIENT,
        msg(m.CHANNEL_EXTENDED_DATA, uint32(3), uint32(1), string(b"x")),
    ),
    "extended data of another kind": (
        TARGET,
        msg(m.CHANNEL_EXTENDED_DATA, uint32(7), uint32(2), string(b"x")),
    ),
    "an unknown message": (CLIENT, msg(101, uint32(3))),
    "a torn message": (CLIENT, msg(m.CHANNEL_REQUEST, uint32(3), uint32(1 << 31))),
    "no channel at all": (CLIENT, msg(m.CHANNEL_DATA)),
    "a torn opening": (CLIENT, msg(m.CHANNEL_OPEN, string(b"session"), uint32(1))),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_violations(case: str) -> None:
    side, payload = VIOLATIONS[case]
    talk = Dialogue()
    if case != "data before a channel":
        talk.session(client=7, target=3)
    with pytest.raises(ProtocolViolation):
        talk.relay.receive(side, payload)
    assert talk.heard in ([], [(CLIENT, confirmed(7, 3))])


def test_nobody_speaks_after_closing() -> None:
    talk = Dialogue()
    talk.session()
    talk.passes(CLIENT, msg(m.CHANNEL_CLOSE, uint32(3)))
    talk.passes(TARGET, data(7, b"in flight"))
    with pytest.raises(ProtocolViolation):
        talk.relay.receive(CLIENT, data(3, b"late"))


def test_requests_without_end_are_a_violation() -> None:
    talk = Dialogue()
    talk.session()
    for _ in range(MAX_PENDING):
        talk.passes(CLIENT, request(3, b"shell"))
    with pytest.raises(ProtocolViolation):
        talk.relay.receive(CLIENT, request(3, b"shell"))


def test_what_is_open_at_the_end_is_noted() -> None:
    talk = Dialogue()
    talk.session()
    talk.passes(CLIENT, opening(8, b"direct-tcpip", tcpip(b"db", 5432)))
    talk.passes(TARGET, confirmed(8, 4))
    talk.passes(CLIENT, data(4, b"12345"))
    talk.passes(TARGET, data(8, b"123"))
    talk.relay.close()
    closed, forward = talk.notes()
    assert closed["kind"] == "closed"
    assert (forward["to"], forward["bytes_in"], forward["bytes_out"]) == ("db:5432", 5, 3)


MESSAGES = st.builds(
    lambda kind, rest: bytes((kind,)) + rest,
    st.sampled_from([80, 81, 82, *range(90, 101), 127]),
    st.one_of(
        st.binary(max_size=60),
        st.builds(lambda n, s: uint32(n) + string(s), st.integers(0, 9), st.binary(max_size=40)),
    ),
)


@given(st.lists(st.tuples(st.sampled_from([CLIENT, TARGET]), MESSAGES), max_size=40))
def test_garbage_is_passed_answered_or_a_violation(said: list[tuple[int, bytes]]) -> None:
    talk = Dialogue()
    talk.session()
    for side, payload in said:
        try:
            talk.relay.receive(side, payload)
        except ProtocolViolation:
            break
    talk.relay.close()
