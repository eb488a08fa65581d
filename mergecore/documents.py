"""Load YAML documents that know where in the text each value is, for errors that point to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mergecore.errors import Excerpt, RecipeError
from mergecore.system import AT_ONCE, open_raw

Path_ = tuple[str | int, ...]
MERGE = "tag:yaml.org,2002:merge"
"""Tag of the key `<<`, which merges in the keys of another mapping."""
MAX_NODES = 200_000
"""Maximum number of values after alias expansion. Recipes have hundreds, and alias bombs have billions."""

MAX_BYTES = 10**6
"""Maximum size of a document in bytes. PyYAML needs a minute for this much."""

MAX_DEPTH = 50
"""Maximum nesting depth. Recipes have about ten levels."""

MAX_DIGITS = 100
"""Maximum length of a value that is not a string. PyYAML takes hours to parse some one-megabyte numbers."""


class Span(NamedTuple):
    """A part of one line of a document. `line` and the columns `start` and `end` start at 0."""

    line: int
    start: int
    end: int


@dataclass
class Marks:
    """Where the values of a document are in its text.

    Attributes:
        lines: the lines of the text.
        keys: the key of each value of a mapping.
        values: each value that starts on the line of its key, and each item of a list.
        aliased: the values that are used again elsewhere with an alias.
    """

    lines: list[str] = field(default_factory=list)
    keys: dict[Path_, Span] = field(default_factory=dict)
    values: dict[Path_, Span] = field(default_factory=dict)
    aliased: set[Path_] = field(default_factory=set)

    def find(self, path: Path_, key: bool) -> Span | None:
        """Return the part of the text that a path points to, or else its nearest parent with one."""
        for count in range(len(path), -1, -1):
            part = path[:count]
            span = self.keys.get(part) if key or part not in self.values else self.values[part]
            if span is not None:
                return span
        return self.values.get(())


@dataclass(frozen=True)
class Place:
    """A value in a document with its path. `child` descends one level, and `error` creates an error for this place."""

    value: Any
    path: Path_ = ()
    file: str | None = None
    marks: Marks = field(default_factory=Marks)

    @property
    def folder(self) -> Path:
        """The folder that file names in the document are relative to."""
        return Path(self.file).parent if self.file else Path()

    def child(self, key: str | int) -> Place:
        return Place(self.value[key], (*self.path, key), self.file, self.marks)

    def items(self) -> Iterable[tuple[str, Place]]:
        return ((key, self.child(key)) for key in self.value)

    def elements(self) -> list[Place]:
        return [self.child(index) for index in range(len(self.value))]

    def get(self, key: str) -> Place | None:
        return self.child(key) if key in self.value else None

    def error(self, message: str, *, key: bool = False) -> RecipeError:
        """Create an error about the value at this place, or about its key."""
        return _error(message, self.file, self.marks.lines, self.marks.find(self.path, key), self.path)

    @property
    def is_helper(self) -> bool:
        """True if the value is only there to be used elsewhere with an alias, or contains only such values."""
        if self.path in self.marks.aliased:
            return True
        inner = [item for _, item in self.items()] if isinstance(self.value, Mapping) else []
        inner = self.elements() if isinstance(self.value, list) else inner
        return bool(inner) and all(item.is_helper for item in inner)


def _error(message: str, file: str | None, lines: list[str], span: Span | None, path: Path_) -> RecipeError:
    line = None if span is None else span.line + 1
    shown = Excerpt(lines[span.line], span.start, span.end) if span and span.line < len(lines) else None
    return RecipeError(message, file=file, line=line, path=spell(path), excerpt=shown)


def spell(path: Path_) -> str:
    """Format a path for display, such as ``models[1].parameters.weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def load_yaml(text: str, file: str | None = None) -> list[Place]:
    """Parse YAML documents that contain plain values. Skip empty documents, such as after a trailing ``---``.

    Raises:
        RecipeError: if the text is not valid YAML, uses a tag for a Python object, repeats a key, or has aliases that
            expand to too many values.
    """
    import yaml

    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text)  # the line breaks of YAML 1.1
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML does not catch errors from chr()
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        span = Span(mark.line, mark.column, mark.column + 1) if mark else None
        raise _error(f"this is not valid YAML: {problem}", file, lines, span, ()) from None
    except RecursionError:
        raise RecipeError("the YAML is nested too deeply", file=file) from None
    builder = _Builder(file, lines)
    places = [Place(builder.build(node, ()), (), file, builder.marks_found()) for node in nodes]
    return [place for place in places if place.value is not None]


def load_file(path: Path) -> tuple[Place, str]:
    """Load a file with exactly one YAML document. Return the document and the text."""
    places, text = load_documents(path)
    if not places:
        raise RecipeError("the file is empty", file=str(path))
    if len(places) > 1:
        raise places[1].error("a second YAML document starts here; this file can only have one")
    return places[0], text


