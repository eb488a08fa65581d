"""YAML documents whose every place knows its line, checked by JSON Schema with errors that read as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.errors import RecipeError, nearest

Path_ = tuple[str | int, ...]
MERGE = "tag:yaml.org,2002:merge"
"""Tag of the key `<<`, which brings the keys of another mapping."""
MAX_NODES = 200_000
"""Values a document may hold once its aliases are expanded; recipes have hundreds, alias bombs billions."""

MAX_BYTES = 10**6
"""Length of a document, in bytes; it would take PyYAML a minute to read more."""

MAX_DEPTH = 50
"""How deeply values may be nested; recipes have ten levels."""

MAX_DIGITS = 100
"""Length of a value that is no text: PyYAML takes hours for some numbers of a megabyte."""


@dataclass(frozen=True)
class Place:
    """A value in a document, with the way to it; `child` goes deeper, `error` says what is wrong there."""

    value: Any
    path: Path_ = ()
    file: str | None = None
    lines: Mapping[Path_, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What file names in the document are relative to."""
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
    """A path as people write it: ``models[1].parameters.weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def load_yaml(text: str, file: str | None = None) -> list[Place]:
    """Parse YAML documents of plain values; one without a value is left out, as after a last ``---``.

    Raises:
        RecipeError: not YAML, a tag that asks for a Python object, a key written twice, or aliases that expand beyond
            all measure.
    """
    import yaml

    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets chr() of any number fail
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
    """The one YAML document in a file, and the text."""
    places, text = load_documents(path)
    if not places:
        raise RecipeError("is empty", file=str(path))
    if len(places) > 1:
        raise places[1].error("is a second document; this file holds one")
    return places[0], text


def load_documents(path: Path) -> tuple[list[Place], str]:
    """The YAML documents in a file, and its text."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"is larger than {MAX_BYTES / 1e6:.0f} MB, which no recipe needs", file=str(path))
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError("there is no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"cannot be read as text: {cause}", file=str(path)) from None
    return load_yaml(text, str(path)), text


def _open_at_once(path: str, flags: int) -> int:
    """A recipe may come through a pipe; one that nobody writes to is empty, instead of waited for without end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


class _Builder:
    """Turns YAML nodes into plain values and notes the line of each."""

    def __init__(self, file: str | None) -> None:
        import yaml

        self.file, self.yaml, self.nodes = file, yaml, 0
        self.lines: dict[Path_, int] = {}
        self.open: set[int] = set()
        self.scalars = yaml.SafeLoader("")

    def lines_found(self) -> dict[Path_, int]:
        """The lines of the document that has been built; the next one begins without any."""
        lines, self.lines = self.lines, {}
        return lines

    def fail(self, node: Any, path: Path_, message: str) -> RecipeError:
        return RecipeError(message, file=self.file, line=node.start_mark.line + 1, path=spell(path))

    def build(self, node: Any, path: Path_) -> Any:
        self.nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self.nodes > MAX_NODES or id(node) in self.open:
            raise self.fail(node, path, "the YAML's aliases expand without end; write the values out")
        if len(path) > MAX_DEPTH:
            raise self.fail(node, (), f"the YAML is nested more than {MAX_DEPTH} levels deep, as no recipe is")
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
            raise self.fail(node, path, f"{node.tag!r} is not allowed here; write a plain value, or put it in quotes")
        if node.tag == "tag:yaml.org,2002:str":
            return node.value
        try:
            value = self.scalars.construct_object(node) if len(node.value) <= MAX_DIGITS else None
        except Exception:  # PyYAML lets through what its conversions raise: ValueError, KeyError, AttributeError
            value = None
        if value is None and node.tag != "tag:yaml.org,2002:null":
            raise self.fail(node, path, f"{show(node.value)} cannot be read as {node.tag!r}; put it in quotes")
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
                raise self.fail(key_node, path, f"the key {show(key)} must be text; put it in quotes")
            if key in result:
                raise self.fail(key_node, (*path, key), "this key is written twice; keep one")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, (*path, key))
        return {**merged, **result}

    def _merged(self, node: Any, path: Path_) -> dict[str, Any]:
        """What `<<` brings into a mapping: the keys of another, or of several, of which the first has its way."""
        result: dict[str, Any] = {}
        for item in reversed(node.value if isinstance(node, self.yaml.SequenceNode) else [node]):
            if not isinstance(item, self.yaml.MappingNode):
                raise self.fail(item, path, "'<<' takes a mapping, or a list of them")
            result.update(self.build(item, path))
        return result


def check(place: Place, schema: Mapping[str, Any]) -> None:
    """Check a value by a JSON Schema.

    Raises:
        RecipeError: the first thing that is wrong, as a sentence at its place.
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
        hint = nearest(key, known) or f"; known here: {', '.join(known)}"
        return place.child(key).error(f"unknown key {key!r}{hint}")
    if rule == "required":
        missing = next(key for key in wanted if key not in value)
        return place.error(f"{missing!r} is missing")
    return place.error(explain(rule, wanted, value))


def explain(rule: str, wanted: Any, value: Any) -> str:
    """What a JSON Schema rule asks of a value, as a sentence."""
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
    return f"is not right: {show(value)}"


KINDS = {
    "object": "a mapping", "array": "a list", "string": "text", "number": "a number",
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
    """A value in an error message: short, on one line."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        text = f"[{', '.join(map(show, value))}]"
        return "a list" if len(text) > 40 else text
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
