"""Logging in, with clients that do not do as they should."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import asyncssh
import pytest

from gateway.model import ScramVerifier
from gateway.ssh import edge
from gateway.ssh.authority import SshAuthority
from gateway.ssh.messages import string, uint32
from gateway.ssh.peers import MAX_FAILURES, MAX_TRIES
from tests.ssh.doors import ALICE, opened
from tests.ssh.raw import (
    INFO_REQUEST,
    INFO_RESPONSE,
    PK_OK,
    USERAUTH_FAILURE,
    USERAUTH_SUCCESS,
    offered,
    password,
    userauth,
)
from tests.support import asyncio_test

WRONG = asyncssh.generate_private_key("ssh-ed25519")
KBDINT = (string(b""), string(b""))


@asyncio_test
async def test_a_key_that_signs(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        assert (await client.tries("alice#web", b"none")).kind == USERAUTH_FAILURE
        assert (await client.tries("alice#web", b"publickey", *offered(ALICE))).kind == PK_OK
        await client.logs_in("alice#web", ALICE)


@asyncio_test
async def test_a_key_that_is_offered_is_not_one_that_signs(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """Asking for alice's key and proving another one proves the other one."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        assert (await client.tries("alice#web", b"publickey", *offered(ALICE))).kind == PK_OK
        for fields in (
            client.signed("alice#web", WRONG),  # a key of one's own
            client.signed("alice#web", ALICE, signer=WRONG),  # alice's, signed with one's own
            client.signed("bob#web", ALICE),  # a proof for somebody else
            (b"\x01", *offered(ALICE)[1:], string(string(b"ssh-ed25519") + string(bytes(64)))),
        ):
            heard = await client.tries("alice#web", b"publickey", *fields)
            assert heard.kind == USERAUTH_FAILURE
        await client.logs_in("alice#web", ALICE)


