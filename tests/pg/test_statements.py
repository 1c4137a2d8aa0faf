"""SQL texts cut into statements and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pg.statements import statements


def words(text: bytes) -> list[tuple[bytes, ...]]:
    return [statement.words for statement in statements(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", []),
        (b" ;; \n", []),
        (b"SELECT 1", [(b"select", b"1")]),
        (b"Set A=b;LISTEN c", [(b"set", b"a", b"=", b"b"), (b"listen", b"c")]),
        (b'SET "A""b" = 1', [(b"set", b'A"b', b"=", b"1")]),
        (b"a 'it''s; here' b", [(b"a", b"", b"b")]),
        (rb"a E'it\'s; here' b", [(b"a", b"", b"b")]),
        (b"a E'it'\n  '\\'s; here' b", [(b"a", b"", b"b")]),
        (rb"a 'no \' b", [(b"a", b"", b"b")]),
        (b"a $$; it's$$ b", [(b"a", b"", b"b")]),
        (b"a $x$; $$ $x$ b", [(b"a", b"", b"b")]),
        (b"a $1 b", [(b"a", b"$", b"1", b"b")]),
        (b"a$$b c", [(b"a$$b", b"c")]),
        (b"a -- b; c\nd", [(b"a", b"d")]),
        (b"a /* b; /* c */ ' */ d", [(b"a", b"d")]),
        (b"U&\"a\" u&'b'", [(b"u&", b"a", b"u&", b"")]),
        (b"u & b", [(b"u", b"&", b"b")]),
        ("ÄB".encode(), [("ÄB".encode().lower(),)]),
        (b'a ";" b', [(b"a", b";", b"b")]),
        # what is not closed
        (b"a 'b; c", [(b"a", b"'", b"b"), (b"c",)]),
        (b"a $$ b; c", [(b"a", b"")]),
        (b"a /* b; c", [(b"a",)]),
    ],
)
def test_words(text: bytes, found: list[tuple[bytes, ...]]) -> None:
    assert words(text) == found


def test_a_statement_in_its_own_words() -> None:
    first, second = statements(b" /* x */ SET a = 'b' ; -- y\n Listen c -- z")
    assert (first.whole(), second.whole()) == (b"SET a = 'b'", b"Listen c")


PIECES = [*b"a ' \" $$ $x$ E' \\ /* */ -- ; U&".split(), b" ", b"\n"]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3)).map(b"".join))
def test_whatever_is_said(text: bytes) -> None:
    """Tokens follow one another, and none is empty."""
    end = 0
    for statement in statements(text):
        assert statement.tokens
        for token in statement.tokens:
            assert end <= token.start < token.end <= len(text)
            end = token.end
        assert statement.whole() in text
