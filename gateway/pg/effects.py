"""What a statement leaves behind in its session, as far as its text tells. Sans-IO.

Most statements leave nothing, and are passed by after one look. The others are cut into
words, and each is one of these: a setting, a channel listened to or a name prepared, which
can be taken to another server; something that cannot; or the end of a transaction.

Not seen, because no text tells it: what functions do inside (settings they make that the
server does not report, temporary tables, locks), and the last values of sequences, which
are gone with the server and whose absence is an error, never a wrong value.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from attrs import frozen

from gateway.pg.statements import Statement, statements

MAX_LOOK = 64 << 10  # bytes of a text that are cut into words: a millisecond or two
NAMEDATALEN = 64  # bytes of a name, and the one behind it
QUERY = 0x51  # the type of the message in which SQL itself prepares a statement
MAX_REMEMBERED = 1024  # bytes of a text whose effects are remembered, 1,024 of them

# Tags, by how they begin, of what leaves nothing behind that its text would not tell of.
HARMLESS = frozenset(
    b"SEL INS UPD DEL MER COP BEG STA SAV REL FET MOV CLO EXP SHO CRE ALT DRO TRU VAC ANA GRA"
    b" REV REF REI CLU NOT LOC CHE IMP SEC REA DEC TAB".split()
)
HARMLESS_TOO = frozenset(
    (b"COMMENT", b"SET CONSTRAINTS", b"DISCARD PLANS", b"DISCARD SEQUENCES", b"DISCARD TEMP",
     b"COMMIT PREPARED", b"ROLLBACK PREPARED")
)  # fmt: skip
_NOT_READ = frozenset(  # encodings in which a byte of ASCII may be half a character
    ("SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB")
)
PARSED = frozenset(  # settings that decide what a literal means
    b"datestyle timezone intervalstyle array_nulls transform_null_equals xmloption"
    b" lc_monetary".split()
)


class Does(enum.Enum):
    """What has an effect; those up to DISCARD_TEMP are undone by a rollback."""

    SET = "set"
    LISTEN = "listen"
    UNLISTEN = "unlisten"
    RESET_ALL = "reset all"
    DISCARD_TEMP = "discard temp"
    PREPARE = "prepare"
    DEALLOCATE = "deallocate"
    DISCARD_ALL = "discard all"
    EXECUTE = "execute"  # what a prepared statement does
    NOTHING = "nothing"
    PIN = "pin"  # what cannot be carried: no tag tells it, so it counts when it is sent
    END = "end"  # of a transaction, perhaps with success


@frozen
class Effect:
    """``tag`` of the CommandComplete that says that it has come about; ``name`` of what is
    set, listened to (b"" for all of them) or prepared; ``text``: what does it again."""

    does: Does
    tag: bytes = b""
    name: bytes = b""
    text: bytes = b""


Effects = tuple[Effect, ...]

# Statements that leave nothing behind, by their first word, unless they conceal something.
# What neither finds shows in its tag: see gateway.pg.state.
_plain = re.compile(
    rb"\s*(?:select|insert|update|delete|with|begin|start|merge|values|table|savepoint"
    rb"|release|show|fetch|move|copy)(?![a-z0-9_$\x80-\xff])"
).match
_PLAIN_STARTS = frozenset((b"select ", b"insert ", b"update ", b"delete "))  # seen at a glance
# What they conceal: names, sought from a rare letter on, escaped ones, and a second statement.
_conceals = re.compile(
    rb"_(?:config(?<=set_config)|settings(?<=pg_settings)|connect(?<=dblink_connect)"
    rb"|session(?<=origin_session)|start(?<=backup_start)|backup(?<=start_backup)"
    rb"|slot(?<=replication_slot)|limit(?<=set_limit))|visory(?<=advisory)|mp(?<=temp)|setseed"
    rb"|&(?<=u&)[\"']|;\s*[^\s;]"
).search


def look(text: bytes) -> Effects:
    """What *text*, one or more statements, leaves behind."""
    low = text.lower()
    if (low[:7] in _PLAIN_STARTS or _plain(low)) and not _conceals(low):
        return ()
    if len(text) > MAX_REMEMBERED:
        return _effects(text)
    return _remembered(text)


def _effects(text: bytes) -> Effects:
    if len(text) > MAX_LOOK:
        return (Effect(Does.PIN, name=b"a statement too long to be looked into"),)
    found: list[Effect] = []
    for statement in statements(text):
        found += map(_cut, _of(statement))
    return tuple(found)


def _cut(effect: Effect) -> Effect:
    """Of names the server takes 63 bytes: two may be one, and which, its encoding decides."""
    kept = effect.does is Does.PIN or effect.name.startswith(CHARACTERISTICS)
    if kept or len(effect.name) < NAMEDATALEN:
        return effect
    return Effect(Does.PIN, name=b"a name longer than the server takes")


def startup_pins(parameters: Mapping[str, str]) -> str:
    """Why a session that begins with these parameters cannot be moved; "" if it can."""
    for name, value in parameters.items():
        plain = value.lower().replace("\\", "")  # which may stand anywhere in ``options``
        if name.lower() in ("search_path", "options") and "pg_temp" in plain:
            return _INVISIBLY.name.decode()
    return ""


def illegible(reported: Mapping[str, str]) -> str:
    """Why texts cannot be read; what they have hidden meanwhile stays hidden."""
    if reported.get("standard_conforming_strings") == "off":
        return "standard_conforming_strings is off"
    if reported.get("client_encoding") in _NOT_READ:
        return f"client_encoding is {reported['client_encoding']}"
    return ""


_remembered = lru_cache(1024)(_effects)
_looked = lru_cache(1024)(look)


def look_again(text: bytes) -> Effects:
    """The same for texts that come again and again, as those of prepared statements do."""
    return look(text) if len(text) > MAX_REMEMBERED else _looked(text)


def effects_of(frame: bytes) -> Effects:
    """Those of a prepared statement; of one that SQL has prepared they have come about."""
    text = frame[5:].partition(b"\0")[2].partition(b"\0")[0]
    return () if frame[0] == QUERY else look_again(text)


_NOTHING_SET = Effect(Does.NOTHING, b"SET")
_TEMPORARY = Effect(Does.PIN, name=b"temporary tables")
_INVISIBLY = Effect(Does.PIN, name=b"a search_path that makes tables temporary")
_MAKES = frozenset({b"create", b"replace", b"into", b"local", b"global"})
_PINS = {  # words that pin wherever they stand
    b"set_config": b"set_config() of a value that is not in the text",
    b"u&": b"names that are spelled by escapes",
    b"setseed": b"the seed of random()",
    b"dblink_connect": b"connections of dblink",
    b"dblink_connect_u": b"connections of dblink",
    b"pg_advisory_lock": b"advisory locks",
    b"pg_advisory_lock_shared": b"advisory locks",
    b"pg_try_advisory_lock": b"advisory locks",
    b"pg_try_advisory_lock_shared": b"advisory locks",
    b"pg_replication_origin_session_setup": b"replication origins",
    b"pg_backup_start": b"base backups",
    b"pg_start_backup": b"base backups",
    b"pg_create_physical_replication_slot": b"replication slots",
    b"pg_create_logical_replication_slot": b"replication slots",
    b"pg_copy_physical_replication_slot": b"replication slots",
    b"pg_copy_logical_replication_slot": b"replication slots",
    b"set_limit": b"the limit of pg_trgm",
}
CHARACTERISTICS = b"session characteristics"
_SPELLINGS = {  # what SET calls otherwise than SHOW does
    (b"time", b"zone"): b"timezone",
    (b"names",): b"client_encoding",
    (b"schema",): b"search_path",
    (b"xml", b"option"): b"xmloption",
    (b"session", b"authorization"): b"session_authorization",
    (b"session", b"characteristics"): CHARACTERISTICS,
}


def _of(statement: Statement) -> Iterator[Effect]:
    words = statement.words
    meaning = _MEANINGS.get(words[0])
    if meaning is not None:
        yield from meaning(statement, words)
    elif words[0] == b"select" and (setting := _config(statement, words)) is not None:
        yield from setting
        return
    yield from _hidden(words)


def _hidden(words: Sequence[bytes]) -> Iterator[Effect]:
    updates = b"update" in words
    for before, word in pairwise((b"", *words)):
        if (word in (b"temp", b"temporary") and before in _MAKES) or word[:7] == b"pg_temp":
            if words[-3:] != (b"on", b"commit", b"drop"):
                yield _TEMPORARY
        elif word in _PINS:
            yield Effect(Does.PIN, name=_PINS[word])
        elif word == b"pg_settings" and updates:
            yield Effect(Does.PIN, name=b"an update of pg_settings")
        elif before == b"execute":
            yield Effect(Does.EXECUTE, name=word)
        elif (before, word) == (b"begin", b"atomic"):  # in which they are not run, but stored
            yield Effect(Does.PIN, name=b"statements in the body of a function")


def _config(statement: Statement, words: Sequence[bytes]) -> Effects | None:
    """``SELECT set_config('name', 'value', false)``, and nothing else."""
    if words[1:4] == (b"pg_catalog", b".", b"set_config"):
        words, at = words[3:], 3
    else:
        words, at = words[1:], 1
    if words[:6] != (b"set_config", b"(", b"", b",", b"", b",") or words[7:] != (b")",):
        return None
    name, value = (_literal(statement, at + offset) for offset in (2, 4))
    if words[6] not in (b"true", b"false") or name is None or value is None:
        return None
    name, text, tag = name.lower(), statement.whole(), b"SELECT 1"
    local = words[6] == b"true"
    done = Effect(Does.NOTHING, tag) if local else Effect(Does.SET, tag, name, text)
    return *_beyond(name, statement), done


def _beyond(name: bytes, statement: Statement) -> Iterator[Effect]:
    """What setting *name* leaves behind beside the setting, which may end before."""
    if name == b"seed":
        yield Effect(Does.PIN, name=_PINS[b"setseed"])
    elif name == b"search_path":
        words, text = statement.words, statement.whole().lower()
        escaped = any(not word and _literal(statement, at) is None for at, word in enumerate(words))
        if escaped or b"pg_temp" in text or (b"", b"") in pairwise(words):  # one string in parts
            yield _INVISIBLY


def _literal(statement: Statement, index: int) -> bytes | None:
    """What a plain string says; None for one with escapes."""
    token = statement.tokens[index]
    text = statement.text[token.start : token.end]
    return text[1:-1].replace(b"''", b"'") if text[:1] == b"'" else None


def _set(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    rest = words[1:]
    keyword = _keyword(rest)
    if keyword == b"constraints":
        return
    local = keyword == b"local"
    name, text = _setting(rest[1:] if local else rest), statement.whole()
    yield from _beyond(name, statement)
    if local or keyword == b"transaction":
        yield _NOTHING_SET
        return
    if words[-2:] == (b"from", b"current"):  # which SET LOCAL may have set
        yield Effect(Does.PIN, name=b"SET FROM CURRENT")
    if name == CHARACTERISTICS:
        name += b" " + text.lower()  # each is a setting of its own
    yield Effect(Does.SET, b"SET", name, text)


def _keyword(rest: Sequence[bytes]) -> bytes:
    """The first word, if it is not the first half of a setting's name, as in ``local.x``."""
    return b"" if rest[1:2] == (b".",) else b"".join(rest[:1])


