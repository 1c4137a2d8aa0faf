"""Who is let to prove what, and that strangers walk the same path."""

from __future__ import annotations

import pytest
from attrs import define, field, frozen

from gateway.contracts import Credentials
from gateway.errors import BadProof
from gateway.identity import Authenticators
from gateway.identity.password import make_verifier, mock_verifier
from gateway.model import Identity, ScramVerifier, Snapshot, User
from tests.support import asyncio_test

SECRET = b"k" * 32
REAL = make_verifier("pencil", b"s" * 16)
SNAPSHOT = Snapshot(
    users={
        "alice": User("alice", password=REAL),
        "certified": User("certified"),
        "gone": User("gone", password=REAL, disabled=True),
    }
)


@define
class Client:
    """As much of an Edge as a prover uses: a client with a certificate and a password."""

    names: frozenset[str] = frozenset()
    knows: ScramVerifier | None = None
    asked: list[ScramVerifier] = field(factory=list)

    async def prove(self, credentials: Credentials) -> str:
        if credentials.enabled and credentials.user in self.names:
            return "certificate"
        self.asked.append(credentials.verifier)
        if credentials.verifier != self.knows:
            raise BadProof("wrong")
        return "password"


@frozen
class Case:
    user: str
    names: frozenset[str]
    method: str | None
    asked: int
    detail: str = ""


CASES = [
    Case("alice", frozenset(), "password", 1),
    Case("alice", frozenset({"bob"}), "password", 1),
    Case("alice", frozenset({"alice", "a@x"}), "certificate", 0),
    Case("certified", frozenset({"certified"}), "certificate", 0),
    Case("certified", frozenset(), None, 1, "the user has no password"),
    Case("gone", frozenset(), None, 1, "the user is disabled"),
    Case("gone", frozenset({"gone"}), None, 1, "the user is disabled"),
    Case("nobody", frozenset({"nobody"}), None, 1, "no such user"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.user}-{len(case.names)}")
@asyncio_test
async def test_proof(case: Case) -> None:
    client = Client(case.names, REAL)
    if case.method:
        assert await _prove(client, case.user) == Identity(case.user, case.method)
    else:
        with pytest.raises(BadProof) as refused:
            await _prove(client, case.user)
        assert refused.value.detail == case.detail
        assert refused.value.public == BadProof.public
    assert len(client.asked) == case.asked


@asyncio_test
async def test_a_disabled_user_sees_the_same_salt() -> None:
    client = Client()
    with pytest.raises(BadProof):
        await _prove(client, "gone")
    assert client.asked[0].salt == REAL.salt
    assert client.asked[0].stored_key != REAL.stored_key


@asyncio_test
async def test_a_mock_that_passes_is_still_no_proof() -> None:
    client = Client(knows=mock_verifier("nobody", SECRET))
    with pytest.raises(BadProof):
        await _prove(client, "nobody")
    assert client.asked == [client.knows]


async def _prove(client: Client, user: str) -> Identity:
    return await Authenticators(SECRET).prove(client, user, SNAPSHOT)  # type: ignore[arg-type]
