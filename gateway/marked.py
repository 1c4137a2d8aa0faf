"""YAML whose every value knows its line and column, and models that judge it.

A :class:`Reading` is one file on its way to being believed: mistakes are collected as they
are found, and all of them are raised at once. What is wrong is told by its place and never
by what stands there, which may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

from attrs import define, field
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from gateway.errors import BadFile, Problem

MAX_FILE = 16 << 20  # characters: 80,000 users with their verifiers
MAX_NODES = 1_000_000  # values: those 80,000 users have; each takes up to two kilobytes
MAX_DEPTH = 100  # levels: ours need eight, and Python's own stack ends at a thousand

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, from 1."""

M = TypeVar("M", bound="Model")


class Model(BaseModel):
    """What a mapping in a file may hold: no other keys, no types made to fit."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def read_text(path: FilePath) -> str:
    """What a file says, as far as a :class:`Reading` wants to know.

    Bytes that are not UTF-8 come as surrogates, which it refuses where they stand.

    :raises BadFile: it cannot be read
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MAX_FILE + 1)
    except OSError as wrong:
        message = f"cannot be read: {wrong.strerror}"
        raise BadFile.about(path, message) from None


@define
class Reading:
    """:ivar tree: what the file says, in plain values; None where it cannot be read
    :ivar marks: where each value stands, in the order of the file; ``keys``: where its key does
    """

    file: str
    tree: Any = field(default=None, repr=False)
    marks: dict[Path, Mark] = field(factory=dict)
    keys: dict[Path, Mark] = field(factory=dict)
    problems: list[Problem] = field(factory=list)
    _told: set[Path] = field(factory=set, init=False)

    @classmethod
    def of(cls, text: str, file: str) -> Reading:
        """Read *text*; duplicate keys and bad syntax are among the problems."""
        reading = cls(file)
        if len(text) > MAX_FILE:
            reading.complain((), f"is longer than {MAX_FILE} characters")
            return reading
        try:
            reading.tree = _Walk(reading).read(text)
        except YAMLError as wrong:
            reading.problems.append(Problem(file, *_place(wrong, text), "", _said(wrong)))
        return reading

    def complain(self, path: Path, message: str, *, key: bool = False) -> None:
        """Add the mistake at *path*: of several the first, which the others may come of.

        :param key: what is wrong is the key, not its value
        """
        if path not in self._told:
            self._told.add(path)
            line, column = self.position(path, key=key)
            self.problems.append(Problem(self.file, line, column, dotted(path), message))

    def position(self, path: Path, *, key: bool = False) -> Mark:
        """Where *path* stands, or the nearest value around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))

    def judge(self, model: type[M], path: Path = ()) -> M | None:
        """What stands at *path* as a *model*; None if it has mistakes."""
        value = self.tree
        for part in path:
            value = value[part]
        try:
            return model.model_validate({} if value is None and not path else value)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                where = self._known((*path, *error["loc"]))
                self.complain(where, _words(error), key=error["type"] == "extra_forbidden")
            return None
        finally:
            self._empty(value, path)

    def _empty(self, value: Any, path: Path) -> None:
        """Complain where nothing is written: it can mean "no limit", or have been forgotten."""
        if path in self._told:
            return
        members = value.items() if isinstance(value, dict) else ()
        items = enumerate(value) if isinstance(value, list) else ()
        for part, item in (*members, *items):
            if item is None:
                self.complain((*path, part), _EMPTY)
            else:
                self._empty(item, (*path, part))

    def _known(self, path: Path) -> Path:
        """Without the names that pydantic gives to its own steps on the way."""
        known: Path = ()
        for place, part in enumerate(path):
            last = place == len(path) - 1
            if (*known, part) in self.marks or (last and isinstance(part, str)):
                known = (*known, part)
        return known

    def finish(self) -> None:
        """:raises BadFile: there are mistakes; in the order of the file"""
        if self.problems:
            ordered = sorted(self.problems, key=lambda each: (each.line, each.column))
            raise BadFile(tuple(dict.fromkeys(ordered)))


class _Schema(GenerateJsonSchema):
    """Without null, which nobody may write."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        needless = schema.get("default", ...) is None
        return self.generate_inner(schema["schema"]) if needless else super().default_schema(schema)


