"""Adjust a model's config to selected layers: the layer count, and all per-layer settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergecore.definitions import Architecture, Module, Period, Weight, first_of, get_key, tie_keys, written_key
from mergecore.errors import ModelError
from mergecore.models import Checkpoint
from mergecore.planning.matching import Stack


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
    if first_of(config, module.extra_key) is not None:
        changes[written_key(config, module.extra_key)] = len(every) - len(rows)
    for key in module.per_layer_config:
        values = [_entry(row, key) for row in rows]
        if isinstance(get_key(config, key), list) and None not in values:
            changes[key] = [[values, 1]] if _is_runs(get_key(config, key)) else values
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
    if architecture.inferred and not changes:
        _check_alike(module, rows, checkpoints[config_source])
    changes = {written_key(config, (key,)): value for key, value in changes.items()}
    return {**changes, written_key(config, module.layers_key): len(rows)}


def _is_runs(value: Any) -> bool:
    """Return True if a per-layer list has runs, ``[[[pattern, ...], times], ...]``, as in the config of GPT-Neo."""
    return all(isinstance(run, list) and len(run) == 2 and isinstance(run[0], list) for run in value) and bool(value)


def _entry(row: Row, key: str) -> Any:
    """Return the entry of a per-layer list for a layer, or None if the list is too short."""
    values = row.get(key)
    if not isinstance(values, list):
        return None
    if _is_runs(values):
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
    """If layers differ and the config has no per-layer settings, check that each moves to a layer of the same type."""
    for index, row in enumerate(rows):
        here, there = _kind(module, config_source, index), _kind(module, row.checkpoint, row.number)
        if here and here != there:
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, which has different weights"
                f" ({sorted(here ^ there)[0]!r}), and the inferred architecture does not know which config.json key"
                " determines that; write a definition: mergecore arch infer MODEL > my.json"
            )


def _kind(module: Module, checkpoint: Checkpoint, number: int) -> set[str]:
    prefix = module.prefix(number)
    return {weight.name for weight in module.layer if prefix + weight.name in checkpoint.tensors}


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
