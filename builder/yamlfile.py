"""A YAML file as plain data that still knows on which line each value stands.

Stricter than YAML, because what is read here becomes JSON, and part of a key: the keys of a mapping
are text and appear once, a date stays the text that somebody wrote, a number is one that JSON has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from builder.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Key = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_TEXT = {f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value", f"{_TAG}merge"}
# libyaml is five times faster; a PyYAML built without it reads the same language.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 50
_SYNTAX_HINTS = {
    "tab character": "indent with spaces",
    "cannot start any token": "indent with spaces; put text that begins with %, @ or ` in quotes",
    "mapping values are not allowed": "put text that holds a colon in quotes",
    "did not find expected": "is a quote or a bracket not closed, or a line indented wrongly?",
}


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file of the project that was read: its data, and its nodes for their lines.

    An empty file, or one with comments only, has None for both.
    """

    path: Path
    data: Any
    root: Node | None

    def line(self, key: Key) -> int | None:
        """Return the line of a key; of the nearest one above it where it does not exist."""
        line, node = None, self.root
        for part in key:
            found = _step(node, part)
            if not found:
                break
            line, node = _line(found[0]), found[1]
        return line

    def problem(self, key: Key, message: str, hint: str | None = None) -> Problem:
        """Return a problem at ``key`` of this file."""
        return Problem(self.path, message, line=self.line(key), key=dotted(key), hint=hint)


def dotted(key: Key) -> str | None:
    """Return a key as a person writes it: ``roles.2.variables``."""
    return ".".join(str(part) for part in key) or None


def parse(path: Path, content: bytes) -> tuple[YamlFile | None, list[Problem]]:
    """Read a file's content; without data when it is no YAML at all."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [Problem(path, "is not UTF-8 text", line=line)]
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(path, error)]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(path, "contains a control character", line=line)]
    reader = _Reader(path)
    data = None if root is None else reader.read(root)
    return YamlFile(path, data, root), reader.problems


def _syntax_problem(path: Path, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    words = " ".join(part for part in (error.problem, error.context) if part)
    hint = next((hint for sign, hint in _SYNTAX_HINTS.items() if sign in words), None)
    return Problem(path, f"is not YAML: {words}", line=mark.line + 1 if mark else None, hint=hint)


class _Reader:
    """Turns nodes into data, and collects what is wrong with them on the way."""

    def __init__(self, path: Path) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._open: list[Node] = []
        self._scalars = SafeConstructor()

    def read(self, node: Node, key: Key = ()) -> Any:
        if node in self._open:
            self._wrong(node, key, "contains itself")
            return None
        if len(self._open) > _DEEPEST:
            self._wrong(node, key[:1], "is nested too deeply")
            return None
        self._open.append(node)
        try:
            return self._value(node, key)
        finally:
            self._open.pop()

    def _value(self, node: Node, key: Key) -> Any:
        if isinstance(node, MappingNode):
            return self._mapping(node, key)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*key, at)) for at, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: MappingNode, key: Key) -> dict[str, Any]:
        for name, place, first in _repeated(node):
            self._wrong(place, (*key, name), f"appears twice; first on line {first}")
        try:
            self._scalars.flatten_mapping(node)  # "<<: *anchor"
        except ConstructorError as error:
            self._wrong(node, key, f"cannot be merged: {error.problem}")
        names = [self._name(name, key) for name, _ in node.value]
        values = (value for _, value in node.value)
        return {
            name: self.read(value, (*key, name)) for name, value in zip(names, values, strict=True)
        }

    def _name(self, node: Node, key: Key) -> str:
        if isinstance(node, ScalarNode) and node.tag in _TEXT:
            return str(node.value)
        shown = node.value if isinstance(node, ScalarNode) else "a list or mapping"
        self._wrong(node, (*key, shown), "a key must be text", hint="put it in quotes")
        return str(shown)

    def _scalar(self, node: Node, key: Key) -> Any:
        if node.tag in _TEXT:
            return node.value
        if node.tag.removeprefix(_TAG) not in {"int", "float", "bool", "null"}:
            tag = node.tag.replace(_TAG, "!!")
            self._wrong(node, key, f"the tag {tag} is not known here", hint="write plain values")
            return None
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, LookupError):
            self._wrong(node, key, f"is no {node.tag.removeprefix(_TAG)}", hint="put it in quotes")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._wrong(node, key, "is not a finite number")
        return value

    def _wrong(self, node: Node, key: Key, message: str, *, hint: str | None = None) -> None:
        problem = Problem(self._path, message, line=_line(node), key=dotted(key), hint=hint)
        self.problems.append(problem)


def _repeated(node: MappingNode) -> Iterator[tuple[str, Node, int]]:
    """Yield each key that stands in the mapping again: its name, place and first line."""
    first: dict[str, int] = {}
    for name, _ in node.value:
        if isinstance(name, ScalarNode) and name.tag != f"{_TAG}merge":
            if name.value in first:
                yield name.value, name, first[name.value]
            first.setdefault(name.value, _line(name))


def _step(node: Node | None, part: str | int) -> tuple[Node, Node] | None:
    """Return the node whose line names ``part`` of ``node``, and the node of its value."""
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    if isinstance(node, MappingNode):
        found = [pair for pair in node.value if pair[0].value == part]
        return found[-1] if found else None
    return None


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
