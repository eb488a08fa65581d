"""Architecture definitions, which list the weights of a model class. They are parsed from JSON and bound to configs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from mergecore.definitions.config import Keys, Period, first_of, get_key, written_key
from mergecore.errors import ArchitectureError

MAX_COUNT = 10_000
"""Upper limit for layers and experts, which protects against a config.json that claims to have billions."""


NOTHING: Mapping[str, Keys] = {}
"""Shared by all weights that are bound to a config."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of an architecture. In a module's `layer`, names do not include the layer prefix.

    Attributes:
        name: the name in checkpoints of this class.
        optional: whether checkpoints can omit it.
        group: a layer has either all or none of the optional weights in a group.
        aliases: alternative names in checkpoints.
        tied_to: the weight to use if a checkpoint does not have this one.
        vocabulary_axis: the axis with one entry per token, if any.
        each: config.json keys of a count, by the word in the name to number. Empty once bound to a config.
        parts: the weights that replace it in another layout. Empty once bound to a checkpoint.
        from_layer: the first layer that has this weight.
        ignored: whether the class ignores it when it loads a model, so that fine-tuned models often do not have it.
    """

    name: str
    optional: bool = False
    aliases: tuple[str, ...] = ()
    tied_to: str | None = None
    vocabulary_axis: int | None = None
    group: str | None = None
    each: Mapping[str, Keys] = field(default_factory=lambda: NOTHING)
    parts: tuple[str, ...] = ()
    from_layer: int = 0
    ignored: bool = False

    @property
    def may_lack(self) -> bool:
        return self.optional or self.tied_to is not None

    def named(self, values: Mapping[str, int], prefix: str = "") -> Weight:
        """Return the weight with `values` filled into its names and `prefix` prepended."""

        def full(name: str) -> str:
            return prefix + fill(name, values)

        return Weight(  # `replace` takes four times as long
            full(self.name),
            self.optional,
            tuple(map(full, self.aliases)) if self.aliases else (),
            full(self.tied_to) if self.tied_to else None,
            self.vocabulary_axis,
            self.group,
            NOTHING,
            self.parts,
            self.from_layer,
            self.ignored,
        )

    def count(self, word: str, config: Mapping[str, Any], model: str) -> int:
        """Return the count in a config for a word of `each`. For a list in the config, this is its length.

        Raises:
            ArchitectureError: if the config has no valid count and the weight is not optional.
        """
        count = first_of(config, self.each[word])
        if count is None and self.optional:
            return 0
        count = len(count) if isinstance(count, list) else count
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_COUNT:
            keys = " or ".join(self.each[word])
            raise ArchitectureError(f"{model}: config.json must have the number of {self.name!r} as {keys}")
        return count


def fill(name: str, values: Mapping[str, int]) -> str:
    """Replace the {words} in a name by numbers."""
    for word, number in values.items():
        name = name.replace(f"{{{word}}}", str(number))
    return name


@dataclass(frozen=True)
class Module:
    """The weights before, in, and after one stack of layers. `layer_prefix` is empty if there are no layers.

    Attributes:
        layers_key: config.json keys of the layer count.
        extra_key: config.json keys of the number of additional layers, which a checkpoint can omit.
        per_layer_config: config.json keys of lists with one entry per layer.
        layer_numbers: config.json keys of lists of layer numbers, or of the last layer number of a type.
        leading_layers: config.json keys of the number of leading layers that have a different type.
        layer_periods: numbers of layers after which the layer types repeat.
    """

    before: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    after: tuple[Weight, ...]
    layers_key: Keys = ()
    extra_key: Keys = ()
    layer_prefix: str = ""
    per_layer_config: Keys = ()
    layer_numbers: Keys = ()
    leading_layers: Keys = ()
    layer_periods: tuple[Period, ...] = ()
    _in_layers: dict[int, list[Weight]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def prefix(self, index: int) -> str:
        return fill(self.layer_prefix, {"layer": index})

    def in_layer(self, index: int) -> Sequence[Weight]:
        """Return the weights of layer `index` with their full names."""
        if index not in self._in_layers:
            prefix = self.prefix(index)
            whole = (weight.named({}, prefix) for weight in self.layer)
            self._in_layers[index] = [replace(w, optional=True) if index < w.from_layer else w for w in whole]
        return self._in_layers[index]

    def weights(self, layers: int) -> Iterator[Weight]:
        """Yield every weight of a checkpoint with `layers` layers, in order."""
        yield from self.before
        for index in range(layers):
            yield from self.in_layer(index)
        yield from self.after

    def labels(self, layers: int) -> Iterator[str]:
        """Yield every name and alias of the weights of a checkpoint with `layers` layers."""
        before, inside, after = (
            [label for weight in weights for label in (weight.name, *weight.aliases)]
            for weights in (self.before, self.layer, self.after)
        )
        yield from before
        for index in range(layers):
            prefix = self.prefix(index)
            yield from (prefix + label for label in inside)
        yield from after

    def layer_count(self, config: Mapping[str, Any], model: str) -> int:
        """Return the number of layers in a model's config.json, including additional layers. See `counted`."""
        extra = first_of(config, self.extra_key)
        return self.counted(config, model) + (extra if isinstance(extra, int) else 0)

    def counted(self, config: Mapping[str, Any], model: str) -> int:
        """Return the number of layers in a model's config.json, or 0 for a module without layers.

        The key can be that of a list with an entry per layer, or of a pattern with a letter per layer.

        Raises:
            ArchitectureError: if config.json has no valid number of layers.
        """
        if not self.layers_key:
            return 0
        count = first_of(config, self.layers_key)
        if isinstance(count, list) or (isinstance(count, str) and all("pattern" in key for key in self.layers_key)):
            count = len(count)
        if type(count) is not int or not 0 <= count <= MAX_COUNT:
            keys = " or ".join(map(repr, self.layers_key))
            raise ArchitectureError(f"{model}: config.json must have the number of layers as {keys}")
        return count

    def bind(self, config: Mapping[str, Any], model: str, stored: Collection[str]) -> Module:
        """Resolve `each` with the counts in a config, and `parts` with the names in a checkpoint.

        Raises:
            ArchitectureError: if a count is missing from the config.
        """
        prefixes = [self.prefix(index) for index in range(self.layer_count(config, model))]

        def bound(weights: Sequence[Weight], starts: Sequence[str]) -> tuple[Weight, ...]:
            whole = [(w, any(start + w.name in stored for start in starts)) for w in weights]
            return tuple(item for w, as_whole in whole for item in _expanded(w, as_whole, config, model))

        return replace(
            self,
            before=bound(self.before, [""]),
            layer=bound(self.layer, prefixes),
            after=bound(self.after, [""]),
        )


