"""Build the JSON Schema of recipes with the parameters of all installed methods, for completion in editors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mergecore.api import Method
from mergecore.discovery import NO_VALUE, Parameter, declared
from mergecore.recipes.recipe import json_schema

PARAMETERS = {"$ref": "#/$defs/parameters"}
"""The reference that the recipe schema uses wherever a mapping of parameters is allowed."""

OF_MODEL = {"$ref": "#/$defs/parameters", "title": "of one model"}
"""The same reference next to a model, where only parameters with one value per model are allowed."""

NUMBER_AS_TEXT = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
"""YAML parses 1e-5 as a string. Recipes can use it for a number."""


def recipe_schema(methods: Mapping[str, type[Method]]) -> dict[str, Any]:
    """Return the schema for validating recipes, with the names, descriptions, and parameters of the methods.

    Args:
        methods: the methods, by the name used in `merge_method`.
    """
    schema: dict[str, Any] = json.loads(json.dumps(json_schema()))
    names = [{"const": name, "description": _summary(method)} for name, method in methods.items()]
    schema["properties"]["merge_method"] = {"description": "Name of a merge method.", "type": "string", "oneOf": names}
    where = _where(schema, schema)
    definitions = schema["$defs"]
    known = {name for method in methods.values() for name in (*declared(method), *method.ignored)}
    definitions["parameter-names"] = {"enum": sorted(known)}
    schema["allOf"] = []
    for name, method in methods.items():
        definitions[f"parameters-of-{name}"] = _parameters(method, definitions, of_model=False)
        definitions[f"parameters-of-{name}-for-one-model"] = _parameters(method, definitions, of_model=True)
        chosen = {"required": ["merge_method"], "properties": {"merge_method": {"const": name}}}
        schema["allOf"].append({"if": chosen, "then": _referring(where, name)})
    return schema


def schema_text(schema: Mapping[str, Any]) -> str:
    """Format a schema as JSON with one line per property, definition, and method, so that diffs are readable."""
    parts = []
    for key, value in schema.items():
        if isinstance(value, Mapping):
            lines = [f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items()]
            parts.append(f"{json.dumps(key)}: {{\n  " + ",\n  ".join(lines) + "\n}")
        elif isinstance(value, list):
            parts.append(f"{json.dumps(key)}: [\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _where(schema: Mapping[str, Any], whole: Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Return only the parts of a schema that lead to `parameters`, or None if there are none."""
    if schema == PARAMETERS:
        return dict(PARAMETERS)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return None if name in seen else _where(whole["$defs"][name], whole, (*seen, name))
    found: dict[str, Any] = {}
    properties = {key: _where(item, whole, seen) for key, item in schema.get("properties", {}).items()}
    if kept := {key: item for key, item in properties.items() if item is not None}:
        found["properties"] = {**kept, "parameters": OF_MODEL} if "model" in properties else kept
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping) and (inner := _where(schema[key], whole, seen)) is not None:
            found[key] = inner
    return found or None


def _referring(where: Any, name: str) -> Any:
    """Copy the result of `_where`, with references to the parameters of one method."""
    if where in (PARAMETERS, OF_MODEL):
        return {"$ref": f"#/$defs/parameters-of-{name}{'-for-one-model' if where == OF_MODEL else ''}"}
    return {key: _referring(item, name) for key, item in where.items()} if isinstance(where, dict) else where


def _parameters(method: type[Method], definitions: dict[str, Any], of_model: bool) -> dict[str, Any]:
    items = {name: item for name, item in declared(method).items() if item.per_model or not of_model}
    known = {name: _parameter(item, definitions) for name, item in items.items()}
    shared = set() if not of_model else {item.name for item in declared(method).values() if not item.per_model}
    refused = dict.fromkeys(sorted(shared), False)
    names = {"$ref": "#/$defs/parameter-names"}  # one that only other methods have is accepted, but has no effect
    return {"type": ["object", "null"], "properties": {**known, **refused}, "propertyNames": names}


def _parameter(item: Parameter, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter's setting. Parameters with the same type and range share a definition."""
    words = [str(word) for rule in item.schema.items() for word in rule]
    name = re.sub(r"[^\w.+-]+", "-", "-".join(words)).strip("-")
    definitions.setdefault(f"{name}-setting", _setting(_value(item)))
    default = {} if item.default is NO_VALUE else {"default": item.default}
    return {"description": item.doc, **default, "$ref": f"#/$defs/{name}-setting"}


def _setting(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a setting: a value, a list (gradient), or ``{filter, value}``.."""
    filtered = {
        "type": "object",
        "properties": {
            "filter": {"type": ["string", "null"], "description": "Text to look for in the weight's name."},
            "value": {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    gradient, rules = ({"type": "array", "items": item, "minItems": 1} for item in (value, filtered))
    return {"anyOf": [value, gradient, filtered, rules]}


def _value(item: Parameter) -> dict[str, Any]:
    """Return the parameter's schema, extended by the other forms that recipes can use."""
    kind, strict = item.schema.get("type"), dict(item.schema)
    if kind == "boolean":
        return {"anyOf": [strict, {"enum": [0, 1]}]}
    if kind == "number":
        return {"anyOf": [strict, {"type": "string", "pattern": NUMBER_AS_TEXT}]}
    return strict


def _summary(method: type[Method]) -> str:
    """Return the first paragraph of a method's docstring on one line."""
    return " ".join((method.__doc__ or "").strip().partition("\n\n")[0].split())