def json_schema(model: type[Model], title: str) -> dict[str, Any]:
    """For editors and other tools."""
    schema = model.model_json_schema(schema_generator=_Schema)
    return {"$schema": _Schema.schema_dialect, **schema, "title": title}


def dotted(path: Iterable[str | int]) -> str:
    return ".".join(map(str, path))


class _Composer(Composer):
    """YAML's nodes, of what plain values need: no tags, and no more than can be held."""

    nodes = depth_here = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        self.nodes += 1
        self.depth_here += 1
        if self.nodes > MAX_NODES or self.depth_here > MAX_DEPTH:
            raise _error(event, "too many values, or too deep")
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise _error(event, "an alias of nothing: quote text that begins with *")
        elif event.tag is not None:
            raise _error(event, "tags are not taken here: quote text that begins with !")
        elif event.anchor in self.anchors:
            raise _error(event, "an anchor that is there already")
        node = super().compose_node(parent, index)
        self.depth_here -= 1
        return node


class _Walk:
    """From YAML's nodes to plain values, noting where each stands."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._nodes = 0
        self._constructor: SafeConstructor

    def read(self, text: str) -> Any:
        yaml = YAML(typ="safe", pure=True)
        yaml.Composer = _Composer
        self._constructor = yaml.constructor
        node = yaml.compose(text)
        return None if node is None else self._value(node, ())

    def _value(self, node: Node, path: Path) -> Any:
        self._nodes += 1  # once more: aliases are followed, and a few lines can name billions
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _error(node, "too many values, or too deep")
        self._reading.marks[path] = _mark(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, place)) for place, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: Node, path: Path) -> Any:
        try:
            return self._constructor.construct_object(node)
        except (ConstructorError, ValueError, OverflowError):
            self._reading.complain(path, "is no number or date: quote it if it is text")
            return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in node.value:
            if wrong := _wrong_key(key):
                self._complain(key, path, wrong)
            elif key.value in result:
                self._complain(key, (*path, key.value), "the key is there twice")
            else:
                result[key.value] = self._member(key, item, (*path, key.value))
        return result

    def _member(self, key: Node, item: Node, path: Path) -> Any:
        self._reading.keys[path] = _mark(key)
        value = self._value(item, path)
        if value is None:  # where nothing is written, the next line begins
            self._reading.marks[path] = _mark(key)
        return value

    def _complain(self, node: Node, path: Path, message: str) -> None:
        problem = Problem(self._reading.file, *_mark(node), dotted(path), message)
        self._reading.problems.append(problem)


def _wrong_key(key: Node) -> str | None:
    if not isinstance(key, ScalarNode):
        return "a key has to be a word"
    if key.value == "<<":
        return "mappings cannot be merged here; aliases of whole values can be used"
    return None


def _mark(node: Any) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _error(node: Any, words: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=words, problem_mark=node.start_mark)


def _place(wrong: YAMLError, text: str) -> Mark:
    if isinstance(wrong, ReaderError):
        before = text[: wrong.position]
        return before.count("\n") + 1, len(before) - before.rfind("\n")
    mark = getattr(wrong, "problem_mark", None) or getattr(wrong, "context_mark", None)
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1).)*)\1""")
_MARKS = re.compile(r"<[a-z ]+>|\\?.|\\[xuU][0-9a-f]+")  # a token's name, or one character


def _said(wrong: YAMLError) -> str:
    """The parser's words, without those of the file that it repeats."""
    if isinstance(wrong, ReaderError):
        surrogate = 0xD800 <= wrong.character <= 0xDFFF
        return "is not UTF-8" if surrogate else f"holds U+{wrong.character:04X}, which no YAML may"
    said = str(getattr(wrong, "problem", None) or "is not YAML").removeprefix("but ")
    return _QUOTED.sub(lambda found: found[0] if _MARKS.fullmatch(found[2]) else "…", said)


_SAID: Mapping[str, str] = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "model_type": "has to be a mapping",
    "dict_type": "has to be a mapping",
    "list_type": "has to be a list",
    "too_short": "may not be empty",
    "string_too_short": "may not be empty",
}
_EMPTY = "has no value: give it one, or leave it out"


def _words(error: Any) -> str:
    if error["input"] is None and error["type"] != "extra_forbidden":
        return _EMPTY
    said = _SAID.get(error["type"])
    return said or str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
