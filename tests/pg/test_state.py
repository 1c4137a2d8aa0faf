"""What is known of a session's state, told by both sides' frames however they are split."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.pg import frames
from gateway.pg.observe import ClientScanner, TargetScanner
from gateway.pg.scan import CAPTURE
from gateway.pg.state import MAX_EXPECTED, MAX_KEPT, MAX_PARAMETERS, NEVER, SessionState


def frame(kind: str, *parts: str | bytes) -> bytes:
    body = b"".join(part.encode() + b"\0" if isinstance(part, str) else part for part in parts)
    return frames.message(ord(kind), body)


def query(text: str) -> bytes:
    return frames.query(text)


def parse(text: str, name: str = "") -> bytes:
    return frame("P", name, text, b"\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return frame("B", portal, name, b"\0" * 6)


def execute(portal: str = "", rows: int = 0) -> bytes:
    return frame("E", portal, struct.pack(">I", rows))


def call(function: int) -> bytes:
    return frame("F", struct.pack(">I", function), b"\0" * 6)


def close(name: str, what: str = "S") -> bytes:
    return frame("C", what.encode() + name.encode() + b"\0")


SYNC = frame("S")
PARSED, CLOSED = frame("1"), frame("3")
BOUND = frame("2")
ERROR = frame("E", b"SERROR\0C22012\0Mno\0\0")
I, T, E = (frames.ready_for_query(status) for status in (b"I", b"T", b"E"))  # noqa: E741


def done(*tags: str) -> bytes:
    return b"".join(frame("C", tag) for tag in tags)


class Session:
    """Both directions; each turn is what the client says, and what it gets."""

    def __init__(self, split: int = 0, **reported: str) -> None:
        self.state = SessionState(reported)
        self.client = ClientScanner(lambda kind, data: None, self.state)
        self.target = TargetScanner(lambda kind, data: None, self.client.copy_began, self.state)
        self.split = split

    def ask(self, data: bytes) -> None:
        self._scan(self.client, data)

    def get(self, data: bytes) -> None:
        self._scan(self.target, data)

    def turn(self, asked: bytes | str, got: bytes) -> None:
        self.ask(query(asked) if isinstance(asked, str) else asked)
        self.get(got)

    def _scan(self, scanner: ClientScanner | TargetScanner, data: bytes) -> None:
        step = self.split or len(data)
        for at in range(0, len(data), step):
            scanner.scan(data[at : at + step])

    @property
    def settings(self) -> tuple[bytes, ...]:
        return self.state.restoration().settings

    @property
    def channels(self) -> tuple[bytes, ...]:
        return self.state.restoration().channels

    @property
    def statements(self) -> tuple[bytes, ...]:
        return self.state.restoration().statements


@pytest.fixture(params=[0, 1, 7], ids=["whole", "bytes", "sevens"])
def session(request) -> Session:
    return Session(request.param)


# -- settings ------------------------------------------------------------------------------


def test_a_setting_counts_when_it_is_done(session: Session) -> None:
    session.ask(query("SET a = 1"))
    assert session.settings == ()
    session.get(done("SET") + I)
    assert session.settings == (b"SET a = 1",)
    session.turn("SET b = 1", ERROR + I)
    session.turn("SET a = 2", done("SET") + I)
    assert session.settings == (b"SET a = 2",)
    assert session.state.pinned == ""


def test_settings_are_made_again_in_their_order(session: Session) -> None:
    for text in ("SET a = 1", "SET ROLE bob", "SET a = 2", "SET LOCAL c = 1", "RESET d"):
        session.turn(text, done(text.split()[0]) + I)
    assert session.settings == (b"SET ROLE bob", b"SET a = 2", b"RESET d")
    session.turn("RESET ALL", done("RESET") + I)
    assert session.settings == (b"SET ROLE bob",)


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([("BEGIN", done("BEGIN") + T), ("SET a = 1", done("SET") + T),
          ("COMMIT", done("COMMIT") + I)], True),
        ([("BEGIN", done("BEGIN") + T), ("SET a = 1", done("SET") + T),
          ("ROLLBACK", done("ROLLBACK") + I)], False),
        ([("BEGIN", done("BEGIN") + T), ("SET a = 1", done("SET") + T), ("x", ERROR + E),
          ("COMMIT", done("ROLLBACK") + I)], False),
        ([("BEGIN", done("BEGIN") + T), ("SET a = 1", done("SET") + T)], False),
        ([("BEGIN", done("BEGIN") + T), ("SET a = 1", done("SET") + T),
          ("COMMIT AND CHAIN", done("COMMIT") + T), ("ROLLBACK", done("ROLLBACK") + I)], True),
        ([("BEGIN; SET a = 1; COMMIT", done("BEGIN", "SET", "COMMIT") + I)], True),
        ([("BEGIN; SET a = 1; ROLLBACK", done("BEGIN", "SET", "ROLLBACK") + I)], False),
        ([("SET a = 1; SELECT 1/0", done("SET") + ERROR + I)], False),
        ([("SET a = 1; COMMIT; SELECT 1/0", done("SET", "COMMIT") + ERROR + I)], True),
        ([("BEGIN", done("BEGIN") + T),
          ("ROLLBACK; SET a = 1", done("ROLLBACK", "SET") + I)], True),
    ],
)  # fmt: skip
def test_a_setting_in_a_transaction_counts_if_that_commits(session, turns, kept) -> None:
    for asked, got in turns:
        session.turn(asked, got)
    assert session.settings == ((b"SET a = 1",) if kept else ())
    assert session.state.pinned == ""


@pytest.mark.parametrize(
    "turns",
    [
        [("BEGIN; SET a = 1", done("BEGIN", "SET") + T), ("ROLLBACK TO s", done("ROLLBACK") + T)],
        [("BEGIN; SET a = 1", done("BEGIN", "SET") + T),
         ("ROLLBACK TO s; COMMIT", done("ROLLBACK", "COMMIT") + I)],
        [("BEGIN; SET a = 1", done("BEGIN", "SET") + T),
         ("PREPARE TRANSACTION 'x'", done("PREPARE TRANSACTION") + I)],
    ],
)  # fmt: skip
def test_what_half_a_transaction_did_is_not_guessed(session: Session, turns) -> None:
    for asked, got in turns:
        session.turn(asked, got)
    assert "transaction" in session.state.pinned


def test_extended_messages_set_too(session: Session) -> None:
    asked = parse("SET a = 1") + bind() + execute() + SYNC
    session.turn(asked, PARSED + BOUND + done("SET") + I)
    assert session.settings == (b"SET a = 1",)
    session.turn(parse("SET b = 1", "s") + SYNC, PARSED + I)
    assert session.settings == (b"SET a = 1",)
    for portal in ("", "p"):
        session.turn(bind("s", portal) + execute(portal) + SYNC, BOUND + done("SET") + I)
    assert session.settings == (b"SET a = 1", b"SET b = 1")
    session.turn(bind() + execute() + SYNC, ERROR + I)
    assert session.settings == (b"SET a = 1", b"SET b = 1")
    assert session.state.pinned == ""


def test_what_was_announced_and_never_came_pins(session: Session) -> None:
    """As when a portal is left suspended: its rows have come, its tag has not."""
    asked = parse("SELECT set_config('a', 'b', false)") + bind() + execute(rows=1) + SYNC
    session.turn(asked, PARSED + BOUND + frame("D", b"\0\1\0\0\0\1b") + frame("s") + I)
    assert session.state.pinned == "a change of the session that was not confirmed"
    assert not session.state.expected


@pytest.mark.parametrize(("tag", "kept"), [("COMMIT", True), ("ROLLBACK", False)])
def test_transactions_in_one_batch_of_extended_messages(session: Session, tag, kept) -> None:
    texts = ("BEGIN", "SET a = 1", tag)
    session.ask(b"".join(parse(text) + bind() + execute() for text in texts) + SYNC)
    session.get(b"".join(PARSED + BOUND + done(text.split()[0]) for text in texts) + I)
    assert session.settings == ((b"SET a = 1",) if kept else ())
    assert session.state.pinned == ""


def test_a_rollback_of_no_transaction_may_undo_nothing(session: Session) -> None:
    """In a pipeline a server without implicit blocks there only warns, and commits."""
    texts = ("SET a = 1", "ROLLBACK")
    session.ask(b"".join(parse(text) + bind() + execute() for text in texts) + SYNC)
    session.get(b"".join(PARSED + BOUND + done(text.split()[0]) for text in texts) + I)
    assert session.state.pinned == "settings before a rollback of no transaction"


def test_pipelined_batches_are_kept_apart(session: Session) -> None:
    session.ask(query("SET a = 1") + query("SET b = 1") + query("SET c = 1"))
    session.get(done("SET") + I + ERROR + I + done("SET") + I)
    assert session.settings == (b"SET a = 1", b"SET c = 1")


def test_what_comes_unannounced_pins(session: Session) -> None:
    """Whatever made it: what is said of the state was not the whole of it."""
    session.turn("SELECT 1", done("SET") + I)
    assert session.state.pinned.startswith("SET, ")


@pytest.mark.parametrize("tag", ["LOAD", "FROBNICATE"])
def test_what_may_leave_anything_pins_when_it_is_done(session: Session, tag: str) -> None:
    session.turn(f"{tag} x", ERROR + I)
    assert session.state.pinned == ""
    session.turn(f"{tag} x", done(tag) + I)
    assert session.state.pinned.startswith(tag)
    assert session.state.restoration().settings == ()


@pytest.mark.parametrize("tag", ["DO", "CALL"])
@pytest.mark.parametrize(
    "sent",
    [query, lambda text: query(f"SELECT 1; {text}; SELECT 2"), lambda text: parse(text) + bind()
     + execute() + SYNC],
    ids=["alone", "among others", "extended"],
)  # fmt: skip
def test_what_may_commit_before_it_fails_pins_when_it_is_sent(session, tag: str, sent) -> None:
    said = f"{tag}, which may leave anything"
    session.ask(sent(f"{tag} x"))
    assert session.state.pinned == said
    session.get(ERROR + I)
    assert session.state.pinned == said
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""
    session.turn(f"{tag} x", done(tag) + I)
    assert session.state.pinned == said


@pytest.mark.parametrize("tag", ["CREATE TABLE", "COMMENT", "SET CONSTRAINTS", "DISCARD PLANS",
                                 "DECLARE CURSOR", "NOTIFY", "VACUUM", "COMMIT PREPARED",
                                 "ROLLBACK PREPARED"])  # fmt: skip
def test_other_tags_are_harmless(session: Session, tag: str) -> None:
    session.turn("x", done(tag) + I)
    assert session.state.pinned == ""


# -- pins ----------------------------------------------------------------------------------


def test_a_pin_counts_at_once_and_goes_with_discard(session: Session) -> None:
    session.ask(query("CREATE TEMP TABLE t (a int)"))
    assert session.state.pinned == "temporary tables"
    session.get(done("CREATE TABLE") + I)
    session.turn("SELECT pg_advisory_lock(1)", done("SELECT 1") + I)
    assert session.state.pinned == "temporary tables, advisory locks"
    session.turn("DISCARD TEMP", done("DISCARD TEMP") + I)
    assert session.state.pinned == "advisory locks"
    session.ask(query("DISCARD ALL") + query("SELECT pg_advisory_lock(2)"))
    session.get(done("DISCARD ALL") + I + done("SELECT 1") + I)
    assert session.state.pinned == "advisory locks"
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""


@pytest.mark.parametrize(
    "text", ["SELECT setseed(0.5)", "SELECT dblink_connect('c', '')", "SET seed = 1",
             "SELECT pg_replication_origin_session_setup('o')", "SELECT pg_backup_start('x')",
             "SELECT pg_create_physical_replication_slot('s', true, true)"],
)  # fmt: skip
def test_what_discard_all_leaves_pins_for_good(session: Session, text: str) -> None:
    session.turn(text, done("SELECT 1" if text[:4] == "SELE" else "SET") + I)
    assert session.state.pinned
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned


def test_a_search_path_may_make_more_temporary_tables(session: Session) -> None:
    session.turn("SET search_path = 'pg_temp'", done("SET") + I)
    session.turn("DISCARD TEMP", done("DISCARD TEMP") + I)
    assert session.state.pinned == "a search_path that makes tables temporary"
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""


PREPARE = ("PREPARE q AS SELECT '01/02/2020'::date", "PREPARE")


@pytest.mark.parametrize(
    ("first", "then", "reported", "pinned"),
    [
        (PREPARE, ("SET DateStyle = 'ISO, DMY'", "SET"), ("DateStyle", "ISO, DMY"), True),
        (PREPARE, ("SET DateStyle = 'ISO, MDY'", "SET"), ("DateStyle", "ISO, MDY"), True),
        (PREPARE, ("SELECT f()", "SELECT 1"), ("TimeZone", "Asia/Tokyo"), True),
        (PREPARE, ("SET array_nulls = off", "SET"), None, True),
        (PREPARE, ("SET work_mem = '8MB'", "SET"), None, False),
        (PREPARE, ("SELECT f()", "SELECT 1"), ("application_name", "x"), False),
        (("PREPARE q AS SELECT $1::date", "PREPARE"), ("SET TimeZone = 'CET'", "SET"),
         ("TimeZone", "CET"), False),
        (("SET array_nulls = off", "SET"), PREPARE, None, False),
    ],
)  # fmt: skip
def test_literals_of_what_is_prepared_depend_on_settings(
    session: Session,
    first: tuple[str, str],
    then: tuple[str, str],
    reported: tuple[str, str] | None,
    pinned: bool,
) -> None:
    session.get(frames.parameter_status("TimeZone", "UTC"))
    session.get(frames.parameter_status("application_name", "psql"))
    session.turn(first[0], done(first[1]) + I)
    status = frames.parameter_status(*reported) if reported else b""
    session.turn(then[0], status + done(then[1]) + I)
    assert ("prepared statements whose literals" in session.state.pinned) is pinned
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""


def test_the_unnamed_statement_of_a_setting_is_no_such_literal(session: Session) -> None:
    session.get(frames.parameter_status("TimeZone", "UTC"))
    session.ask(parse("SET TimeZone = 'CET'") + bind() + execute() + SYNC)
    session.get(PARSED + BOUND + frames.parameter_status("TimeZone", "CET") + done("SET") + I)
    assert session.state.pinned == ""


TEMPORARY = ("CREATE TEMP TABLE t (a int)", "CREATE TABLE")
DISCARD = ("DISCARD TEMP", "DISCARD TEMP")


@pytest.mark.parametrize(
    ("turns", "pinned"),
    [
        ([("BEGIN", "BEGIN", T), (*DISCARD, T), ("ROLLBACK", "ROLLBACK", I)], True),
        ([("BEGIN", "BEGIN", T), (*DISCARD, T)], True),
        ([("BEGIN", "BEGIN", T), (*DISCARD, T), ("COMMIT", "COMMIT", I)], False),
        ([("BEGIN", "BEGIN", T), (*DISCARD, T), (*TEMPORARY, T), ("COMMIT", "COMMIT", I)], True),
        ([("BEGIN", "BEGIN", T), (*TEMPORARY, T), (*DISCARD, T), ("COMMIT", "COMMIT", I)], False),
        ([("BEGIN", "BEGIN", T), (*DISCARD, T), ("x", "", E), ("COMMIT", "ROLLBACK", I)], True),
        ([(*DISCARD, I)], False),
        ([(*DISCARD, I), (*TEMPORARY, I)], True),
    ],
)
def test_temporary_tables_are_gone_when_it_is_committed(session: Session, turns, pinned) -> None:
    session.turn(TEMPORARY[0], done(TEMPORARY[1]) + I)
    for asked, tag, status in turns:
        session.turn(asked, (done(tag) if tag else ERROR) + status)
    assert session.state.pinned == ("temporary tables" if pinned else "")


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("DISCARD TEMP; CREATE TEMP TABLE u (a int)", done("DISCARD TEMP", "CREATE TABLE") + I),
        ("BEGIN; DISCARD TEMP; CREATE TEMP TABLE u (a int); COMMIT",
         done("BEGIN", "DISCARD TEMP", "CREATE TABLE", "COMMIT") + I),
        ("BEGIN; DISCARD TEMP; ROLLBACK", done("BEGIN", "DISCARD TEMP", "ROLLBACK") + I),
        ("DISCARD TEMP; SELECT 1/0", done("DISCARD TEMP") + ERROR + I),
    ],
)  # fmt: skip
def test_temporary_tables_of_the_same_batch_stay(session: Session, asked: str, got: bytes) -> None:
    session.turn(TEMPORARY[0], done(TEMPORARY[1]) + I)
    session.turn(asked, got)
    assert session.state.pinned == "temporary tables"


def test_half_of_a_transaction_may_bring_temporary_tables_back(session: Session) -> None:
    session.turn("BEGIN", done("BEGIN") + T)
    session.turn("SAVEPOINT s", done("SAVEPOINT") + T)
    session.turn("DISCARD TEMP", done("DISCARD TEMP") + T)
    session.turn("ROLLBACK TO s", done("ROLLBACK") + T)
    session.turn("COMMIT", done("COMMIT") + I)
    assert "partly rolled back" in session.state.pinned


def test_fast_path_calls_pin_except_of_large_objects(session: Session) -> None:
    for function in (952, 953, 954, 955, 956, 957, 958, 715, 1004, 3170, 3171, 3172, 964):
        session.turn(call(function), frame("V", b"\0" * 8) + I)
    assert session.state.pinned == ""
    session.ask(call(2078))  # set_config
    assert session.state.pinned == "fast-path function calls"
    session.get(ERROR + I)
    assert session.state.pinned == "fast-path function calls"
    session.ask(query("DISCARD ALL") + call(2880))
    session.get(done("DISCARD ALL") + I + frame("V", b"\0" * 8) + I)
    assert session.state.pinned == "fast-path function calls"
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""


@pytest.mark.parametrize("body", [b"", b"\3", b"\3\xb8", b"\0\3\xb8"])
def test_fast_path_calls_of_who_knows_what_pin(session: Session, body: bytes) -> None:
    session.ask(frame("F", body) + query("SELECT 1"))
    assert session.state.pinned == "fast-path function calls"


def test_long_arguments_do_not_pin() -> None:
    """Of a message that is too long to be kept whole, the beginning tells what it does."""
    session = Session(10_000)
    session.turn(parse("SELECT 1", "s") + parse("COMMIT", "c") + SYNC, PARSED * 2 + I)
    session.ask(frame("F", struct.pack(">I", 955), bytes(CAPTURE)))
    session.ask(frame("B", "", "s", bytes(CAPTURE)) + execute() + SYNC)
    session.get(frame("V", b"\0" * 8) + I + BOUND + done("SELECT 1") + I)
    assert session.state.pinned == ""
    assert session.state.ending == 0
    session.ask(frame("B", "", "c", bytes(CAPTURE)) + execute() + SYNC)
    assert session.state.ending > session.target.ready
    session.ask(frame("F", struct.pack(">I", 2078), bytes(CAPTURE)))
    assert session.state.pinned == "fast-path function calls"


def test_a_prepared_pin_counts_when_it_runs(session: Session) -> None:
    session.turn(parse("SELECT pg_advisory_lock($1)", "s") + SYNC, PARSED + I)
    assert session.state.pinned == ""
    session.ask(bind("s") + execute())
    assert session.state.pinned == "advisory locks"


def test_a_portal_may_be_run_long_after_it_was_bound(session: Session) -> None:
    session.turn(parse("SELECT pg_advisory_lock($1)", "s") + SYNC, PARSED + I)
    session.ask(query("SELECT 1") + bind("s", "p") + frame("H"))
    session.get(done("SELECT 1") + I + BOUND)
    session.ask(execute("p") + SYNC)
    assert session.state.pinned == "advisory locks"


def test_what_a_prepared_statement_does_it_also_does_by_execute(session: Session) -> None:
    session.turn(parse("SELECT 1", "s") + parse("SELECT pg_advisory_lock(1)", "l")
                 + parse("COMMIT", "c") + SYNC, PARSED * 3 + I)  # fmt: skip
    session.turn("EXECUTE s", done("SELECT 1") + I)
    assert (session.state.pinned, session.state.ending) == ("", 0)
    session.ask(query("EXPLAIN ANALYZE EXECUTE l"))
    assert session.state.pinned.startswith("EXECUTE of")
    assert session.state.ending > session.target.ready


def test_portals_are_remembered_within_bounds() -> None:
    """Whoever never says Sync may bind them for ever."""
    session = Session()
    session.turn(parse("SET a = 1", "s") + SYNC, PARSED + I)
    session.ask(bind("s", "p" * 10_000))
    assert session.state.portals == {}
    assert "portals" in session.state.pinned
    session = Session()
    session.turn(parse("SET a = 1", "s") + SYNC, PARSED + I)
    for number in range(MAX_EXPECTED + 1):
        session.ask(bind("s", f"p{number}"))
    assert session.state.portals == session.state.effective == {}
    session.ask(parse("SET a = 1", "s" * 10_000) + bind("s" * 10_000))
    assert session.state.portals == session.state.effective == {}


def test_backslashes_that_may_end_strings_pin() -> None:
    assert Session(standard_conforming_strings="on").state.pinned == ""
    assert Session(standard_conforming_strings="off").state.pinned
    session = Session(standard_conforming_strings="on")
    session.get(frames.parameter_status("standard_conforming_strings", "off"))
    session.get(frames.parameter_status("standard_conforming_strings", "on"))
    assert session.state.pinned == "standard_conforming_strings is off"  # and hid what it hid


def test_encodings_that_cannot_be_read_pin() -> None:
    assert Session(client_encoding="UTF8").state.pinned == ""
    session = Session(client_encoding="SJIS")
    assert session.state.pinned == "client_encoding is SJIS"
    session.get(frames.parameter_status("client_encoding", "UTF8"))
    assert session.state.pinned == "client_encoding is SJIS"


def test_who_is_pinned_from_the_beginning() -> None:
    state = SessionState({}, "replication")
    assert (state.pinned, state.ending) == ("replication", NEVER)


# -- channels and statements ---------------------------------------------------------------


def test_channels(session: Session) -> None:
    for text in ("LISTEN a", 'LISTEN "B"', "LISTEN a"):
        session.turn(text, done("LISTEN") + I)
    assert session.channels == (b"LISTEN a", b'LISTEN "B"')
    session.turn("UNLISTEN a", done("UNLISTEN") + I)
    assert session.channels == (b'LISTEN "B"',)
    session.turn("UNLISTEN *", done("UNLISTEN") + I)
    assert session.channels == ()


def test_statements_are_kept_as_they_were_prepared(session: Session) -> None:
    one, two = parse("SELECT 1", "one"), parse("SELECT 2", "two")
    session.turn(one + two + SYNC, PARSED * 2 + I)
    assert session.statements == (one, two)
    session.turn(close("one") + close("a portal", "P") + SYNC, CLOSED * 2 + I)
    assert session.statements == (two,)
    session.turn("DEALLOCATE two", done("DEALLOCATE") + I)
    assert session.statements == ()


def test_a_statement_that_failed_is_not_prepared(session: Session) -> None:
    good = parse("SELECT 1", "good")
    session.turn(good + parse("SELCT", "bad") + parse("SELECT 2", "skipped") + SYNC,
                 PARSED + ERROR + I)  # fmt: skip
    assert session.statements == (good,)
    assert session.state.pinned == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [("SET a = 1", "SELECT 1"), ("SELECT pg_advisory_lock(1)", "SELECT 1"),
     ("SELECT 1", "SET a = 1"), ("SET a = 1", "SET b = 1"), ("COMMIT", "SELECT 1")],
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", bind("nobody"), close("s")], ids=["", "skip", "close"])
def test_a_name_whose_statement_was_not_replaced(session: Session, old, new, before) -> None:
    """What was sent behind it has been looked at as if it had been."""
    session.turn(parse(old, "s") + SYNC, PARSED + I)
    session.ask((bind("nobody") if before else b"") + before + parse(new, "s") + SYNC)
    session.get(ERROR + I)
    assert session.state.pinned == "a statement that was prepared under a name in use"
    assert not session.state.effective


def test_names_that_mean_the_same_still(session: Session) -> None:
    session.turn(parse("COMMIT", "c") + parse("SELECT 1", "s") + SYNC, PARSED * 2 + I)
    session.turn(parse("COMMIT", "c") + parse("SELECT 2", "s") + SYNC, ERROR + I)
    session.turn(parse("SET a = 1", "free") + SYNC, ERROR + I)
    session.turn(close("c") + parse("SELECT 1", "c") + SYNC, CLOSED + ERROR + I)
    assert session.state.pinned == ""
    session.turn("PREPARE q AS SELECT 1", done("PREPARE") + I)
    session.turn(parse("SELECT 2", "q") + SYNC, ERROR + I)
    assert session.state.pinned == ""
    session.turn(parse("SET a = 1", "q") + SYNC, ERROR + I)
    assert "name in use" in session.state.pinned


def test_the_unnamed_statement_may_outlive_what_was_to_replace_it(session: Session) -> None:
    session.turn(parse("SELECT pg_advisory_lock(1)") + SYNC, PARSED + I)
    session.turn(bind("nobody") + parse("SELECT 1") + SYNC, ERROR + I)  # the Parse is skipped
    assert session.state.pinned == ""
    session.ask(bind() + execute())
    assert session.state.pinned == "advisory locks"


def test_the_unnamed_statement_that_was_sent_last_counts(session: Session) -> None:
    session.turn(parse("SELECT 1") + SYNC, PARSED + I)
    session.ask(parse("SELCT") + SYNC + parse("SELECT pg_advisory_lock(1)"))
    session.get(ERROR + I)
    session.ask(bind() + execute() + SYNC)
    assert session.state.pinned == "advisory locks"
    session.get(PARSED + BOUND + done("SELECT 1") + I)


def test_errors_after_settings_do_not_pin(session: Session) -> None:
    """As drivers have it that use the unnamed statement for everything."""
    for text, status in (("BEGIN", T), ("SET a = 1", T), ("SELCT", E), ("ROLLBACK", I),
                         ("COMMIT", I)):  # fmt: skip
        if text == "SELCT":
            session.turn(parse(text) + SYNC, ERROR + status)
        else:
            session.turn(parse(text) + bind() + execute() + SYNC,
                         PARSED + BOUND + done(text.split()[0]) + status)  # fmt: skip
    session.turn(parse("SELCT") + bind() + execute() + SYNC, ERROR + I)
    assert (session.state.pinned, session.settings) == ("", ())


def test_what_ran_meanwhile_may_have_been_the_old_unnamed_statement(session: Session) -> None:
    session.turn(parse("SET a = 1") + SYNC, PARSED + I)
    session.ask(bind("nobody") + parse("SET b = 1") + SYNC + bind() + execute() + SYNC)
    session.get(ERROR + I + BOUND + done("SET") + I)
    assert session.state.pinned == "a statement that was prepared under a name in use"


def test_the_unnamed_statement_lives_until_a_query(session: Session) -> None:
    session.turn(parse("SELECT 1") + SYNC, PARSED + I)
    other = parse("SELECT 2")
    session.turn(other + SYNC, PARSED + I)
    assert session.statements == (other,)
    session.turn("SELECT 3", done("SELECT 1") + I)
    assert session.statements == ()


def test_prepare_is_said_again(session: Session) -> None:
    session.turn("PREPARE p AS SELECT 1", done("PREPARE") + I)
    session.turn("PREPARE q AS SELECT 1", ERROR + I)
    assert session.statements == (query("PREPARE p AS SELECT 1"),)
    session.turn("DEALLOCATE ALL", done("DEALLOCATE ALL") + I)
    assert session.statements == ()


def test_statements_outlive_a_rollback(session: Session) -> None:
    session.turn("BEGIN", done("BEGIN") + T)
    session.turn(parse("SELECT 1", "s") + SYNC, PARSED + T)
    session.turn("ROLLBACK", done("ROLLBACK") + I)
    assert session.statements == (parse("SELECT 1", "s"),)


def test_discard_all_leaves_nothing(session: Session) -> None:
    session.turn("SET a = 1", done("SET") + I)
    session.turn("LISTEN a", done("LISTEN") + I)
    session.turn(parse("SELECT 1", "s") + SYNC, PARSED + I)
    session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    found = session.state.restoration()
    assert (found.settings, found.channels, found.statements) == ((), (), ())


# -- transactions that may have been committed ---------------------------------------------


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (query("INSERT INTO t VALUES (1)"), False),
        (query("ROLLBACK"), False),
        (query("COMMIT"), True),
        (query("INSERT INTO t VALUES (1); COMMIT"), True),
        (parse("COMMIT") + bind() + execute() + SYNC, True),
        (parse("INSERT INTO t VALUES (1)") + bind() + execute() + SYNC, False),
        (bind("c") + execute() + SYNC, True),
        (query("INSERT INTO t VALUES (1)") + query("END"), True),
        (query("SELECT 1" + " " * CAPTURE), True),
    ],
)
def test_what_may_commit(session: Session, asked: bytes, ends: bool) -> None:
    if len(asked) > CAPTURE:
        session.split = 10_000
    session.turn(parse("COMMIT", "c") + SYNC, PARSED + I)
    session.turn("BEGIN", done("BEGIN") + T)
    assert session.state.ending <= session.target.ready
    session.ask(asked)
    assert (session.state.ending > session.target.ready) is ends


# -- what is reported ----------------------------------------------------------------------


def test_reported_settings(session: Session) -> None:
    session.get(frames.parameter_status("TimeZone", "UTC"))
    assert session.state.reported == {"TimeZone": "UTC"}
    assert session.state.restoration().reported == {"TimeZone": "UTC"}


def test_texts_that_depend_on_an_encoding_pin_when_it_changes(session: Session) -> None:
    session.get(frames.parameter_status("client_encoding", "UTF8"))
    session.turn("SET a = 'x'", done("SET") + I)
    session.get(frames.parameter_status("client_encoding", "LATIN1"))
    assert session.state.pinned == ""
    session.turn("SET b = 'é'", done("SET") + I)
    session.get(frames.parameter_status("client_encoding", "UTF8"))
    assert "client_encoding" in session.state.pinned


@pytest.mark.parametrize(
    "turns",
    [
        [('LISTEN "é"', done("LISTEN") + I)],
        [("BEGIN", done("BEGIN") + T), ("SET b = 'é'", done("SET") + T)],
        [(parse("SELECT 'é'"), frame("n"))],  # which is still to be answered
    ],
)
def test_all_kept_texts_depend_on_their_encoding(session: Session, turns) -> None:
    session.get(frames.parameter_status("client_encoding", "UTF8"))
    for asked, got in turns:
        session.turn(asked, got)
    session.get(frames.parameter_status("client_encoding", "LATIN1"))
    assert "client_encoding" in session.state.pinned


def test_texts_are_said_again_in_their_encoding(session: Session) -> None:
    for text in ("SET a = 1", "SET NAMES 'UTF8'", "SET b = 'é'", "SET NAMES 'UTF8'"):
        session.turn(text, done("SET") + I)
    assert session.settings == (b"SET NAMES 'UTF8'", b"SET a = 1", "SET b = 'é'".encode())


def test_a_malformed_report_is_a_violation(session: Session) -> None:
    with pytest.raises(ProtocolViolation):
        session.get(frame("S", b"no end"))


# -- bounds --------------------------------------------------------------------------------


def test_what_is_kept_is_bounded() -> None:
    session = Session()
    for number in range(12):
        session.turn(parse("SELECT '" + "x" * 100_000 + "'", f"s{number}") + SYNC, PARSED + I)
    assert "more prepared statements" in session.state.pinned
    assert session.statements == ()
    session.turn(parse("SELECT 1", "s") + SYNC, PARSED + I)
    session.turn("SET a = 1", done("SET") + I)
    assert (session.statements, session.settings) == ((), ())


def test_unanswered_requests_are_bounded() -> None:
    session = Session()
    for _ in range(1 + MAX_KEPT // 100):
        session.ask(close("x"))
    assert session.state.pinned


def test_closing_and_preparing_for_ever_costs_nothing() -> None:
    session = Session()
    for _ in range(MAX_KEPT // 2000):
        text = parse("SELECT 1" + " " * 3000, "s")
        session.turn(text + SYNC, PARSED + I)
        session.turn(close("s") + SYNC, CLOSED + I)
        session.turn("SET a = '" + "x" * 3000 + "'", done("SET") + I)
        session.turn("LISTEN a", done("LISTEN") + I)
        session.turn(text + SYNC, ERROR + I)
        session.turn(text + SYNC, PARSED + I)
        session.turn("DISCARD ALL", done("DISCARD ALL") + I)
    assert session.state.pinned == ""
    assert session.state._size == 0


def test_announced_effects_are_bounded() -> None:
    session = Session()
    session.ask(query("SET a = 1") * (MAX_EXPECTED + 1))
    assert "too many changes" in session.state.pinned
    assert not session.state.expected
    session = Session()
    session.turn("BEGIN", done("BEGIN") + T)
    for _ in range(MAX_EXPECTED + 1):
        session.turn("SET a = 1", done("SET") + T)
    assert "one transaction" in session.state.pinned
    session = Session()
    for number in range(MAX_EXPECTED + 1):
        session.turn(parse("SET a = 1", f"s{number}") + SYNC, PARSED + I)
    assert "prepared statements" in session.state.pinned


def test_reports_are_bounded() -> None:
    session = Session()
    for number in range(MAX_PARAMETERS + 1):
        session.get(frames.parameter_status(f"p{number}", "x"))
    assert "reported" in session.state.pinned


@pytest.mark.parametrize("answer", [PARSED, CLOSED])
def test_answers_to_nothing_pin(session: Session, answer: bytes) -> None:
    session.get(answer + I)
    session.turn(parse("SELECT 1") + SYNC, PARSED + I)
    assert session.state.pinned


def test_malformed_frames_do_no_harm(session: Session) -> None:
    for kind in "PQBECF":
        session.ask(frame(kind, b"no end"))
        session.ask(frame(kind))
    session.ask(parse("SET a = 1"))
    for kind in "BE":
        session.ask(frame(kind, b""))
    session.get(ERROR + I)


# -- any split -----------------------------------------------------------------------------

FORTH = [query("SET a = 1"), query("BEGIN; SET b = 'é'"), parse("SELECT 1", "s") + SYNC,
         query("COMMIT"), parse("SET c = 1") + bind() + execute() + SYNC,
         query("CREATE TEMP TABLE t ()"), close("s") + parse("SELECT 2", "u") + SYNC]  # fmt: skip
BACK = [done("SET") + I, done("BEGIN", "SET") + T, PARSED + T, done("COMMIT") + I,
        PARSED + BOUND + done("SET") + I, done("CREATE TABLE") + I,
        CLOSED + PARSED + frames.parameter_status("a", "1") + I]  # fmt: skip


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_any_split_gives_the_same_state(sizes: list[int]) -> None:
    whole, parts = Session(), Session()
    for asked, got in zip(FORTH, BACK, strict=True):
        whole.turn(asked, got)
        for scanner, data in ((parts.client, asked), (parts.target, got)):
            at = turn = 0
            while at < len(data):
                step = sizes[turn % len(sizes)]
                scanner.scan(data[at : at + step])
                at += step
                turn += 1
    assert parts.state.restoration() == whole.state.restoration()
    assert parts.state.pinned == whole.state.pinned == "temporary tables"
    assert whole.settings == (b"SET a = 1", "SET b = 'é'".encode(), b"SET c = 1")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("PBECQS1ZCES23"), st.binary(max_size=40))))
def test_no_dialogue_breaks_it(messages: list[tuple[bool, str, bytes]]) -> None:
    session = Session()
    for asked, kind, body in messages:
        data = struct.pack(">cI", kind.encode(), len(body) + 4) + body
        try:
            (session.ask if asked else session.get)(data)
        except ProtocolViolation:
            return
    assert session.state._size >= 0