@asyncio_test
async def test_a_signature_for_another_connection(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        one, other = await door.raw(), await door.raw()
        fields = one.signed("alice#web", ALICE)
        assert (await other.tries("alice#web", b"publickey", *fields)).kind == USERAUTH_FAILURE
        assert (await one.tries("alice#web", b"publickey", *fields)).kind == USERAUTH_SUCCESS


@asyncio_test
async def test_signatures_with_sha1_are_none(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    async with opened(tmp_path, shared_authority) as door:
        door.let_in(rsa)
        client = await door.raw()
        for algorithm, answer in (
            (b"ssh-rsa", USERAUTH_FAILURE),
            (b"rsa-sha2-512", USERAUTH_SUCCESS),
        ):
            head = (b"\x01", string(algorithm), string(rsa.public_data))
            said = string(client.id) + userauth("alice#web", b"publickey", *head)
            proof = string(rsa.sign(said, algorithm))
            assert (await client.tries("alice#web", b"publickey", *head, proof)).kind == answer


@asyncio_test
async def test_a_name_may_not_change(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        assert (await client.tries("bob#web", b"none")).kind == USERAUTH_FAILURE
        client.say(userauth("alice#web", b"publickey", *client.signed("alice#web", ALICE)))
        assert await client.parting() == "the user name may not change"


MANY = {
    "passwords": lambda client: (b"password", *password("wrong")),
    "keys": lambda client: (b"publickey", *offered(WRONG)),
    "bad signatures": lambda client: (
        b"publickey",
        *client.signed("alice#web", ALICE, signer=WRONG),
    ),
    "unknown methods": lambda client: (b"hostbased",),
    "nothing": lambda client: (b"none",),
}


@pytest.mark.parametrize("case", MANY)
@asyncio_test
async def test_no_more_than_six_tries(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        await client.tries("alice#web", b"none")
        fields = MANY[case](client)
        for _ in range(MAX_FAILURES - 1):
            assert (await client.tries("alice#web", *fields)).kind == USERAUTH_FAILURE
        client.say(userauth("alice#web", *fields))
        assert await client.parting() == "too many authentication failures"
        await door.told()
        proofs = case in ("passwords", "keys", "bad signatures")
        assert [event for event, _ in door.house.audited()] == ["refused"] * proofs


@asyncio_test
async def test_a_flood_of_tries_is_not_tried(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """All at once, so that each is overtaken by the next; the right one would be the last."""
    async with opened(tmp_path, shared_authority) as door:
        for fields in (password("wrong"), password("pencil")):
            client = await door.raw()
            client.say(*(userauth("alice#web", b"password", *fields) for _ in range(500)))
            client.say(userauth("alice#web", b"password", *password("pencil")))
            assert await client.parting() == "too many authentication failures"
        assert not door.house.live.infos()


@asyncio_test
async def test_offers_of_a_known_key_have_an_end(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        for _ in range(MAX_TRIES):
            assert (await client.tries("alice#web", b"publickey", *offered(ALICE))).kind == PK_OK
        client.say(userauth("alice#web", b"publickey", *offered(ALICE)))
        assert await client.parting() == "too many authentication failures"


# -- keyboard-interactive ------------------------------------------------------------------


def answers(*words: str) -> bytes:
    said = b"".join(string(word.encode()) for word in words)
    return bytes((INFO_RESPONSE,)) + uint32(len(words)) + said


@asyncio_test
async def test_answers_to_a_question(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        for words, kind in (
            (("wrong",), USERAUTH_FAILURE),
            ((), USERAUTH_FAILURE),
            (("pencil", "pencil"), USERAUTH_FAILURE),
            (("pencil",), USERAUTH_SUCCESS),
        ):
            asked = await client.tries("alice#web", b"keyboard-interactive", *KBDINT)
            assert asked.kind == INFO_REQUEST
            client.say(answers(*words))
            assert (await client.hear()).kind == kind


@asyncio_test
async def test_a_flood_of_answers_to_one_question(
    tmp_path: Path, shared_authority: SshAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does not wait for an answer guesses no more often than others."""
    guessed: list[str] = []

    def slow(verifier: ScramVerifier, word: str) -> bool:
        guessed.append(word)
        time.sleep(0.01)
        return False

    monkeypatch.setattr(edge, "matches", slow)
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        await client.tries("alice#web", b"keyboard-interactive", *KBDINT)
        while not client.is_closed():
            client.say(answers("wrong"))
            await asyncio.sleep(0.001)
        assert len(guessed) <= MAX_FAILURES


# -- garbage -------------------------------------------------------------------------------

TORN = {
    "no fields": b"\x32",
    "a torn name": b"\x32" + uint32(1 << 31),
    "no method": b"\x32" + string(b"alice") + string(b"ssh-connection"),
    "another service": b"\x32" + string(b"alice") + string(b"ssh-userauth") + string(b"none"),
    "a name that is no text": b"\x32"
    + string(b"\xff")
    + string(b"ssh-connection")
    + string(b"none"),
    "a name of control characters": userauth("al\x1bice", b"none"),
    "a long name": userauth("a" * 5000, b"none"),
    "no name": userauth("", b"none"),
    "no name, and a key": userauth("", b"publickey", *offered(ALICE)),
    "a torn key": userauth("alice", b"publickey", b"\x00"),
    "a torn proof": userauth("alice", b"publickey", b"\x01", *offered(ALICE)[1:], string(b"")),
    "a torn password": userauth("alice", b"password", b"\x00" + uint32(99)),
    "a password that is no text": userauth("alice", b"password", b"\x00" + string(b"\xff\xfe")),
    "a question with a tail": userauth("alice", b"keyboard-interactive", *KBDINT, b"tail"),
    "an answer to no question": answers("pencil"),
    "success": b"\x34",
    "failure": b"\x33" + string(b"") + b"\x00",
    "a channel": b"\x5a" + string(b"session") + uint32(0) * 3,
    "a global request": b"\x50" + string(b"keepalive@openssh.com") + b"\x01",
    "data": b"\x5e" + uint32(0) + string(b"x"),
    "another service request": b"\x05" + string(b"ssh-connection"),
    "new keys": b"\x15",
    "key exchange": b"\x1e" + string(b"x" * 32),
    "a torn key exchange": b"\x14" + bytes(16) + uint32(1 << 31),
    "a key exchange with nothing in common": b"\x14" + bytes(16) + string(b"none") * 10 + bytes(5),
}


@pytest.mark.parametrize("case", TORN)
@asyncio_test
async def test_what_has_no_place_before_a_log_in(
    case: str, tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """It is hung up on with a word; nothing is logged as a failure of our own."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        client.say(TORN[case])
        assert await client.parting()
        await door.told()
        assert not door.house.live.infos()


@asyncio_test
async def test_a_key_that_is_none(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """Garbage in a key is a key that nobody has."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        for blob in (
            b"",
            b"\0\0\0\7ssh-rsa",
            string(b"ssh-ed25519") + string(b"short"),
            bytes(300),
        ):
            fields = (b"\x00", string(b"ssh-ed25519"), string(blob))
            heard = await client.tries("alice#web", b"publickey", *fields)
            assert heard.kind == USERAUTH_FAILURE


@asyncio_test
async def test_unknown_and_torn_messages(tmp_path: Path, shared_authority: SshAuthority) -> None:
    """Those of the transport layer that nobody knows are answered so (RFC 4253, 11.4)."""
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        client.say(b"\x0a", b"\x0b" + bytes(1000))
        assert [(await client.hear()).kind for _ in range(2)] == [3, 3]
        await client.logs_in("alice#web", ALICE)


@asyncio_test
async def test_password_changes_are_refused(tmp_path: Path, shared_authority: SshAuthority) -> None:
    async with opened(tmp_path, shared_authority) as door:
        client = await door.raw()
        fields = (b"\x01", string(b"pencil"), string(b"new"))
        assert (await client.tries("alice#web", b"password", *fields)).kind == USERAUTH_FAILURE


@asyncio_test
async def test_a_client_that_leaves_in_the_middle(
    tmp_path: Path, shared_authority: SshAuthority
) -> None:
    """At every step of a log-in."""
    async with opened(tmp_path, shared_authority) as door:
        for said in (
            b"\x32",
            userauth("alice#web", b"none"),
            userauth("alice#web", b"password", *password("pencil")),
            userauth("alice#web", b"keyboard-interactive", *KBDINT),
        ):
            client = await door.raw()
            client.say(said)
            client.abort()
            await door.told()
        client = await door.raw()
        client.say(userauth("alice#web", b"publickey", *client.signed("alice#web", ALICE)))
        client.abort()
        await door.told()
        await door.empty()


NAMELESS = """
import pwd
pwd.getpwuid = {}.__getitem__
import asyncssh
from gateway.ssh.peers import ALGORITHMS
key = asyncssh.generate_private_key("ssh-ed25519")
asyncssh.SSHServerConnectionOptions(config=None, server_host_keys=[key], **ALGORITHMS)
asyncssh.SSHClientConnectionOptions(config=None, client_keys=None, **ALGORITHMS)
"""


def test_a_daemon_without_a_name_or_a_home() -> None:
    """As in a container that runs as whatever number it is given."""
    done = subprocess.run(
        [sys.executable, "-c", NAMELESS],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
