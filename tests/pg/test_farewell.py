"""The last words of a server."""

from __future__ import annotations

import pytest

from gateway.pg import frames
from gateway.pg.farewell import is_final, is_goodbye, said

GOODBYE = frames.error_response("FATAL", "57P01", "shutting down")
CRASH = frames.message(ord("N"), b"SWARNING\0C57P02\0Mcrash\0\0")
OTHER = frames.error_response("FATAL", "57P05", "idle for too long")


@pytest.mark.parametrize("data", [GOODBYE, CRASH, CRASH + GOODBYE])
def test_a_goodbye(data: bytes) -> None:
    assert is_goodbye(data)


@pytest.mark.parametrize(
    "data", [OTHER, GOODBYE[:-1], GOODBYE + b"E", OTHER + GOODBYE, frames.ready_for_query(), b"E"]
)
def test_other_words(data: bytes) -> None:
    assert not is_goodbye(data)


def test_a_warning_is_not_the_end() -> None:
    assert is_final(GOODBYE)
    assert is_final(CRASH + GOODBYE)
    assert not is_final(CRASH)


def test_what_was_said() -> None:
    assert said(CRASH + GOODBYE) == "crash, shutting down"
    assert said(b"") == ""
