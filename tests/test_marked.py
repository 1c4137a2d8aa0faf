"""Files with mistakes: each is told by its place, all at once, and no word of a secret."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from gateway import marked
from gateway.errors import BadFile
from gateway.marked import MAX_DEPTH, Model, Reading, read_text


class Inner(Model):
    port: Annotated[int, Field(gt=0)] = 1
    words: list[str] = Field(default_factory=list)
    note: str | None = None


class Outer(Model):
    name: str
    inner: Inner = Inner()
    listed: list[Inner] = Field(default_factory=list)
    wait: float = 1.0
    sure: bool = False


def judged(text: str) -> list[str]:
    """Mistakes as people read them, without the name of the file."""
    reading = Reading.of(text, "f")
    if reading.tree is not None or not reading.problems:
        reading.judge(Outer)
    try:
        reading.finish()
    except BadFile as bad:
        return [str(problem).removeprefix("f:") for problem in bad.problems]
    return []


MISTAKES = [
    ("nothing", "", ["1:1: name: is missing"]),
    ("no mapping", "- a\n", ["1:1: has to be a mapping"]),
    ("a typo", "nam: a\n", ["1:1: name: is missing", "1:1: nam: unknown key"]),
    ("deep inside", "name: a\nlisted:\n  - {port: 2}\n  - {port: 0, prt: 1}\n",
     ["4:12: listed.1.port: should be greater than 0", "4:15: listed.1.prt: unknown key"]),
    ("no number for text", "name: 5\n", ["1:7: name: should be a valid string"]),
    ("no yes for a text", "name: yes\nsure: yes\n", ["2:7: sure: should be a valid boolean"]),
    ("no text for a number", "name: a\ninner: {port: '5'}\n",
     ["2:15: inner.port: should be a valid integer"]),
    ("no truth for a number", "name: a\nwait: true\n", ["2:7: wait: should be a valid number"]),
    ("no end of numbers", "name: a\nwait: .inf\n", ["2:7: wait: should be a finite number"]),
    ("no mapping for a list", "name: a\nlisted: {}\n", ["2:9: listed: has to be a list"]),
    ("twice", "name: a\nwait: 1\nname: b\n", ["3:1: name: the key is there twice"]),
    ("twice, and wrong", "name: 1\nname: b\n",
     ["1:7: name: should be a valid string", "2:1: name: the key is there twice"]),
    ("no value", "name: a\ninner:\nlisted:\n  -\n",
     ["2:1: inner: has no value: give it one, or leave it out",
      "4:4: listed.0: has no value: give it one, or leave it out"]),
    ("no value where none is needed", "name: a\ninner: {note: }\n",
     ["2:9: inner.note: has no value: give it one, or leave it out"]),
    ("nor a tilde", "name: ~\n", ["1:1: name: has no value: give it one, or leave it out"]),
    ("no such day", "name: 2027-02-30\nwait: x\n",
     ["1:7: name: is no number or date: quote it if it is text",
      "2:7: wait: should be a valid number"]),
    ("a number without end", f"name: {'9' * 5000}\n",
     ["1:7: name: is no number or date: quote it if it is text"]),
    ("YAML 1.1's marks", "name: =\ninner: {note: <<}\n",
     ["1:7: name: is no number or date: quote it if it is text",
      "2:15: inner.note: is no number or date: quote it if it is text"]),
    ("merged", "inner: &i {port: 2}\nlisted: [{<<: *i}]\nname: a\n",
     ["2:11: listed.0: mappings cannot be merged here; aliases of whole values can be used"]),
    ("no word for a key", "name: a\n? [x]\n: y\nwait: z\n",
     ["2:3: a key has to be a word", "4:7: wait: should be a valid number"]),
    ("two documents", "name: a\n---\nname: b\n", ["2:1: found another document"]),
    ("a tag", "name: !!str a\n",
     ["1:7: tags are not taken here: quote text that begins with !"]),
    ("on a list", "listed: !!python/object:os.system [x]\n",
     ["1:9: tags are not taken here: quote text that begins with !"]),
    ("on a mapping", "inner: !!python/object/apply:os.system {port: 1}\n",
     ["1:8: tags are not taken here: quote text that begins with !"]),
    ("an anchor twice", "name: &a x\ninner: &a {}\n", ["2:8: an anchor that is there already"]),
    ("bad syntax", "name: a\nwait: {\n",
     ["3:1: expected the node content, but found '<stream end>'"]),
    ("NUL", "name: a\nwait: \0\n", ["2:7: holds U+0000, which no YAML may"]),
    ("escape", "name: \x1b[2J\n", ["1:7: holds U+001B, which no YAML may"]),
    ("8-bit escape", "name: \x9b\n", ["1:7: holds U+009B, which no YAML may"]),
    ("not UTF-8", "# ä\nname: \udcff\n", ["2:7: is not UTF-8"]),
    ("control characters in a key", 'name: a\n"\\e[2J\\nx": 1\n',
     ["2:1: \\x1b[2J\\nx: unknown key"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES]
)
def test_each_mistake_has_its_place(text: str, told: list[str]) -> None:
    assert judged(text) == told


def test_what_is_right() -> None:
    text = "name: on\ninner: &i {port: 2, words: ['null', \"1\"]}\nlisted: [*i, *i]\nwait: 2\n"
    reading = Reading.of("\ufeff" + text.replace("\n", "\r\n"), "f")
    found = reading.judge(Outer)
    reading.finish()
    assert found is not None
    assert found.name == "on"
    assert [each.words for each in found.listed] == [["null", "1"], ["null", "1"]]
    assert reading.position(("listed", 1, "port")) == reading.position(("inner", "port")) == (2, 18)


@pytest.mark.parametrize("text", ["", "# only words\n", "---\n...\n", "null\n"])
def test_nothing_is_an_empty_mapping_at_the_top(text: str) -> None:
    class Anything(Model):
        size: int = 3

    reading = Reading.of(text, "f")
    assert reading.judge(Anything) == Anything(size=3)
    reading.finish()


SECRET = "hunter2"
SLIPS = [
    "*hunter2", "&hunter2 &x y", "&hunter2 x, b: &hunter2 y", "!hunter2 y", "!hun!hunter2 y",
    "!!int hunter2", "!!bool hunter2", "!!timestamp hunter2", "%hunter2", "@hunter2", "`hunter2",
    "|hunter2", "hunter2: x: [", "'hunter2", '"hunter2\\q"', "[hunter2", "{hunter2", "- hunter2",
    "hunter2\thunter2: x", "? hunter2", "hunter2 }}", "*hun'ter2\"hunter2",
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_the_pen_does_not_tell_the_secret(slip: str) -> None:
    with warnings.catch_warnings(record=True) as warned:
        told = judged(f"name: a\ninner: {{note: {slip}}}\n")
    assert told
    assert not [each for each in told if "hunt" in each or "ter2" in each]
    assert warned == []


def test_a_reading_does_not_show_what_it_read() -> None:
    assert SECRET not in repr(Reading.of(f"name: {SECRET}\n", "f"))


BILLION = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "listed: " + "[" * 200 + "]" * 200,
        "{a: " * 200 + "}" * 200,
        "\n".join(" " * depth + "-" for depth in range(200)),
        "? " * 200,
        "listed: &a [*a]\n",
        "listed: [" + "x," * 2000 + "]",
        "a: &a [x]\n" + BILLION,
    ],
    ids=["open", "lists", "mappings", "blocks", "keys", "itself", "wide", "billions"],
)
def test_bombs_do_not_go_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(marked, "MAX_NODES", 1000)
    assert [told.partition(" ")[2] for told in judged(text)] == ["too many values, or too deep"]


def test_as_deep_as_may_be() -> None:
    reading = Reading.of("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f")
    assert reading.problems == []


def test_a_long_file_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(marked, "MAX_FILE", 100)
    assert judged("name: " + "x" * 94) == []
    assert judged("name: " + "x" * 95) == ["1:1: is longer than 100 characters"]
    assert len(read_text(Path("/dev/zero"))) == 101, "however long it is"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(BadFile) as refused:
            read_text(path)
        assert str(refused.value) == f"{path}:1:1: cannot be read: {why}"


def test_other_encodings_are_refused_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for data, told in (
        ("# Grüße\nname: Jürgen\n".encode("latin-1"), "1:5: is not UTF-8"),
        ("name: a\n".encode("utf-16"), "1:1: is not UTF-8"),
        (b"name: a\nwait: \xed\xa0\x80\n", "2:7: is not UTF-8"),
    ):
        path.write_bytes(data)
        assert judged(read_text(path)) == [told]


YAMLISH = st.text(
    st.sampled_from("ab01 \n\t:-,[]{}#&*!|>'\"%@`?<=~.\\x\0\x1b\udcffé\u2028_eE+TZ/")
    | st.characters(),
    max_size=60,
)
PIECES = st.lists(
    st.sampled_from(
        ["name: ", "inner:", "  port: ", "listed:", "\n", "- ", "{", "}", "[", "]", ", ", "&a ",
         "*a", "!!int ", "<<: ", "? ", ": ", "|", ">-", "'", '"', "2027-13-45", "0x", ".inf",
         "1:2", "~", "=", "%YAML 1.1\n---\n", "---\n", "...\n", "#"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@settings(deadline=None)
@given(YAMLISH | PIECES)
@example("a: 2001-12-14t21:59:43.10-99:00")
@example("a: 2001-1-1 1:1:99")
@example("? - a\n: b")
@example("%TAG ! tag:x,2000:\n---\na: !b c")
def test_whatever_it_says_it_is_a_value_or_a_mistake(text: str) -> None:
    reading = Reading.of(text, "f")
    lines = text.count("\n") + 2
    assert reading.tree is None or reading.marks[()][0] >= 1
    if reading.problems == [] or reading.tree is not None:
        reading.judge(Outer)
    for problem in reading.problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert "\n" not in str(problem)


@given(
    st.recursive(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
        ),
    )
)
def test_json_is_read_as_what_it_is(value: object) -> None:
    assert Reading.of(json.dumps(value, ensure_ascii=False), "f").tree == value
