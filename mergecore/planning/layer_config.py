"""Adjust a model's config to selected layers: the layer count, and all per-layer settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergecore.definitions import (
    Architecture,
    Module,
    Period,
    Weight,
    first_of,
    get_key,
    leaves,
    tie_keys,
    written_key,
)
from mergecore.errors import ModelError
from mergecore.models import Checkpoint
from mergecore.planning.layer_stacks import Stack


@dataclass(frozen=True)
class Row:
    """A layer of the output: the checkpoint of the first model in its slice, and the layer's number there."""

    checkpoint: Checkpoint
    number: int

    def get(self, key: str) -> Any:
        return get_key(self.checkpoint.config, key)


def layer_config(
    architecture: Architecture,
    module: Module,
    stacks: Sequence[Stack],
    checkpoints: Sequence[Checkpoint],
    config_source: int,
) -> dict[str, Any]:
    """Return the config changes, by dotted key, for a model with selected layers.

    Raises:
        ModelError: if the config cannot describe the type of each selected layer.
    """
    if not module.layers_key:
        return {}
    every = [Row(checkpoints[stack.models[0]], stack.ranges[0][0] + k) for stack in stacks for k in range(stack.layers)]
    config = checkpoints[config_source].config
    rows = _counted(module, every)
    changes: dict[str, Any] = {}
    if module.extra_key and (len(every) > len(rows) or first_of(config, module.extra_key) is not None):
        changes[written_key(config, module.extra_key)] = len(every) - len(rows)
    for key in module.per_layer_config:
        values = [_entry(row, key) for row in rows]
        if isinstance(get_key(config, key), (list, str, Mapping)) and None not in values:
            changes[key] = _like(get_key(config, key), values)
    for key in module.layer_numbers:
        if isinstance(get_key(config, key), list):
            changes[key] = [index for index, row in enumerate(rows) if row.number in (row.get(key) or ())]
        elif isinstance(get_key(config, key), int):
            changes[key] = _leading(key, rows, beyond=1)
    for key in module.leading_layers:
        if get_key(config, key) is not None:
            changes[key] = _leading(key, rows)
    for period in module.layer_periods:
        _check_period(period, rows)
    for weight in module.layer:
        _check_first(weight, rows)
    if architecture.inferred:
        _check_loose(module, rows, checkpoints[config_source])
        _check_alike(module, rows, checkpoints[config_source])
    changes = {written_key(config, (key,)): value for key, value in changes.items()}
    counted = written_key(config, module.layers_key)
    return changes if counted in changes else {**changes, counted: len(rows)}


def _is_runs(value: Any) -> bool:
    """Return True if a per-layer list has runs, ``[[[pattern, ...], times], ...]``, as in the config of GPT-Neo."""
    return all(isinstance(run, list) and len(run) == 2 and isinstance(run[0], list) for run in value) and bool(value)


def _like(old: Any, values: list[Any]) -> Any:
    """Return the entries of layers in the form of an existing value: a list, runs, a string, or a mapping by number."""
    if isinstance(old, str):
        return "".join(values)
    if isinstance(old, Mapping):
        return {str(number): value for number, value in enumerate(values)}
    return [[values, 1]] if _is_runs(old) else values


def _entry(row: Row, key: str) -> Any:
    """Return the entry of a per-layer value for a layer, or None if it has none."""
    values = row.get(key)
    if isinstance(values, Mapping):
        return values.get(str(row.number))
    if not isinstance(values, (list, str)):
        return None
    if isinstance(values, list) and _is_runs(values):
        values = [item for pattern, times in values for item in pattern * times]
    return values[row.number] if row.number < len(values) else None


def _counted(module: Module, rows: Sequence[Row]) -> list[Row]:
    """Return the selected layers without the additional ones, which must come last."""
    counts = [module.counted(row.checkpoint.config, row.checkpoint.reference) for row in rows]
    kept = [row for row, count in zip(rows, counts) if row.number < count]
    if kept != list(rows[: len(kept)]):
        row = next(row for row, count in zip(rows, counts) if row.number >= count)
        raise ModelError(
            f"{row.checkpoint.folder}: layer {row.number} is not counted by {module.layers_key[0]!r} in config.json"
            f" but would come before a layer that is; keep such layers last"
        )
    return kept


def _leading(key: str, rows: Sequence[Row], beyond: int = 0) -> int:
    """Count the leading selected layers with the special type. The config value is smaller by `beyond`."""
    flags = [row.number < (row.get(key) or 0) + beyond for row in rows]
    count = sum(flags)
    if not all(flags[:count]):
        row = rows[flags.index(False)]
        raise ModelError(
            f"{row.checkpoint.folder}: layer {row.number} would come before one of the leading layers that {key!r} in"
            " config.json counts; keep the leading layers first"
        )
    return count - beyond