def load_documents(path: Path) -> tuple[list[Place], str]:
    """Load the YAML documents in a file. Return the documents and the text."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"the file exceeds the limit of {MAX_BYTES / 1e6:.0f} MB for recipes", file=str(path))
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError("no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"cannot be read as text: {cause}", file=str(path)) from None
    return load_yaml(text, str(path)), text


def _open_at_once(path: str, flags: int) -> int:
    """Open without blocking, so that a recipe from a pipe without a writer reads as empty instead of hanging."""
    descriptor = open_raw(path, flags | AT_ONCE)
    if AT_ONCE:
        os.set_blocking(descriptor, True)
    return descriptor


PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


class _Builder:
    """Converts YAML nodes to plain values and records where each value is."""

    def __init__(self, file: str | None, lines: list[str]) -> None:
        import yaml

        self.file, self.lines, self.yaml, self.nodes = file, lines, yaml, 0
        self.marks = Marks(lines)
        self.first: dict[int, Path_] = {}
        self.open: set[int] = set()
        self.scalars = yaml.SafeLoader("")

    def marks_found(self) -> Marks:
        """Return the marks of the document built last, and reset them for the next document."""
        marks, self.marks, self.first = self.marks, Marks(self.lines), {}
        return marks

    def fail(self, node: Any, path: Path_, message: str) -> RecipeError:
        return _error(message, self.file, self.lines, self._span(node), path)

    def _span(self, node: Any) -> Span:
        start, end = node.start_mark, node.end_mark
        rest = len("".join(self.lines[start.line : start.line + 1]))
        return Span(start.line, start.column, end.column if end.line == start.line else rest)

    def build(self, node: Any, path: Path_) -> Any:
        self.nodes += 1
        span, key = self._span(node), self.marks.keys.get(path)
        if key is None or key.line == span.line:
            self.marks.values.setdefault(path, span)
        if (first := self.first.setdefault(id(node), path)) != path:
            self.marks.aliased.add(first)
        if self.nodes > MAX_NODES or id(node) in self.open:
            raise self.fail(node, path, "the YAML aliases expand to too many values; write the values out")
        if len(path) > MAX_DEPTH:
            raise self.fail(node, (), f"the YAML is nested too deeply (more than {MAX_DEPTH} levels)")
        self.open.add(id(node))
        try:
            return self._value(node, path)
        finally:
            self.open.discard(id(node))

    def _value(self, node: Any, path: Path_) -> Any:
        if node.tag == "tag:yaml.org,2002:seq" and isinstance(node, self.yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag == "tag:yaml.org,2002:map" and isinstance(node, self.yaml.MappingNode):
            return self._mapping(node, path)
        if not isinstance(node, self.yaml.ScalarNode) or node.tag not in PLAIN_TAGS:
            raise self.fail(node, path, f"{node.tag!r} is not allowed here; write a plain value, or quote it")
        if node.tag == "tag:yaml.org,2002:str":
            return node.value
        try:
            value = self.scalars.construct_object(node) if len(node.value) <= MAX_DIGITS else None
        except Exception:  # PyYAML does not catch errors in conversions, such as ValueError, KeyError, AttributeError
            value = None
        if value is None and node.tag != "tag:yaml.org,2002:null":
            raise self.fail(node, path, f"{show(node.value)} cannot be parsed as {node.tag!r}; put it in quotes")
        if type(value) is int and abs(value) >= 2**63:
            raise self.fail(node, path, f"the number {show(value)} is too large")
        return value

    def _mapping(self, node: Any, path: Path_) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        result: dict[str, Any] = {}
        for value_node in (value for key, value in node.value if key.tag == MERGE):
            merged.update(self._merged(value_node, path))
        for key_node, value_node in ((key, value) for key, value in node.value if key.tag != MERGE):
            key = self.build(key_node, path)
            if not isinstance(key, str):
                raise self.fail(key_node, path, f"the key {show(key)} must be a string; put it in quotes")
            if key in result:
                raise self.fail(key_node, (*path, key), "duplicate key; keep only one")
            self.marks.keys[(*path, key)] = self._span(key_node)
            self.marks.values.pop((*path, key), None)  # of a value that this one takes the place of
            result[key] = self.build(value_node, (*path, key))
        return {**merged, **result}

    def _merged(self, node: Any, path: Path_) -> dict[str, Any]:
        """Return the keys that `<<` merges in from one or more mappings. The first mapping takes precedence."""
        result: dict[str, Any] = {}
        for item in reversed(node.value if isinstance(node, self.yaml.SequenceNode) else [node]):
            if not isinstance(item, self.yaml.MappingNode):
                raise self.fail(item, path, "'<<' takes a mapping, or a list of them")
            result.update(self.build(item, path))
        return result


def show(value: Any) -> str:
    """Format a value for an error message, shortened to fit on one line."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        text = f"[{', '.join(map(show, value))}]"
        return "a list" if len(text) > 40 else text
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
