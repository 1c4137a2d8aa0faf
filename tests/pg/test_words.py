"""What clients are told."""

from __future__ import annotations

import pytest

from gateway import errors
from gateway.errors import Refused
from gateway.model import End, EndReason
from gateway.pg import words
from gateway.pg.frames import parse_error


@pytest.mark.parametrize(
    ("refused", "sqlstate", "text"),
    [
        (errors.BadProof("no such user"), "28P01", "authentication failed"),
        (errors.NotAllowed("no binding"), "28000", "access denied"),
        (errors.TlsRequired("clear"), "28000", "connections must use TLS"),
        (errors.Unreachable("10.0.0.1 refused"), "57P03", "no target can take this session now"),
        (
            errors.NoSuchDatabase("3D000"),
            "57P03",
            "no target can take this session now: there is no such database",
        ),
        (errors.LimitReached("per user"), "53300", "too many connections"),
        (errors.ProtocolViolation("bad length", "internals"), "08P01", "bad length"),
        (errors.NotRecorded("disk full"), "58030", "the session cannot be recorded"),
        (errors.ShuttingDown("SIGTERM"), "57P03", "the gateway is shutting down"),
        (errors.Refused("?"), "XX000", "the connection was refused"),
    ],
)
def test_refusals(refused: Refused, sqlstate: str, text: str) -> None:
    sent = words.refusal(refused, "01abcdef")
    told = parse_error(sent[5:])
    assert (told.severity, told.sqlstate) == ("FATAL", sqlstate)
    assert told.message == f"{text} (audit id 01abcdef)"
    assert refused.detail.encode() not in sent or refused.detail == refused.public
    assert parse_error(words.refusal(refused, "")[5:]).message == text


def test_a_subclass_has_its_parents_words() -> None:
    class Worse(errors.BadProof):
        pass

    assert words.refusal(Worse("x"), "q") == words.refusal(errors.BadProof("y"), "q")


def test_trying_again_is_advised_where_it_may_help() -> None:
    kinds = (errors.Unreachable, errors.NoSuchDatabase, errors.BadParameter)
    assert ["Try again" in str(words.refusal(kind("x"), "q")) for kind in kinds] == [
        True, False, False,
    ]  # fmt: skip


SQLSTATES = {
    EndReason.IDLE: "57P05",
    EndReason.TARGET: "08006",
    EndReason.NOT_RECORDED: "58030",
    EndReason.PROTOCOL: "08P01",
    EndReason.FAILED: "XX000",
}


@pytest.mark.parametrize("reason", EndReason)
def test_ends(reason: EndReason) -> None:
    told = parse_error(words.ended(End(reason, "by carol"), "01ab")[5:])
    assert (told.severity, told.sqlstate) == ("FATAL", SQLSTATES.get(reason, "57P01"))
    assert told.message.endswith(" (session 01ab)")
    assert told.detail == ("by carol" if reason is EndReason.KILLED else "")
