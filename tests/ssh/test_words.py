"""What clients are told."""

from __future__ import annotations

import pytest

from gateway import errors
from gateway.errors import Refused
from gateway.model import End, EndReason
from gateway.ssh import words


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (errors.BadProof("no such user"), "authentication failed"),
        (errors.NotAllowed("no binding"), "access denied"),
        (errors.NotAllowed("two accounts", "name an account: a or b"), "name an account: a or b"),
        (errors.Unreachable("10.0.0.1 refused"), "no target can take this session now"),
        (errors.LimitReached("per user"), "too many connections"),
        (errors.ProtocolViolation("malformed user name", "internals"), "malformed user name"),
        (errors.NotRecorded("disk full"), "the session cannot be recorded"),
        (errors.ShuttingDown("SIGTERM"), "the gateway is shutting down"),
    ],
)
def test_refusals(refused: Refused, text: str) -> None:
    assert words.refusal(refused, "01abcdef") == f"{text} (audit id 01abcdef)"
    assert words.refusal(refused, "") == text
    assert refused.detail not in words.refusal(refused, "") or refused.detail == refused.public


@pytest.mark.parametrize("reason", EndReason)
def test_ends(reason: EndReason) -> None:
    told = words.ended(End(reason, "db.internal:22 said so"), "01ab")
    assert told.endswith(" (session 01ab)")
    assert ("db.internal" in told) is (reason is EndReason.KILLED)


def test_each_end_has_its_own_words() -> None:
    assert len({words.ended(End(reason), "") for reason in EndReason}) == len(EndReason)


def test_who_was_killed_is_told_why() -> None:
    told = words.ended(End(EndReason.KILLED, "maintenance"), "01ab")
    assert told == "the session was ended by an administrator: maintenance (session 01ab)"
    told = words.ended(End(EndReason.KILLED), "01ab")
    assert told == "the session was ended by an administrator (session 01ab)"


def test_a_hint_fits_on_a_line() -> None:
    assert "\n" not in words.NAME_ONE
    assert "ssh USER#RESOURCE@GATEWAY" in words.NAME_ONE