def _setting(rest: Sequence[bytes]) -> bytes:
    """The name of what ``SET rest`` and ``RESET rest`` are about, in one spelling."""
    plain = rest[1:] if _keyword(rest) == b"session" else rest
    for start in (rest, plain):
        name = _SPELLINGS.get(tuple(start[:2])) or _SPELLINGS.get((_keyword(start),))
        if name is not None:
            return name
    return b"".join(_dotted(plain)).lower()


def _dotted(words: Sequence[bytes]) -> Iterator[bytes]:
    """The words of ``a.b.c``."""
    for word, after in pairwise((*words, b"")):
        yield word
        if b"." not in (word, after):
            return


def _reset(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    rest = words[1:]
    if rest == (b"all",):
        yield Effect(Does.RESET_ALL, b"RESET")
        return
    yield Effect(Does.SET, b"RESET", _setting(rest), statement.whole())


def _listen(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    if len(words) == 2:
        yield Effect(Does.LISTEN, b"LISTEN", words[1], statement.whole())


def _unlisten(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    if len(words) == 2:
        every = words[1] == b"*" and not statement.tokens[1].quoted
        yield Effect(Does.UNLISTEN, b"UNLISTEN", b"" if every else words[1])


def _prepare(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    if words[1:2] == (b"transaction",):
        yield Effect(Does.END)
    elif len(words) > 3:
        yield Effect(Does.PREPARE, b"PREPARE", words[1], statement.whole())


def _deallocate(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    named = statement.tokens[2:] if words[1:2] == (b"prepare",) and len(words) > 2 else None
    (token,) = (named or statement.tokens[1:])[:1] or (None,)
    if token is None:
        return
    if token.word == b"all" and not token.quoted:
        yield Effect(Does.DEALLOCATE, b"DEALLOCATE ALL")
    else:
        yield Effect(Does.DEALLOCATE, b"DEALLOCATE", token.word)


def _discard(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    if words[1:] == (b"all",):
        yield Effect(Does.DISCARD_ALL, b"DISCARD ALL")
    elif words[1:] in ((b"temp",), (b"temporary",)):
        yield Effect(Does.DISCARD_TEMP, b"DISCARD TEMP")


def _declare(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    for before, word in pairwise(words):
        if (before, word) == (b"with", b"hold"):
            yield Effect(Does.PIN, name=b"cursors WITH HOLD")
            return


def _anything(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    """What may commit before it fails: then no tag tells of it."""
    yield Effect(Does.PIN, name=words[0].upper() + b", which may leave anything")


def _end(statement: Statement, words: Sequence[bytes]) -> Iterator[Effect]:
    yield Effect(Does.END)


_MEANINGS = {
    b"set": _set,
    b"reset": _reset,
    b"listen": _listen,
    b"unlisten": _unlisten,
    b"prepare": _prepare,
    b"deallocate": _deallocate,
    b"discard": _discard,
    b"declare": _declare,
    b"commit": _end,
    b"end": _end,
    b"call": _anything,
    b"do": _anything,
}
