"""What choosing layers one by one changes in a model's config: their count, and all that it says layer by layer."""

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
    """A layer of the output: the checkpoint of its slice's first model, and the layer's number there."""

    checkpoint: Checkpoint
    number: int

    def get(self, key: str) -> Any:
        return get_key(self.checkpoint.config, key)


def layer_config(
    architecture: Architecture, module: Module, stacks: Sequence[Stack], checkpoints: Sequence[Checkpoint], donor: int
) -> dict[str, Any]:
    """The config values, by dotted key, of a model whose layers were chosen one by one.

    Raises:
        ModelError: the config has no way to say which kind each chosen layer is of.
    """
    if not module.layers_key:
        return {}
    every = [Row(checkpoints[stack.models[0]], stack.ranges[0][0] + k) for stack in stacks for k in range(stack.layers)]
    config = checkpoints[donor].config
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
        _check_alike(module, rows, checkpoints[donor])
    changes = {written_key(config, (key,)): value for key, value in changes.items()}
    return {**changes, written_key(config, module.layers_key): len(rows)}


def _is_runs(value: Any) -> bool:
    """Whether a per-layer list is written as runs: ``[[[pattern, ...], times], ...]``, as GPT-Neo's config does."""
    return all(isinstance(run, list) and len(run) == 2 and isinstance(run[0], list) for run in value) and bool(value)


def _entry(row: Row, key: str) -> Any:
    """What a per-layer list says of a layer; None where it does not reach so far."""
    values = row.get(key)
    if not isinstance(values, list):
        return None
    if _is_runs(values):
        values = [item for pattern, times in values for item in pattern * times]
    return values[row.number] if row.number < len(values) else None


def _counted(module: Module, rows: Sequence[Row]) -> list[Row]:
    """The chosen layers that are not extra ones, which must come last."""
    counts = [module.counted(row.checkpoint.config, row.checkpoint.reference) for row in rows]
    kept = [row for row, count in zip(rows, counts) if row.number < count]
    if kept != list(rows[: len(kept)]):
        row = next(row for row, count in zip(rows, counts) if row.number >= count)
        raise ModelError(
            f"{row.checkpoint.folder}: layer {row.number} would come before one that config.json's"
            f" {module.layers_key[0]!r} counts; choose layers that keep those beyond it last"
        )
    return kept


def _leading(key: str, rows: Sequence[Row], beyond: int = 0) -> int:
    """How many of the first chosen layers are of the leading kind, which the config counts up to `beyond` less."""
    flags = [row.number < (row.get(key) or 0) + beyond for row in rows]
    count = sum(flags)
    if not all(flags[:count]):
        row = rows[flags.index(False)]
        raise ModelError(
            f"{row.checkpoint.folder}: layer {row.number} would come before a layer that config.json's {key!r} counts"
            " among the first; choose layers that keep those first"
        )
    return count - beyond


def _check_period(period: Period, rows: Sequence[Row]) -> None:
    """The chosen layers must fall where the config's period puts layers of their kind."""
    for index, row in enumerate(rows):
        count = period.of(row.checkpoint.config)
        if (index - row.number) % count:
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, where config.json's"
                f" {period.key!r} = {count} puts layers of another kind; choose layers so that each moves by a"
                " multiple of it"
            )


def _check_first(weight: Weight, rows: Sequence[Row]) -> None:
    """A layer among the first, which lack a weight, must stay among them, and no other come there."""
    for index, row in enumerate(rows):
        if (index < weight.from_layer) is not (row.number < weight.from_layer):
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, but only the first"
                f" {weight.from_layer} lack {weight.name!r}; choose layers that keep those first"
            )


def _check_alike(module: Module, rows: Sequence[Row], donor: Checkpoint) -> None:
    """Where layers differ and nothing in the config was cut with them, each must stay among its own kind."""
    for index, row in enumerate(rows):
        here, there = _kind(module, donor, index), _kind(module, row.checkpoint, row.number)
        if here and here != there:
            raise ModelError(
                f"{row.checkpoint.folder}: layer {row.number} would become layer {index}, which has other weights"
                f" ({sorted(here ^ there)[0]!r}), and the inferred architecture does not know what in config.json"
                " decides that; write its JSON: mergecore arch infer MODEL > my.json"
            )


def _kind(module: Module, checkpoint: Checkpoint, number: int) -> set[str]:
    prefix = module.prefix(number)
    return {weight.name for weight in module.layer if prefix + weight.name in checkpoint.tensors}


def tie_config(architecture: Architecture, names: set[str], donor: Checkpoint) -> dict[str, Any]:
    """Whether the output's head is its embedding, where it is not as in the model whose config the output takes over.

    Args:
        architecture: of the output.
        names: the output's tensors.
        donor: the model whose config the output takes over.
    """
    weights = [weight for module in architecture.modules.values() for weight in module.after]
    heads = [weight.name for weight in weights if weight.tied_to and weight.vocabulary_axis is not None]
    config, tied = donor.config, names.isdisjoint(heads)
    if tied is donor.tensors.keys().isdisjoint(heads):
        # A config that denies what the files show: such a checkpoint would be given a random head.
        denied = tied and heads and not tie_keys(config, False)
        return tie_keys(config, True) if denied else {}
    return tie_keys(config, tied)