def _expanded(weight: Weight, as_whole: bool, config: Mapping[str, Any], model: str) -> Iterator[Weight]:
    """Expand an entry to one weight per number, or to its parts unless it is stored as a whole."""
    names = [weight.name] if as_whole or not weight.parts else list(weight.parts)
    words = [word for word in weight.each if any(f"{{{word}}}" in name for name in names)]
    for values in numbers({word: weight.count(word, config, model) for word in words}):
        for name in names:
            yield replace(weight, name=name, parts=()).named(values)


def numbers(counts: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield every combination of numbers below the counts of some words. Without words, yield one empty mapping."""
    for values in itertools.product(*map(range, counts.values())):
        yield dict(zip(counts, values))


@dataclass(frozen=True)
class Architecture:
    """A model class: its name in config.json, its modules, and alternative name prefixes with the correct ones.

    A definition read from JSON has `each` and `parts` in its weights. `bind` resolves them for a checkpoint.
    An `inferred` definition was created from headers and has only the information in them.
    """

    name: str
    modules: Mapping[str, Module]
    prefixes: Mapping[str, str] = field(default_factory=dict)
    inferred: bool = False

    def bind(self, config: Mapping[str, Any], model: str, stored: Collection[str]) -> Architecture:
        """Bind this definition to a checkpoint with this config and these tensor names."""
        bound = {name: module.bind(config, model, stored) for name, module in self.modules.items()}
        return replace(self, modules=bound)

    def weights(self, config: Mapping[str, Any], model: str) -> Iterator[Weight]:
        """Yield every weight that a checkpoint with this config.json can have."""
        for module in self.modules.values():
            yield from module.weights(module.layer_count(config, model))

    def labels(self, config: Mapping[str, Any], model: str) -> Iterator[str]:
        """Yield the names and aliases of these weights, which takes less time."""
        for module in self.modules.values():
            yield from module.labels(module.layer_count(config, model))


def size_config(architecture: Architecture, names: Set[str], config: Mapping[str, Any], size: int) -> dict[str, int]:
    """Return the number of tokens under its config keys: next to the layer count of modules with tables, and on top.

    Args:
        architecture: architecture of the model.
        names: names of its tables in the architecture.
        config: contents of its config.json.
        size: the number of tokens.
    """
    keys = [_size_key(module, config) for module in architecture.modules.values() if _outside(module) & names]
    top = [key for key in ("vocab_size", "padded_vocab_size") if get_key(config, key) is not None]
    return dict.fromkeys([*keys, *top], size)


def _outside(module: Module) -> set[str]:
    return {weight.name for weight in (*module.before, *module.after)}


def _size_key(module: Module, config: Mapping[str, Any]) -> str:
    parents = [key.rpartition(".")[0] for key in module.layers_key] or [""]
    return written_key(config, tuple(f"{parent}.vocab_size" if parent else "vocab_size" for parent in parents))
