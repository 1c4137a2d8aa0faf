"""SQL texts cut into statements, and those into words, as PostgreSQL's own lexer does. Sans-IO.

Only as far as it takes to see what a statement begins with and which names are in it: numbers
and operators come in pieces, and strings without what they say (manual, chapter 4.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from attrs import frozen

_TOKEN = re.compile(
    rb"""
    (?P<space> \s+ | --[^\n\r]* )
  | (?P<comment> /\* )
  | (?P<string> [eE]'(?:[^'\\]|\\.|'\s*(?:--[^\n\r]*[\n\r]\s*)*')*' | '(?:[^']|'')*' )
  | (?P<dollar> \$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$ )
  | (?P<quoted> "(?:[^"]|"")*" )
  | (?P<escapes> [uU]&(?=["']) )
  | (?P<word> [A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]* )
  | (?P<other> [0-9]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)  # an E string goes on in the next line's string, which may have backslashes too
_COMMENT = re.compile(rb"/\*|\*/")


@frozen
class Token:
    """``word`` as PostgreSQL compares it: folded, or without its quotes; b"" for a string."""

    word: bytes
    start: int
    end: int
    quoted: bool = False


@frozen
class Statement:
    """``tokens``: at least one. ``text``: where it stands, among others perhaps."""

    text: bytes
    tokens: Sequence[Token]

    @property
    def words(self) -> tuple[bytes, ...]:
        return tuple(token.word for token in self.tokens)

    def whole(self) -> bytes:
        return self.text[self.tokens[0].start : self.tokens[-1].end]


def _tokens(text: bytes) -> Iterator[Token]:
    pos, end = 0, len(text)
    while pos < end:
        found = _TOKEN.match(text, pos)
        assert found is not None  # ``.`` matches whatever is left
        start, pos, kind = pos, found.end(), found.lastgroup
        if kind == "comment":
            pos = _comment_end(text, pos)
        elif kind == "dollar":
            close = text.find(found.group(), pos)
            pos = end if close < 0 else close + len(found.group())
            yield Token(b"", start, pos)
        elif kind == "string":
            yield Token(b"", start, pos)
        elif kind == "quoted":
            yield Token(text[start + 1 : pos - 1].replace(b'""', b'"'), start, pos, quoted=True)
        elif kind != "space":
            yield Token(found.group().lower(), start, pos)


def _comment_end(text: bytes, pos: int) -> int:
    """Comments nest."""
    depth = 1
    while depth:
        found = _COMMENT.search(text, pos)
        if found is None:
            return len(text)
        depth += 1 if found.group() == b"/*" else -1
        pos = found.end()
    return pos


def statements(text: bytes) -> Iterator[Statement]:
    """Those that hold anything. Raises nothing: a quote that is not closed is a word."""
    tokens: list[Token] = []
    for token in _tokens(text):
        if token.word == b";" and not token.quoted:
            if tokens:
                yield Statement(text, tokens)
            tokens = []
        else:
            tokens.append(token)
    if tokens:
        yield Statement(text, tokens)
