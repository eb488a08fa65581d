"""Validate documents against JSON Schemas, with errors in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mergecore.documents import Place, show
from mergecore.errors import RecipeError, closest, nearest, raise_all

SEVERAL = ("additionalProperties", "required")
"""Rules of a mapping that are about its keys."""


def check(place: Place, schema: Mapping[str, Any], foreign: Mapping[str, str] | None = None) -> None:
    """Validate a value against a JSON Schema.

    Args:
        place: the value. Keys at its top that only hold values for aliases are allowed.
        schema: the schema.
        foreign: hints for keys that belong elsewhere, such as ``put it under 'parameters:'``.

    Raises:
        RecipeError: all errors found, each at its place in the document.
    """
    from jsonschema import Draft202012Validator

    found: list[RecipeError] = []
    explained = set()
    errors = Draft202012Validator(schema).iter_errors(place.value)
    for error in sorted(errors, key=lambda e: (len(e.absolute_path), [str(part) for part in e.absolute_path])):
        where = place
        for key in error.absolute_path:
            where = where.child(key)
        if error.validator not in SEVERAL:
            if where.path in explained:  # a value of the wrong type breaks other rules too
                continue
            explained.add(where.path)
        found += _sentences(error, where, where is place, foreign or {})
    raise_all(found)


def _sentences(error: Any, place: Place, top: bool, foreign: Mapping[str, str]) -> Iterator[RecipeError]:
    rule, wanted, value = error.validator, error.validator_value, error.instance
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for key in unknown_keys(value, error.schema):
            if not (top and place.child(key).is_helper):
                yield place.child(key).error(f"unknown key {key!r}{_hint(key, known, foreign)}", key=True)
    elif rule == "required":
        missing = next(key for key in wanted if key not in value and f"{key!r} is" in error.message)
        if missing not in {closest(key, wanted) for key in unknown_keys(value, error.schema)}:  # not just misspelled
            yield place.error(f"{missing!r} is missing")
    else:
        yield place.error(explain(rule, wanted, value))


def _hint(key: str, known: list[str], foreign: Mapping[str, str]) -> str:
    if key in foreign:
        return f"; {foreign[key]}"
    if hint := nearest(key, known):
        return hint
    close = closest(key, foreign)
    return f"; known keys: {', '.join(known)}" if close is None else f"; did you mean {close!r}? {foreign[close]}"


def unknown_keys(value: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Return the keys of a mapping that a schema does not describe."""
    patterns = schema.get("patternProperties", {})
    return [key for key in value if key not in schema.get("properties", {})
            and not any(re.search(pattern, key) for pattern in patterns)]  # fmt: skip


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
