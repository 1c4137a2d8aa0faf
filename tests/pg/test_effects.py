"""What statements leave behind: each form that counts, and those that only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pg import effects
from gateway.pg.effects import MAX_LOOK, MAX_REMEMBERED, Does, Effect, look, startup_pins

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
    "SELECT name, setting FROM pg_settings WHERE name = 'x'",
    'SELECT * FROM "pg_catalog"."pg_settings"',
    "SELECT 'U&\"x\"', $$u&'x'$$ /* u&'x' */ -- U&\"x\"",
    "SELECT fu&'5', u & '5' FROM t",
    "SELECT setseeds FROM fields",
    "SELECT E'a'\n'\\'; SET x = 1 --'",
    "SELECT E'a' -- more\n  -- of it\r '\\'; SET x = 1 --'",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
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
        ("SET local.user = 'alice'", "local.user"),
        ('SET "transaction".id = 1', "transaction.id"),
        ("SET constraints.on = 1", "constraints.on"),
        ("SET schema . tenant = 'a'", "schema.tenant"),
        ("SET SESSION schema.tenant = 'a'", "schema.tenant"),
        ("SET names.x = 'a'", "names.x"),
        ("SET search_path = 'private', \"$user\"", "search_path"),
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
     ("RESET SESSION AUTHORIZATION", "session_authorization"), ("RESET a.b", "a.b"),
     ("RESET schema.tenant", "schema.tenant")],
)  # fmt: skip
def test_a_reset_is_a_setting(text: str, name: str) -> None:
    assert look(text.encode()) == (Effect(Does.SET, b"RESET", name.encode(), text.encode()),)


@pytest.mark.parametrize(
    "text",
    ["SET LOCAL x = 1", "SET TRANSACTION READ ONLY", "SET LOCAL local.x = 1",
     "SET LOCAL search_path = a", "SET LOCAL SCHEMA 'a'", "SET LOCAL x FROM CURRENT"],
)  # fmt: skip
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
        ("EXECUTE p (1)", Does.EXECUTE, "", "p"),
        ('EXPLAIN ANALYZE EXECUTE "P"', Does.EXECUTE, "", "P"),
        ("CREATE TABLE t AS EXECUTE p", Does.EXECUTE, "", "p"),
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
        ("CREATE TABLE pg_temp_3.t (a int)", "temporary tables"),
        ("SELECT * INTO pg_temp.t FROM u", "temporary tables"),
        ("CREATE SCHEMA s CREATE TEMP TABLE t (a int)", "temporary tables"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursors WITH HOLD"),
        ("SELECT pg_advisory_lock(1)", "advisory locks"),
        ("select PG_TRY_ADVISORY_LOCK(1)", "advisory locks"),
        ("SELECT pg_catalog.pg_advisory_lock_shared(1)", "advisory locks"),
        ("WITH a AS (SELECT pg_advisory_lock(1)) SELECT * FROM a", "advisory locks"),
        ("PREPARE p AS SELECT pg_advisory_lock(1)", "advisory locks"),
        ("SELECT set_config('a.b', $1, false)", "set_config() of"),
        ("SELECT set_config('a.b', 'c', false), 1", "set_config() of"),
        ("SELECT set_config(E'a\\x62', 'c', false)", "set_config() of"),
        ("SELECT set_config(E'search\\x5fpath', 'c', true)", "set_config() of"),
        ("SELECT set_config('search_path', E'pg\\x5ftemp', true)", "set_config() of"),
        ("SELECT \"set_config\"('a.b', $1, false)", "set_config() of"),
        ("UPDATE pg_settings SET setting = 'off' WHERE name = 'x'", "pg_settings"),
        ('update pg_catalog."pg_settings" set setting = 1', "pg_settings"),
        ("PREPARE p AS UPDATE pg_settings SET setting = $1", "pg_settings"),
        ("EXPLAIN ANALYZE UPDATE pg_settings SET setting = 1", "pg_settings"),
        ("SELECT 1; UPDATE pg_settings SET setting = 1", "pg_settings"),
        ("SELECT U&\"set\\005fconfig\"('a', 'b', false)", "spelled by escapes"),
        ('SELECT * FROM t, u&"\\0070g_temp".t', "spelled by escapes"),
        ("SELECT U&'\\0041'", "spelled by escapes"),
        ("SET x = U&'\\0041'", "spelled by escapes"),
        ("SELECT setseed(0.5)", "seed of random()"),
        ('SELECT pg_catalog."setseed"(0.5)', "seed of random()"),
        ("SET seed = 0.5", "seed of random()"),
        ("SELECT set_config('seed', '0.5', false)", "seed of random()"),
        ("SELECT dblink_connect('c', 'dbname=x')", "connections of dblink"),
        ("SELECT * FROM public.dblink_connect_u('dbname=x')", "connections of dblink"),
        ("SELECT pg_replication_origin_session_setup('o')", "origins"),
        ("SELECT pg_backup_start('x', true)", "base backups"),
        ("SELECT pg_start_backup('x')", "base backups"),
        ("SELECT pg_create_physical_replication_slot('t', true, true)", "replication slots"),
        ("SELECT pg_copy_logical_replication_slot('a', 'b', true)", "replication slots"),
        ("SELECT set_limit(0.9)", "pg_trgm"),
        (f"PREPARE {'n' * 64} AS SELECT 1", "longer"),
        (f"DEALLOCATE {'n' * 64}", "longer"),
        (f"LISTEN {'n' * 64}", "longer"),
        (f"UNLISTEN {'n' * 64}", "longer"),
        (f"EXECUTE {'n' * 64}", "longer"),
        (f"SET a.{'n' * 64} = 1", "longer"),
        ("SET x FROM CURRENT", "FROM CURRENT"),
        ("BEGIN; SET LOCAL x = 1; SET SESSION x FROM CURRENT; COMMIT", "FROM CURRENT"),
        ("CALL p()", "CALL, which may leave anything"),
        ("call p()", "CALL, which may leave anything"),
        ("DO $$ BEGIN SET x = 1; END $$", "DO, which may leave anything"),
        ("SELECT 1; CALL p(); SELECT 2", "CALL, which may leave anything"),
        (
            "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT 1;"
            " SELECT set_config('a', 'b', false); END",
            "body",
        ),
        ("SELECT * FROM t WHERE set_config('a.b', c, false) = ''", "set_config() of"),
        ("SELECT 1;" + " " * MAX_LOOK + "SELECT 2", "too long"),
    ],
)
def test_what_pins(text: str, why: str) -> None:
    effects = look(text.encode())
    assert any(each.does is Does.PIN and why.encode() in each.name for each in effects)


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = pg_temp, public",
        "SET search_path = 'pg_temp'",
        'SET search_path TO "pg_temp"',
        "SET search_path = 'public', 'PG_Temp'",
        "SET search_path = '\"pg_temp\"'",
        "SET search_path = pg_temp_3",
        "SET search_path = $$pg_temp$$",
        "SET search_path = E'pg\\x5ftemp'",
        "SET search_path = 'pg_'\n'temp'",
        "SET SESSION search_path = 'pg_temp'",
        "SET LOCAL search_path = 'pg_temp'",
        "SET LOCAL search_path = e'pg\\x5ftemp'",
        "SET SCHEMA 'pg_temp'",
        "SET LOCAL SCHEMA 'pg_temp'",
        "SET SCHEMA E'pg\\137temp'",
        "SELECT set_config('search_path', 'pg_temp', false)",
        "SELECT set_config('Search_Path', 'a, \"pg_temp\"', true)",
        "SELECT pg_catalog.set_config('search_path', 'pg_temp', true)",
        "BEGIN; SELECT 1; SET LOCAL search_path = 'pg_temp'; COMMIT",
    ],
)
def test_a_search_path_that_makes_tables_temporary_pins(text: str) -> None:
    why = b"a search_path that makes tables temporary"
    assert Effect(Does.PIN, name=why) in look(text.encode())


def test_other_search_paths_do_not_pin() -> None:
    for text in (b"SET search_path = 'private', e", b"SELECT set_config('search_path', '', false)"):
        assert [each.does for each in look(text)] == [Does.SET]


@pytest.mark.parametrize(
    "parameters",
    [
        {"search_path": "pg_temp"},
        {"SEARCH_PATH": '"PG_TEMP", public'},
        {"user": "u", "options": "-c search_path=pg_temp,public"},
        {"Options": "--search-path=pg_temp"},
        {"options": "-csearch_path=pg\\_temp"},
    ],
)
def test_a_session_that_starts_among_temporary_tables_is_pinned(parameters) -> None:
    assert startup_pins(parameters) == "a search_path that makes tables temporary"


def test_other_sessions_start_free() -> None:
    assert startup_pins({}) == ""
    assert startup_pins({"user": "pg_temp", "search_path": "a", "options": "-c geqo=off"}) == ""


@pytest.mark.parametrize("schema", ["", "pg_catalog."])
def test_a_constant_set_config_is_a_setting(schema: str) -> None:
    text = f"SELECT {schema}set_config('Search_Path', 'it''s', false)".encode()
    assert look(text) == (Effect(Does.SET, b"SELECT 1", b"search_path", text),)
    assert look(text.replace(b"false", b"true")) == (Effect(Does.NOTHING, b"SELECT 1"),)
    quoted = text.replace(b"set_config", b'"set_config"')
    assert look(quoted) == (Effect(Does.SET, b"SELECT 1", b"search_path", quoted),)


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


PIECES = [b"set_config", b"pg_temp", b"into", b"temp", b"U&", b"u", b"&", b'"', b"'", b"E'", b"$$",
          b";", b" ", b"\n", b"\\", b"/*", b"*/", b"--", b"update", b"pg_settings", b"setseed",
          b"pg_advisory_lock", b"dblink_connect", b"call", b"(", b"."]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_the_first_look_passes_by_nothing_that_pins(text: bytes) -> None:
    """In parentheses a statement is always cut into words."""
    quick, slow = look(b"SELECT 1 " + text), look(b"(SELECT 1) " + text)
    assert [each for each in quick if each.does is Does.PIN] == [
        each for each in slow if each.does is Does.PIN
    ]


@pytest.mark.parametrize("word", sorted(effects._PINS.keys() - {b"u&"}))
def test_no_word_that_pins_is_overlooked(word: bytes) -> None:
    """They are sought twice: at a glance, and among the words of a statement."""
    (found,) = look(b"SELECT " + word + b"(x)")
    assert (found.does, found.name) == (Does.PIN, effects._PINS[word])
