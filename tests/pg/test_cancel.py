"""Cancel keys: who holds one sets off what it is for, and nothing else."""

from __future__ import annotations

import secrets

import pytest

from gateway.contracts import CancelKey
from gateway.pg.cancel import CancelKeys
from tests.support import asyncio_test


class Session:
    """Counts how often it was asked to cancel."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize(("minor", "length"), [(0, 4), (2, 32)])
@asyncio_test
async def test_a_key_finds_its_session(minor: int, length: int) -> None:
    keys, one, other = CancelKeys(), Session(), Session()
    key = keys.mint(7, minor, one.cancel)
    another = keys.mint(7, minor, other.cancel)  # two targets may count alike
    assert key.process_id == another.process_id == 7
    assert len(key.secret) == len(another.secret) == length
    assert key.secret != another.secret
    await keys.cancel(CancelKey(7, key.secret))
    assert (one.cancelled, other.cancelled) == (1, 0)


@asyncio_test
async def test_what_is_not_known_is_nothing() -> None:
    keys, session = CancelKeys(), Session()
    key = keys.mint(7, 0, session.cancel)
    last = key.secret[-1] ^ 1
    for process_id, secret in [
        (8, key.secret),
        (7, key.secret[:-1] + bytes((last,))),
        (7, key.secret[:3]),
        (7, key.secret + b"\0"),
        (7, b""),
    ]:
        await keys.cancel(CancelKey(process_id, secret))
    assert session.cancelled == 0


@asyncio_test
async def test_a_forgotten_key_is_nothing() -> None:
    keys, gone, stays = CancelKeys(), Session(), Session()
    key = keys.mint(7, 0, gone.cancel)
    kept = keys.mint(7, 2, stays.cancel)
    for _ in range(2):
        keys.forget(key)
    keys.forget(None)
    keys.forget(CancelKey(99, b"none"))
    await keys.cancel(key)
    await keys.cancel(kept)
    assert (gone.cancelled, stays.cancelled) == (0, 1)


@asyncio_test
async def test_strangers_leave_nothing_behind() -> None:
    keys = CancelKeys()
    for number in range(1000):
        await keys.cancel(CancelKey(number, b"guess"))
    key = keys.mint(7, 0, Session().cancel)
    keys.forget(key)
    assert not keys._keys


def test_a_secret_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"once", b"once", b"anew"])
    monkeypatch.setattr(secrets, "token_bytes", lambda length: next(drawn))
    keys, session = CancelKeys(), Session()
    minted = [keys.mint(7, 0, session.cancel).secret for _ in range(2)]
    assert minted == [b"once", b"anew"]