def _check_period(period: Period, rows: Sequence[Row]) -> None:
    """Check that the selected layers are at positions where the config's period has layers of their type."""
    for index, row in enumerate(rows):
        count = period.of(row.checkpoint.config)
        if (index - row.number) % count:
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, which has a different type"
                f" because of {period.key!r} = {count} in config.json; select layers so that each index shifts by a"
                " multiple of that value"
            )


def _check_first(weight: Weight, rows: Sequence[Row]) -> None:
    """Check that the leading layers without a weight stay in front, and that no other layer moves there."""
    for index, row in enumerate(rows):
        if (index < weight.from_layer) is not (row.number < weight.from_layer):
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, but only the first"
                f" {weight.from_layer} have no {weight.name!r}; keep those layers first"
            )


def _check_alike(module: Module, rows: Sequence[Row], config_source: Checkpoint) -> None:
    """Check that each layer moves to a layer of its own type, unless the config lists the type of each layer.

    See `_expected` for positions beyond the end of the config's model.
    """
    kinds = _kinds(module, config_source)
    if len(set(kinds)) < 2 or _explained(module, [*rows, *_rows_of(config_source, len(kinds))]):
        return
    for index, row in enumerate(rows):
        here, there = _expected(kinds, index), _kind(module, row.checkpoint, row.number)
        if here != there:
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, which has different weights"
                f" ({sorted(here ^ there)[0][0]!r}), and the inferred architecture does not know which config.json key"
                " determines that; write a definition: mergecore arch infer MODEL > my.json"
            )


Kind = frozenset[tuple[str, tuple[int, ...]]]
"""The names and shapes of a layer's weights."""


def _expected(kinds: Sequence[Kind], index: int) -> Kind:
    """Return the type of the layer at a position, also beyond the end, where the types repeat or the last ones go on.

    This is a guess. If transformers is installed, the class itself is asked about the result.
    """
    if index < len(kinds):
        return kinds[index]
    repeats = (period for period in range(1, len(kinds) // 2 + 1) if kinds[period:] == kinds[:-period])
    if (period := next(repeats, None)) is None and kinds[-1] == kinds[-2]:
        return kinds[-1]
    return kinds[index % (period or len(kinds))]


def _kinds(module: Module, checkpoint: Checkpoint) -> list[Kind]:
    count = module.counted(checkpoint.config, checkpoint.reference)
    return [_kind(module, checkpoint, number) for number in range(count)]


def _kind(module: Module, checkpoint: Checkpoint, number: int) -> Kind:
    prefix, tensors = module.prefix(number), checkpoint.tensors
    names = ((weight.name, prefix + weight.name) for weight in module.layer)
    return frozenset((short, tensors[name].shape) for short, name in names if name in tensors)


def _rows_of(checkpoint: Checkpoint, count: int) -> list[Row]:
    return [Row(checkpoint, number) for number in range(count)]


def _explained(module: Module, rows: Sequence[Row]) -> bool:
    """Return True if layers with the same per-layer settings always have the same weights."""
    kinds: dict[str, Kind] = {}
    if not module.per_layer_config and not module.layer_numbers:
        return False
    for row in rows:
        settings = [_entry(row, key) for key in module.per_layer_config]
        settings += [row.number in (row.get(key) or ()) for key in module.layer_numbers]
        kind = _kind(module, row.checkpoint, row.number)
        if kinds.setdefault(repr(settings), kind) != kind:
            return False
    return True


def _check_loose(module: Module, rows: Sequence[Row], config_source: Checkpoint) -> None:
    """Check that no weight outside the layers has parts for each layer, which cannot be cut without a definition."""
    count = module.counted(config_source.config, config_source.reference)
    if [row.number for row in rows] == list(range(count)):
        return
    sizes = {value for key, value in leaves(config_source.config) if "per_layer" in key and type(value) is int}
    for weight in (*module.before, *module.after):
        shape = config_source.tensors[weight.name].shape if weight.name in config_source.tensors else ()
        if ("per_layer" in weight.name and any(size and size % count == 0 for size in shape)) or any(
            size == count * each for size in shape for each in sizes if each
        ):
            raise ModelError(
                f"{config_source.folder}: {weight.name!r} {list(shape)} has a part for each of the {count} layers, and"
                " the inferred architecture cannot select layers of it; write a definition: mergecore arch infer MODEL"
                " > my.json"
            )


def tie_config(architecture: Architecture, names: set[str], config_source: Checkpoint) -> dict[str, Any]:
    """Return the config changes for tied or separate embeddings in the output, if the config source differs.

    Args:
        architecture: architecture of the output.
        names: the output's tensors.
        config_source: the model that supplies the config.
    """
    weights = [weight for module in architecture.modules.values() for weight in module.after]
    heads = [weight.name for weight in weights if weight.tied_to and weight.vocabulary_axis is not None]
    config, tied = config_source.config, names.isdisjoint(heads)
    if tied is config_source.tensors.keys().isdisjoint(heads):
        # The config contradicts the files. Loaded unchanged, such a checkpoint would get a random head.
        denied = tied and heads and not tie_keys(config, False)
        return tie_keys(config, True) if denied else {}
    return tie_keys(config, tied)
