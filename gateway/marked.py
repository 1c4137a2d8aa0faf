"""YAML whose every value knows its line and column, and models that judge it.

A :class:`Reading` is one file on its way to being believed: mistakes are collected as they
are found, and all of them are raised at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

from attrs import define, field
from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.errors import BadFile, Problem

MAX_FILE = 16 << 20  # characters: an objects file of 100,000 users fits
MAX_NODES = 5_000_000  # values after aliases are followed: a few lines can name billions
MAX_DEPTH = 100  # levels: ours need eight, and Python's own stack ends at a thousand

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, from 1."""

M = TypeVar("M", bound="Model")


class Model(BaseModel):
    """What a mapping in a file may hold: no other keys, no types made to fit."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, hide_input_in_errors=True
    )


@define
class Reading:
    """:ivar tree: what the file says, in plain values; None where it cannot be read"""

    file: str
    tree: Any = None
    marks: dict[Path, Mark] = field(factory=dict)
    keys: dict[Path, Mark] = field(factory=dict)
    problems: list[Problem] = field(factory=list)

    @classmethod
    def of(cls, text: str, file: str) -> Reading:
        """Read *text*; duplicate keys and bad syntax are among the problems."""
        reading = cls(file)
        if len(text) > MAX_FILE:
            reading.complain((), f"is longer than {MAX_FILE} characters")
            return reading
        try:
            _Walk(reading).read(text)
        except YAMLError as wrong:
            reading._syntax(wrong)
        except RecursionError:
            reading.tree = None
            reading.complain((), "is nested too deep")
        return reading

    @classmethod
    def open(cls, path: FilePath) -> Reading:
        """As :meth:`of`; a file that cannot be read is a problem like any other."""
        try:
            return cls.of(path.read_text(encoding="utf-8"), str(path))
        except OSError as wrong:
            message = f"cannot be read: {wrong.strerror}"
        except UnicodeDecodeError as wrong:
            message = f"is not UTF-8: {wrong.reason} at byte {wrong.start}"
        return cls(str(path), problems=[Problem(str(path), 1, 1, "", message)])

    def _syntax(self, wrong: YAMLError) -> None:
        mark = getattr(wrong, "problem_mark", None) or getattr(wrong, "context_mark", None)
        said = getattr(wrong, "problem", None) if isinstance(wrong, MarkedYAMLError) else None
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        words = str(said or "is not YAML").strip()
        self.tree = None
        self.problems.append(Problem(self.file, line, column, "", words))

    def complain(self, path: Path, message: str, *, key: bool = False) -> None:
        """Add a mistake at *path*; *key*: what is wrong is the key, not its value."""
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
            for error in invalid.errors(include_url=False, include_input=False):
                where = self._known((*path, *error["loc"]))
                unknown = error["type"] == "extra_forbidden"
                self.complain(where, _words(error), key=unknown)
            return None

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


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


class _Walk:
    """From YAML's nodes to plain values, noting where each stands."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._nodes = 0
        self._constructor: SafeConstructor

    def read(self, text: str) -> None:
        yaml = YAML(typ="safe", pure=True)
        self._constructor = yaml.constructor
        node = yaml.compose(text)
        self._reading.tree = None if node is None else self._value(node, ())

    def _value(self, node: Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _error(node, "too many values, or too deep")
        self._reading.marks[path] = _mark(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, place)) for place, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: Node) -> Any:
        try:
            return self._constructor.construct_object(node)
        except ConstructorError:
            raise
        except (ValueError, OverflowError) as wrong:  # a date that is none
            raise _error(node, str(wrong)) from wrong

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in node.value:
            name = self._key(key)
            below = (*path, name)
            if name in result:
                line, column = _mark(key)
                problem = Problem(
                    self._reading.file, line, column, dotted(below), "the key is there twice"
                )
                self._reading.problems.append(problem)
                continue
            self._reading.keys[below] = _mark(key)
            result[name] = self._value(item, below)
        return result

    def _key(self, key: Node) -> str:
        if not isinstance(key, ScalarNode):
            raise _error(key, "a key has to be a word")
        if key.value == "<<":
            raise _error(key, "mappings cannot be merged here; aliases of whole values can be used")
        return str(key.value)


def _mark(node: Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _error(node: Node, words: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=words, problem_mark=node.start_mark)


_SAID: Mapping[str, str] = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "model_type": "has to be a mapping",
    "dict_type": "has to be a mapping",
    "list_type": "has to be a list",
}


def _words(error: Any) -> str:
    said = _SAID.get(error["type"])
    return said or str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
