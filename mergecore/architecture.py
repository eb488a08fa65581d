"""Architecture definitions: from their JSON to the weights that a checkpoint must have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from mergecore.documents import Place, check
from mergecore.errors import ArchitectureError, RecipeError

MAX_LAYERS = 10_000
"""More layers than any model has; a config.json that claims billions would be counted without end."""


@dataclass(frozen=True)
class Weight:
    """One weight of an architecture; names are whole, the layer's number filled in.

    Attributes:
        name: as checkpoints of this class are written.
        optional: checkpoints may lack it.
        aliases: other names of it in checkpoints.
        tied_to: the weight that stands for it where a checkpoint lacks it.
        vocabulary_axis: the axis with one entry a token, if it has one.
    """

    name: str
    optional: bool = False
    aliases: tuple[str, ...] = ()
    tied_to: str | None = None
    vocabulary_axis: int | None = None

    @property
    def may_lack(self) -> bool:
        return self.optional or self.tied_to is not None


@dataclass(frozen=True)
class Module:
    """The weights before, in and after one stack of layers."""

    before: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    after: tuple[Weight, ...]
    layers_key: str
    layer_prefix: str
    per_layer_config: tuple[str, ...]

    def in_layer(self, index: int) -> Iterator[Weight]:
        """The weights of layer `index`, with their whole names."""
        prefix = self.layer_prefix.replace("{layer}", str(index))
        for weight in self.layer:
            aliases = tuple(prefix + alias for alias in weight.aliases)
            tied_to = prefix + weight.tied_to if weight.tied_to is not None else None
            yield Weight(prefix + weight.name, weight.optional, aliases, tied_to, weight.vocabulary_axis)

    def weights(self, layers: int) -> Iterator[Weight]:
        """Every weight of a checkpoint with `layers` layers, in order."""
        yield from self.before
        for index in range(layers):
            yield from self.in_layer(index)
        yield from self.after

    def layer_count(self, config: Mapping[str, Any], model: str) -> int:
        """The number of layers that a model's config.json states.

        Raises:
            ArchitectureError: config.json has no such number.
        """
        count = get_key(config, self.layers_key)
        if type(count) is not int or not 0 <= count <= MAX_LAYERS:
            raise ArchitectureError(f"{model}: config.json must give its number of layers as {self.layers_key!r}")
        return count


@dataclass(frozen=True)
class Architecture:
    """A model class: its name in config.json and its modules (one, called ``default``)."""

    name: str
    modules: Mapping[str, Module]

    def weights(self, config: Mapping[str, Any], model: str) -> Iterator[Weight]:
        """Every weight that a checkpoint with this config.json may have."""
        for module in self.modules.values():
            yield from module.weights(module.layer_count(config, model))


@lru_cache(maxsize=1)
def json_schema() -> Mapping[str, Any]:
    """The JSON Schema of architecture definitions."""
    schema: Mapping[str, Any] = json.loads(files("mergecore").joinpath("architecture.schema.json").read_text("utf-8"))
    return schema


def parse(name: str, definition: Mapping[str, Any], origin: str) -> Architecture:
    """An architecture from its JSON.

    Args:
        name: class name, as in config.json.
        definition: the parsed JSON.
        origin: the file or package it comes from, for errors.

    Raises:
        ArchitectureError: it does not follow the schema, or names a weight twice.
    """
    try:
        check(Place(definition), json_schema())
    except RecipeError as error:
        raise ArchitectureError(f"architecture {name} ({origin}): {error}") from None
    stack = definition["layers"]
    module = Module(
        before=_weights(definition["before"]),
        layer=_weights(definition["layer"]),
        after=_weights(definition["after"]),
        layers_key=stack["count"],
        layer_prefix=stack["prefix"],
        per_layer_config=tuple(definition.get("per_layer_config", ())),
    )
    names = [label for weight in module.weights(2) for label in (weight.name, *weight.aliases)]
    for label in names:
        if names.count(label) > 1:
            raise ArchitectureError(f"architecture {name} ({origin}): the weight {label!r} is named twice; remove one")
    return Architecture(name, {"default": module})


def _weights(entries: Sequence[str | Mapping[str, Any]]) -> tuple[Weight, ...]:
    return tuple(
        Weight(entry) if isinstance(entry, str) else Weight(**{**entry, "aliases": tuple(entry.get("aliases", ()))})
        for entry in entries
    )


def class_name(config: Mapping[str, Any], model: str) -> str:
    """The one class name in a config.json.

    Raises:
        ArchitectureError: there is none, or several.
    """
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        return names[0]
    raise ArchitectureError(f'{model}: config.json must name one model class, as "architectures": ["LlamaForCausalLM"]')


def get_key(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def with_keys(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with the values at dotted keys replaced."""
    result: dict[str, Any] = json.loads(json.dumps(config))
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = result
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return result
