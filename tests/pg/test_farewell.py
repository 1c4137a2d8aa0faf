"""The last words of a server, and what it may not have read."""

from __future__ import annotations

import pytest

from gateway.pg import frames
from gateway.pg.farewell import ONE_READ, is_goodbye, is_one_call, said

GOODBYE = frames.error_response("FATAL", "57P01", "shutting down")
CRASH = frames.message(ord("N"), b"SWARNING\0C57P02\0Mcrash\0\0")
OTHER = frames.error_response("FATAL", "57P05", "idle for too long")
QUERY, SYNC = frames.query("SELECT 1"), frames.message(ord("S"))
BIND, EXECUTE = frames.message(ord("B"), b"\0" * 8), frames.message(ord("E"), b"\0" * 5)


@pytest.mark.parametrize("data", [GOODBYE, CRASH, CRASH + GOODBYE])
def test_a_goodbye(data: bytes) -> None:
    assert is_goodbye(data)


@pytest.mark.parametrize(
    "data", [OTHER, GOODBYE[:-1], GOODBYE + b"E", OTHER + GOODBYE, frames.ready_for_query(), b"E"]
)
def test_other_words(data: bytes) -> None:
    assert not is_goodbye(data)


def test_what_was_said() -> None:
    assert said(CRASH + GOODBYE) == "crash, shutting down"
    assert said(b"") == ""


@pytest.mark.parametrize("data", [QUERY, BIND + EXECUTE + SYNC, SYNC])
def test_one_call(data: bytes) -> None:
    assert is_one_call(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        QUERY[:-1],
        QUERY * 2,
        QUERY + SYNC,
        SYNC + BIND,
        BIND + EXECUTE,
        frames.query(" " * ONE_READ),
        frames.terminate(),
        QUERY + frames.terminate(),
    ],
)
def test_more_or_less_than_one_call(data: bytes) -> None:
    assert not is_one_call(data)
