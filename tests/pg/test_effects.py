"""What statements leave behind: each form that counts, and those that only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pg.effects import MAX_LOOK, MAX_REMEMBERED, Does, Effect, look

NOTHING = [
    "",
    ";",
    "-- nothing",
    "/* SET x = 1 */ SELECT 1",
    "SELECT 1",
    "  select abalance FROM pgbench_accounts WHERE aid = 1;",
    "(SELECT 1)",
    "INSERT INTO t VALUES ('SET x = 1; LISTEN y')",
    "INSERT INTO templates (temp, contempt) VALUES (1, 2)",
    "SELECT temp, t.temporary FROM weather",
    "SELECT 'pg_advisory_lock(1)', $$set_config('a', 'b', false)$$",
    'SELECT 1 AS "it\'s; SET x = 1"',
    "SELECT E'it\\'s; SET x = 1'",
    "SELECT $a$ ; SET x = 1 $b$ $a$",
    "SELECT 1 /* a /* nested */ ; SET x = 1 */",
    "SELECT 1; SELECT 2",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock(1)",
    "CREATE TABLE temp (a int)",
    "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SET x = 1'",
    "ROLLBACK",
    "ROLLBACK TO SAVEPOINT s",
    "BEGIN",
    "SET CONSTRAINTS ALL DEFERRED",
    "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
    "DISCARD PLANS",
    "DO $$ BEGIN SET x = 1; END $$",  # its tag tells
    "SELCT 1",
    "LISTEN",
    "DEALLOCATE",
    "SELECT 'a' || $$unfinished ; SET x = 1",
    "SELECT 1 /* unfinished ; SET x = 1",
]


@pytest.mark.parametrize("text", NOTHING)
def test_nothing_is_left(text: str) -> None:
    assert look(text.encode()) == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SET x = 1", "x"),
        ("set X to 'a;b'", "x"),
        ("SET SESSION x = 1", "x"),
        ("SET my.app.User = 'alice'", "my.app.user"),
        ('SET "My.App" = 1', "my.app"),
        ("SET search_path = a, b", "search_path"),
        ("SET SCHEMA 'a'", "search_path"),
        ("SET NAMES 'utf8'", "client_encoding"),
        ("SET TIME ZONE 'UTC'", "timezone"),
        ("SET SESSION TIME ZONE LOCAL", "timezone"),
        ("SET TimeZone = 'UTC'", "timezone"),
        ("SET XML OPTION DOCUMENT", "xmloption"),
        ("SET ROLE bob", "role"),
        ("SET SESSION ROLE bob", "role"),
        ("SET SESSION AUTHORIZATION bob", "session_authorization"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "session characteristics set session characteristics as transaction read only",
        ),
    ],
)
def test_settings(text: str, name: str) -> None:
    effect = Effect(Does.SET, b"SET", name.encode(), text.encode())
    assert look(text.encode()) == (effect,)
    assert look(f"/* 1 */ -- 2\r{text} ; -- 3".encode()) == (effect,)
    assert look(f"SELECT 1; {text}; SELECT 2".encode()) == (effect,)


@pytest.mark.parametrize(
    ("text", "name"),
    [("RESET x", "x"), ("RESET TIME ZONE", "timezone"), ("RESET ROLE", "role"),
     ("RESET SESSION AUTHORIZATION", "session_authorization"), ("RESET a.b", "a.b")],
)  # fmt: skip
def test_a_reset_is_a_setting(text: str, name: str) -> None:
    assert look(text.encode()) == (Effect(Does.SET, b"RESET", name.encode(), text.encode()),)


@pytest.mark.parametrize("text", ["SET LOCAL x = 1", "SET TRANSACTION READ ONLY"])
def test_what_ends_with_its_transaction(text: str) -> None:
    assert look(text.encode()) == (Effect(Does.NOTHING, b"SET"),)


@pytest.mark.parametrize(
    ("text", "does", "tag", "name"),
    [
        ("RESET ALL", Does.RESET_ALL, "RESET", ""),
        ("LISTEN a", Does.LISTEN, "LISTEN", "a"),
        ('LISTEN "A b"', Does.LISTEN, "LISTEN", "A b"),
        ("UNLISTEN A", Does.UNLISTEN, "UNLISTEN", "a"),
        ("UNLISTEN *", Does.UNLISTEN, "UNLISTEN", ""),
        ('UNLISTEN "*"', Does.UNLISTEN, "UNLISTEN", "*"),
        ("PREPARE p (int) AS SELECT $1", Does.PREPARE, "PREPARE", "p"),
        ("DEALLOCATE p", Does.DEALLOCATE, "DEALLOCATE", "p"),
        ("DEALLOCATE PREPARE p", Does.DEALLOCATE, "DEALLOCATE", "p"),
        ("DEALLOCATE ALL", Does.DEALLOCATE, "DEALLOCATE ALL", ""),
        ("DEALLOCATE PREPARE ALL", Does.DEALLOCATE, "DEALLOCATE ALL", ""),
        ('DEALLOCATE "all"', Does.DEALLOCATE, "DEALLOCATE", "all"),
        ("DISCARD ALL", Does.DISCARD_ALL, "DISCARD ALL", ""),
        ("DISCARD TEMP", Does.DISCARD_TEMP, "DISCARD TEMP", ""),
        ("COMMIT", Does.END, "", ""),
        ("END WORK", Does.END, "", ""),
        ("COMMIT AND CHAIN", Does.END, "", ""),
        ("PREPARE TRANSACTION 'x'", Does.END, "", ""),
    ],
)
def test_what_counts(text: str, does: Does, tag: str, name: str) -> None:
    (effect,) = look(text.encode())
    assert (effect.does, effect.tag, effect.name) == (does, tag.encode(), name.encode())
    if does in (Does.LISTEN, Does.PREPARE):
        assert effect.text == text.encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("CREATE TEMP TABLE t (a int)", "temporary tables"),
        ("create local temporary table t (a int)", "temporary tables"),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "temporary tables"),
        ("SELECT 1 INTO TEMP t", "temporary tables"),
        ("CREATE TABLE pg_temp.t (a int)", "temporary tables"),
        ('CREATE TABLE "pg_temp".t (a int)', "temporary tables"),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "temporary tables"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursors WITH HOLD"),
        ("SELECT pg_advisory_lock(1)", "advisory locks"),
        ("select PG_TRY_ADVISORY_LOCK(1)", "advisory locks"),
        ("SELECT pg_catalog.pg_advisory_lock_shared(1)", "advisory locks"),
        ("WITH a AS (SELECT pg_advisory_lock(1)) SELECT * FROM a", "advisory locks"),
        ("PREPARE p AS SELECT pg_advisory_lock(1)", "advisory locks"),
        ("SELECT set_config('a.b', $1, false)", "set_config() of"),
        ("SELECT set_config('a.b', 'c', false), 1", "set_config() of"),
        ("SELECT set_config(E'a\\x62', 'c', false)", "set_config() of"),
        ("SELECT * FROM t WHERE set_config('a.b', c, false) = ''", "set_config() of"),
        ("SELECT 1;" + " " * MAX_LOOK + "SELECT 2", "too long"),
    ],
)
def test_what_pins(text: str, why: str) -> None:
    effects = look(text.encode())
    assert any(each.does is Does.PIN and why.encode() in each.name for each in effects)


@pytest.mark.parametrize("schema", ["", "pg_catalog."])
def test_a_constant_set_config_is_a_setting(schema: str) -> None:
    text = f"SELECT {schema}set_config('Search_Path', 'it''s', false)".encode()
    assert look(text) == (Effect(Does.SET, b"SELECT 1", b"search_path", text),)
    assert look(text.replace(b"false", b"true")) == (Effect(Does.NOTHING, b"SELECT 1"),)


def test_effects_come_in_order() -> None:
    text = b"BEGIN; SET a = 1; LISTEN b; COMMIT; RESET a"
    assert [each.does for each in look(text)] == [Does.SET, Does.LISTEN, Does.END, Does.SET]


def test_a_long_text_is_looked_at_like_a_short_one() -> None:
    padding = b" " * MAX_REMEMBERED
    assert look(padding + b"SET x = 1") == look(b"SET x = 1")


@given(st.binary(max_size=200) | st.text("sSeEtT ';\"$-/*\\\n a1=", max_size=60).map(str.encode))
def test_no_text_is_too_odd(text: bytes) -> None:
    assert look(text) == look(text)
    assert look(b"SET x = 1; " + text)[0].does is Does.SET
