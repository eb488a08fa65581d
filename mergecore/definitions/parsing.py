"""Parse an architecture definition from its JSON, checked against the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Any

from mergecore.definitions.config import Keys, Period
from mergecore.definitions.definition import Architecture, Module, Weight
from mergecore.documents import Place
from mergecore.errors import ArchitectureError, RecipeError
from mergecore.validation import check


@lru_cache(maxsize=1)
def json_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of architecture definitions."""
    schema: Mapping[str, Any] = json.loads(
        files("mergecore.definitions").joinpath("architecture.schema.json").read_text("utf-8")
    )
    return schema


def parse_definition(name: str, definition: Any, origin: str) -> Architecture:
    """Parse an architecture from its JSON.

    Args:
        name: class name as in config.json.
        definition: the parsed JSON.
        origin: the file or package that it comes from, for error messages.

    Raises:
        ArchitectureError: if it does not follow the schema, or lists a weight twice.
    """
    try:
        place = Place(definition)
        check(place, json_schema())
        modules = place.get("modules")
        if modules is not None and any(key in definition for key in ("layers", "before", "layer", "after")):
            raise modules.error("cannot be used together with weights at the top level; move them into a module")
        named = {"default": place} if modules is None else dict(modules.items())
        parsed = {key: _module(module, name.partition("/")[0]) for key, module in named.items()}
    except RecipeError as error:
        raise ArchitectureError(f"architecture {name} ({origin}): {error.errors[0]}") from None
    seen: set[str] = set()
    for label in (label for module in parsed.values() for weight in module.weights(1) for label in _labels(weight)):
        if label in seen:
            raise ArchitectureError(f"architecture {name} ({origin}): the weight {label!r} is listed twice; remove one")
        seen.add(label)
    if not seen:
        raise ArchitectureError(f"architecture {name} ({origin}): has no weights; list them in before, layer, or after")
    return Architecture(name, parsed, definition.get("prefixes", {}))


def _labels(weight: Weight) -> tuple[str, ...]:
    return (weight.name, *weight.aliases, *weight.parts)


def _module(place: Place, name: str) -> Module:
    value = place.value
    stack = value.get("layers")
    if bool(stack) is not bool(value.get("layer")):
        raise place.error("'layers' (how layers are named) and 'layer' (the weights in one) must be used together")
    return Module(
        before=_weights(value.get("before", ()), name),
        layer=_weights(value.get("layer", ()), name),
        after=_weights(value.get("after", ()), name),
        layers_key=_keys(stack["count"]) if stack else (),
        extra_key=_keys(stack.get("extra", ())) if stack else (),
        layer_prefix=stack["prefix"] if stack else "",
        layer_periods=tuple(_period(entry) for entry in value.get("layer_periods", ())),
        **{key: tuple(value.get(key, ())) for key in CONFIG_KEYS},
    )


CONFIG_KEYS = ("per_layer_config", "layer_numbers", "leading_layers")


def _period(entry: str | Mapping[str, Any]) -> Period:
    if isinstance(entry, str):
        return Period(entry)
    return Period(entry["key"], entry.get("default"), _keys(entry.get("unless", ())))


def _keys(value: str | Sequence[str]) -> Keys:
    return (value,) if isinstance(value, str) else tuple(value)


def _weights(entries: Sequence[str | Mapping[str, Any]], name: str) -> tuple[Weight, ...]:
    """Parse the entries of a list that apply to the class `name`."""
    whole = ({"name": entry} if isinstance(entry, str) else entry for entry in entries)
    return tuple(_weight(**entry) for entry in whole if any(fnmatchcase(name, p) for p in entry.get("classes", "*")))


def _weight(
    name: str,
    optional: bool | str = False,
    aliases: Sequence[str] = (),
    each: Mapping[str, str | Sequence[str]] | None = None,
    parts: Sequence[str] = (),
    classes: Sequence[str] = (),
    ignored: bool = False,
    **rest: Any,
) -> Weight:
    group = optional if isinstance(optional, str) else None
    counts = {word: _keys(keys) for word, keys in (each or {}).items()}
    return Weight(
        name,
        bool(optional) or ignored,
        tuple(aliases),
        group=group,
        each=counts,
        parts=tuple(parts),
        ignored=ignored,
        **rest,
    )
