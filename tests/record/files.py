"""Transcripts for the tests of several files."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.model import End, EndReason, SessionInfo
from gateway.record.format import CLIENT, TARGET
from gateway.record.log import Keys
from gateway.record.verify import Verdict, verify
from gateway.record.writer import place

SECRET = b"s" * 32
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
KEYS = Keys(KEY, SECRET)
END = End(EndReason.CLIENT)
STARTED = 1_795_000_000.0  # 2026-11-18 UTC


def info(session_id: str = "0123456789abcdef") -> SessionInfo:
    return SessionInfo(
        session_id, "alice", "orders", "app", "db:5432", "postgresql", "10.0.0.1", STARTED
    )


def path_of(root: Path, session_id: str = "0123456789abcdef") -> Path:
    return place(root, session_id, STARTED)


def judged(path: Path, digest: str | None = None) -> Verdict:
    return verify(path, KEY.public_key(), SECRET, digest)


def never() -> None:
    raise AssertionError("nobody is to be called")


def speak(log, rounds: int = 3) -> None:
    for number in range(rounds):
        log.add(CLIENT, b"question %d" % number)
        assert log.commit(never)
        log.add(TARGET, b"answer %d" % number)
