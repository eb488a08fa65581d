"""Load YAML documents with line numbers for every value, and validate them with readable JSON Schema errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.errors import RecipeError, nearest

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


@dataclass(frozen=True)
class Place:
    """A value in a document with its path. `child` descends one level, and `error` creates an error for this place."""

    value: Any
    path: Path_ = ()
    file: str | None = None
    lines: Mapping[Path_, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that file names in the document are relative to."""
        return Path(self.file).parent if self.file else Path()

    def child(self, key: str | int) -> Place:
        return Place(self.value[key], (*self.path, key), self.file, self.lines)

    def items(self) -> Iterable[tuple[str, Place]]:
        return ((key, self.child(key)) for key in self.value)

    def elements(self) -> list[Place]:
        return [self.child(index) for index in range(len(self.value))]

    def get(self, key: str) -> Place | None:
        return self.child(key) if key in self.value else None

    def error(self, message: str) -> RecipeError:
        line = next((self.lines[p] for n in range(len(self.path), -1, -1) if (p := self.path[:n]) in self.lines), None)
        return RecipeError(message, file=self.file, line=line, path=spell(self.path))


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

    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML does not catch errors from chr()
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else None
        raise RecipeError(f"this is not valid YAML: {problem}", file=file, line=line) from None
    except RecursionError:
        raise RecipeError("the YAML is nested too deeply", file=file) from None
    builder = _Builder(file)
    places = [Place(builder.build(node, ()), (), file, builder.lines_found()) for node in nodes]
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
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


class _Builder:
    """Converts YAML nodes to plain values and records the line of each value."""

    def __init__(self, file: str | None) -> None:
        import yaml

        self.file, self.yaml, self.nodes = file, yaml, 0
        self.lines: dict[Path_, int] = {}
        self.open: set[int] = set()
        self.scalars = yaml.SafeLoader("")

    def lines_found(self) -> dict[Path_, int]:
        """Return the line numbers of the document built last, and reset them for the next document."""
        lines, self.lines = self.lines, {}
        return lines

    def fail(self, node: Any, path: Path_, message: str) -> RecipeError:
        return RecipeError(message, file=self.file, line=node.start_mark.line + 1, path=spell(path))

    def build(self, node: Any, path: Path_) -> Any:
        self.nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
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
            self.lines[(*path, key)] = key_node.start_mark.line + 1
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


def check(place: Place, schema: Mapping[str, Any]) -> None:
    """Validate a value against a JSON Schema.

    Raises:
        RecipeError: the first error found, at its place in the document.
    """
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(place.value)
    for error in sorted(errors, key=lambda e: (len(e.absolute_path), [str(part) for part in e.absolute_path])):
        where = place
        for key in error.absolute_path:
            where = where.child(key)
        raise _sentence(error, where)


def _sentence(error: Any, place: Place) -> RecipeError:
    rule, wanted, value = error.validator, error.validator_value, error.instance
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        key = next(key for key in value if key not in known)
        hint = nearest(key, known) or f"; known keys: {', '.join(known)}"
        return place.child(key).error(f"unknown key {key!r}{hint}")
    if rule == "required":
        missing = next(key for key in wanted if key not in value)
        return place.error(f"{missing!r} is missing")
    return place.error(explain(rule, wanted, value))


def explain(rule: str, wanted: Any, value: Any) -> str:
    """Explain in words why a value violates a JSON Schema rule."""
    if rule == "type":
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        return f"must be {' or '.join(KINDS[name] for name in names)}, not {show(value)}"
    if rule == "enum":
        hint = nearest(value, [w for w in wanted if isinstance(w, str)]) if isinstance(value, str) else ""
        return f"must be one of {', '.join(str(w) for w in wanted)}, not {show(value)}{hint}"
    if rule in ("minItems", "minLength", "minProperties") and not value:
        return "must not be empty"
    if rule in RULES:
        bound = f"{wanted:g}" if isinstance(wanted, float) else wanted
        return f"must {RULES[rule].format(bound)}, not {show(value)}"
    return f"invalid value: {show(value)}"


KINDS = {
    "object": "a mapping", "array": "a list", "string": "a string", "number": "a number",
    "integer": "a whole number", "boolean": "true or false", "null": "empty",
}  # fmt: skip
RULES = {
    "minimum": "be at least {}",
    "maximum": "be at most {}",
    "minItems": "have at least {} items",
    "maxItems": "have at most {} items",
    "pattern": "match {}",
}


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
