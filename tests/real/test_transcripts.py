"""What transcripts say of a session, and that they cannot be altered unseen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.real.programs import BOB
from tests.real.servers import GatewayProcess, tagged, until

Event = dict[str, Any]


def statement(sql: str, parameters: Any = (), **outcome: Any) -> Event:
    """A statement event without its times."""
    nothing = dict.fromkeys(("tag", "rows", "sqlstate", "message"))
    facts = {"kind": "statement", "sql": sql, "parameters": list(parameters), **nothing}
    return {**facts, "transaction": "idle", **outcome}


def untimed(events: list[Event]) -> list[Event]:
    return [
        {name: value for name, value in event.items() if name not in ("at", "duration_ms")}
        for event in events
    ]


@pytest.fixture(scope="module")
def session(gateway: GatewayProcess) -> str:
    """The id of a session in which there was something of everything."""
    with gateway.connect(**BOB) as connection:
        execute = connection.execute
        session_id = gateway.session_of(connection)
        execute("CREATE TEMP TABLE kept (id int, words text)")
        execute("INSERT INTO kept VALUES (%t, %t), (%b, %b)", (1, "größer", 2, None))
        for number in range(1, 4):
            execute("SELECT words FROM kept WHERE id = %b::int4", (number,), prepare=True)
        execute("SELECT %t::bytea, %b::bytea, %b::int2[]", (b"\xff\x00", b"\xff\x00", [7]))
        with suppress(psycopg.errors.DivisionByZero):
            execute("SELECT 1/0")
        with connection.transaction():
            execute("UPDATE kept SET words = 'x'")
        with connection.cursor().copy("COPY kept FROM STDIN") as copy:
            for number in range(10):
                copy.write_row((number, "copied"))
        with connection.cursor().copy("COPY kept TO STDOUT") as copy:
            assert len(list(copy.rows())) == 12
        with connection.pipeline():
            execute("SELECT %s::text", ("in a pipeline",))
            execute("DELETE FROM kept")
        execute("SELECT 1; SELECT generate_series(1, 3)")
    until(lambda: session_id not in str(gateway.live()), "the session to end")
    return session_id


def test_replay_shows_the_very_statements(gateway: GatewayProcess, session: str) -> None:
    events = gateway.replay(session)
    first, shown, *told, last = events
    assert first.items() >= {"kind": "start", "id": session, "user": "bob"}.items()
    assert first.items() >= {"resource": "orders", "account": "app_rw"}.items()
    assert shown["sql"] == "SHOW application_name"
    assert last.items() >= {"kind": "end", "reason": "client closed"}.items()
    selected = "SELECT words FROM kept WHERE id = $1::int4"
    assert untimed(told) == [
        statement("CREATE TEMP TABLE kept (id int, words text)", tag="CREATE TABLE"),
        statement(
            "INSERT INTO kept VALUES ($1, $2), ($3, $4)",
            ["1", "größer", 2, None],
            tag="INSERT 0 2",
            rows=2,
        ),
        statement(selected, [1], tag="SELECT 1", rows=1),
        statement(selected, [2], tag="SELECT 1", rows=1),
        statement(selected, [3], tag="SELECT 0", rows=0),
        statement(
            "SELECT $1::bytea, $2::bytea, $3::int2[]",
            ["\\xff00", {"base64": "/wA="}, {"base64": "AAAAAQAAAAAAAAAVAAAAAQAAAAEAAAACAAc="}],
            tag="SELECT 1",
            rows=1,
        ),
        statement("SELECT 1/0", sqlstate="22012", message="division by zero"),
        statement("BEGIN", tag="BEGIN", transaction="in transaction"),
        statement(
            "UPDATE kept SET words = 'x'", tag="UPDATE 2", rows=2, transaction="in transaction"
        ),
        statement("COMMIT", tag="COMMIT"),
        statement("COPY kept FROM STDIN", tag="COPY 10", rows=10),
        {"kind": "copy", "direction": "in", "bytes": 90, "rows": 10},
        statement("COPY kept TO STDOUT", tag="COPY 12", rows=12),
        {"kind": "copy", "direction": "out", "bytes": 98, "rows": 12},
        statement("SELECT $1::text", ["in a pipeline"], tag="SELECT 1", rows=1),
        statement("DELETE FROM kept", tag="DELETE 12", rows=12),
        statement(
            "SELECT 1; SELECT generate_series(1, 3)",
            tag="SELECT 3",
            tags=["SELECT 1", "SELECT 3"],
            rows=4,
        ),
    ]


def test_times_rise_and_each_outcome_took_its_own(gateway: GatewayProcess, session: str) -> None:
    events = gateway.replay(session)
    times = [event["at"] for event in events]
    assert times == sorted(times)
    assert all(event["duration_ms"] > 0 for event in events if event["kind"] == "statement")


def test_the_list_of_sessions_counts_the_same(gateway: GatewayProcess, session: str) -> None:
    (row,) = [row for row in gateway.sessions("--user", "bob") if row["id"] == session]
    last = gateway.replay(session)[-1]
    assert row.items() >= {"status": "ended", "reason": "client closed", "user": "bob"}.items()
    assert {name: row[name] for name in ("statements", "bytes_in", "bytes_out")} == {
        name: last[name] for name in ("statements", "bytes_in", "bytes_out")
    }


def test_replay_for_a_terminal_passes_no_control_characters_on(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        session = tagged(connection)
        connection.execute("SELECT '\x1b[2J\x1b]0;owned\x07'")
    shown = gateway.cli("replay", session).stdout
    assert "\x1b" not in shown
    assert r"SELECT '\x1b[2J\x1b]0;owned\x07'" in shown


def test_who_reads_a_transcript_is_in_the_audit_log(gateway: GatewayProcess, session: str) -> None:
    gateway.replay(session)
    entries = b"".join(path.read_bytes() for path in gateway.state.glob("audit/*.gwt"))
    assert b'"event": "transcript.read", "session": "%b"' % session.encode() in entries


# -- verification ----------------------------------------------------------------------------


@pytest.fixture
def transcript(gateway: GatewayProcess, session: str) -> Iterator[Path]:
    """The file of *session*; whatever a test does to it is undone."""
    (path,) = gateway.state.glob(f"transcripts/*/*/*/{session}.gwt")
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def verdict(gateway: GatewayProcess, session: str) -> tuple[int, str]:
    done = gateway.cli("verify", session, "--format", "json")
    (row,) = json.loads(done.stdout)
    return done.returncode, row["status"]


def test_an_untouched_transcript_is_ok(gateway: GatewayProcess, session: str) -> None:
    assert verdict(gateway, session) == (0, "ok")


@pytest.mark.parametrize("place", [0.0, 0.02, 0.4, 0.95, 1.0])
def test_one_flipped_bit_is_seen(gateway: GatewayProcess, transcript: Path, place: float) -> None:
    content = bytearray(transcript.read_bytes())
    content[round(place * (len(content) - 1))] ^= 0x10
    transcript.write_bytes(content)
    assert verdict(gateway, transcript.stem) == (1, "altered")


def test_an_end_that_is_cut_off_is_seen(gateway: GatewayProcess, transcript: Path) -> None:
    """A crash leaves a torn file too; but of this session the index knows that it had ended."""
    os.truncate(transcript, transcript.stat().st_size - 100)
    assert verdict(gateway, transcript.stem) == (1, "altered")


def test_another_sessions_transcript_is_seen(gateway: GatewayProcess, transcript: Path) -> None:
    with gateway.connect() as connection:
        other = tagged(connection)
    until(lambda: not gateway.live(), "the session to end")
    (path,) = gateway.state.glob(f"transcripts/*/*/*/{other}*.gwt")
    transcript.write_bytes(path.read_bytes())
    assert verdict(gateway, transcript.stem) == (1, "altered")


def test_verify_all(gateway: GatewayProcess, session: str, transcript: Path) -> None:
    with gateway.connect() as connection:
        live = gateway.session_of(connection)
        done = gateway.cli("verify", "--all", "--format", "json")
        found = {row["id"]: row["status"] for row in json.loads(done.stdout)}
        assert done.returncode == 0
        assert (found[session], found[live]) == ("ok", "open")
        transcript.write_bytes(transcript.read_bytes().replace(b"kept", b"lost"))
        assert gateway.cli("verify", "--all").returncode == 1
