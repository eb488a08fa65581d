"""The output's vocabulary in the plan: a plugin says where its rows come from, and every model is shown with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.api import FLOATS, TokenizerRequest, Vocabulary
from mergecore.definitions import Architecture, Module, Weight, get_key, written_key
from mergecore.discovery import Registry
from mergecore.errors import InputError, ModelError, PluginError, RecipeError
from mergecore.models import MEAN, ZERO, Checkpoint, Gathered, stored, with_gathered
from mergecore.recipes import Recipe


@dataclass(frozen=True)
class Aligned:
    """The input models with the output's vocabulary.

    Attributes:
        checkpoints: each with the output's rows, in the output's order.
        dtypes: what tensors are stored as that are shown as something else: (position, name) → dtype.
        config: values for the output's config.json, by dotted key.
        files: every tokenizer file of the output; None: the donor's.
        rows: where the rows come from; None: they stay as they are.
        notes: what the author of the recipe should know.
    """

    checkpoints: Sequence[Checkpoint]
    dtypes: Mapping[tuple[int, str], str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] | None = None
    notes: tuple[str, ...] = ()
    rows: Vocabulary | None = None


@dataclass(frozen=True)
class Table:
    """A weight with one row a token.

    Attributes:
        weight: its name in the architecture.
        names: its name in each model, which is the embedding's where a head is tied; None: absent.
        shown: the name to show it under in each model.
    """

    weight: str
    names: tuple[str | None, ...]
    shown: tuple[str, ...]


def align(
    recipe: Recipe,
    registry: Registry,
    architecture: Architecture,
    checkpoints: Sequence[Checkpoint],
    donor: int,
    find: Callable[[str], Path],
) -> Aligned:
    """Show every model with the vocabulary that the recipe asks for; as they are where it asks for none.

    `find` is for `TokenizerRequest`.

    Raises:
        InputError: no plugin answers, or what the recipe asks for cannot be done.
    """
    key = next((key for key in ("tokenizer", "tokenizer_source", "chat_template") if recipe.place.get(key)), None)
    if key is None:
        return Aligned(checkpoints)
    try:
        return _align(recipe, registry, architecture, checkpoints, donor, find)
    except RecipeError:
        raise
    except InputError as error:
        raise recipe.place.child(key).error(str(error)) from None


def _align(
    recipe: Recipe,
    registry: Registry,
    architecture: Architecture,
    checkpoints: Sequence[Checkpoint],
    donor: int,
    find: Callable[[str], Path],
) -> Aligned:
    tables = list(_tables(architecture, checkpoints)) if recipe.tokenizer is not None else []
    rows = [_rows(tables, index, checkpoint) for index, checkpoint in enumerate(checkpoints)]
    models, place = [item.info for item in checkpoints], recipe.place.folder
    request = TokenizerRequest(recipe.tokenizer, recipe.chat_template, place, models, rows, donor, find)
    answer = registry.tokenizer(request)
    if answer is None:
        raise PluginError("no loaded plugin makes tokenizers: pip install mergecore-tokenizer (not --no-hooks)")
    if answer.vocabulary is None:
        return Aligned(checkpoints, {}, answer.config, answer.files, answer.notes)
    _check_answer(answer.vocabulary, rows)
    shown, dtypes = _shown(checkpoints, tables, answer.vocabulary)
    names = {table.weight for table in tables}
    sizes = size_config(architecture, names, checkpoints[donor].config, answer.vocabulary.own.shape[1])
    return Aligned(shown, dtypes, {**answer.config, **sizes}, answer.files, answer.notes, answer.vocabulary)


def _tables(architecture: Architecture, checkpoints: Sequence[Checkpoint]) -> Iterator[Table]:
    """Every weight with a vocabulary axis that one of the models has."""
    weights = {
        weight.name: weight
        for checkpoint in checkpoints
        for weight in architecture.weights(checkpoint.config, checkpoint.reference)
        if weight.vocabulary_axis is not None
    }
    for weight in weights.values():
        names = [stored(checkpoint, weight) for checkpoint in checkpoints]
        if not any(names):
            continue
        # Beside the embedding where a head is tied in one model and not in another.
        shown = tuple(name or weight.name for name in names)
        if weight.vocabulary_axis != 0:
            raise ModelError(
                f"{weight.name}: its tokens are along axis {weight.vocabulary_axis}; only rows can be moved"
            )
        if weight.tied_to:
            tied = Weight(weight.tied_to)
            names = [name or stored(checkpoint, tied) for name, checkpoint in zip(names, checkpoints)]
        yield Table(weight.name, tuple(names), shown)


def _rows(tables: Sequence[Table], model: int, checkpoint: Checkpoint) -> int:
    """How many rows a model's tables have; 0 where it has none."""
    found = {name: checkpoint.tensors[name].shape[0] for table in tables if (name := table.names[model])}
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{count} in {name!r}" for name, count in found.items())
        raise ModelError(f"{checkpoint.folder}: has different numbers of tokens: {counts}; leave the tokenizer out")
    return next(iter(found.values()), 0)


def _check_answer(vocabulary: Vocabulary, rows: Sequence[int]) -> None:
    for array in (vocabulary.own, vocabulary.common):
        if array.shape != (len(rows), vocabulary.own.shape[1]) or (array.max(axis=1, initial=-1) >= rows).any():
            raise PluginError("the tokenizer plugin names rows that the models do not have; report it to its authors")


def _shown(
    checkpoints: Sequence[Checkpoint], tables: Sequence[Table], vocabulary: Vocabulary
) -> tuple[list[Checkpoint], dict[tuple[int, str], str]]:
    """The models with their tables gathered, and the dtypes that those are stored as."""
    gathered: list[dict[str, Gathered]] = [{} for _ in checkpoints]
    dtypes = {}
    for table in tables:
        for model, item in _gathered(table, vocabulary, checkpoints):
            gathered[model][table.shown[model]] = item
            dtypes[model, table.shown[model]] = checkpoints[model].tensors[table.names[model] or ""].kept
    return [with_gathered(checkpoint, items) for checkpoint, items in zip(checkpoints, gathered)], dtypes


def _gathered(
    table: Table, vocabulary: Vocabulary, checkpoints: Sequence[Checkpoint]
) -> Iterator[tuple[int, Gathered]]:
    """A table as each model that has it is to be shown with it, with the model's position."""
    import numpy as np

    parts = {model: (checkpoints[model], name) for model, name in enumerate(table.names) if name}
    _check_parts(table, list(parts.values()))
    holders = list(parts)
    own, common = vocabulary.own[holders], vocabulary.common[holders]
    # A row is wanted from a model that lacks this weight: the mean of those that have one, as for a token without base.
    lost = (vocabulary.common >= 0).any(axis=0) & (common < 0).all(axis=0)
    common = np.where(lost, own, common)
    count = (common >= 0).sum(axis=0)
    origin = np.where(count > 1, MEAN, np.where(count == 1, common.argmax(axis=0), ZERO))
    row = common.max(axis=0)
    for part, model in enumerate(holders):
        has = own[part] >= 0
        rows = np.where(has, own[part], row)
        yield model, Gathered(list(parts.values()), np.where(has, part, origin), rows, common)


def _check_parts(table: Table, parts: Sequence[tuple[Checkpoint, str]]) -> None:
    infos = {checkpoint.reference: checkpoint.tensors[name] for checkpoint, name in parts}
    if len({info.shape[1:] for info in infos.values()}) > 1:
        shapes = ", ".join(f"{list(info.shape)} in {model}" for model, info in infos.items())
        raise ModelError(f"{table.weight}: the models differ in more than their vocabularies: {shapes}")
    for model, info in infos.items():
        if info.dtype not in FLOATS:
            raise ModelError(f"{table.weight}: is stored as {info.dtype} in {model}; its rows cannot be merged")


def size_config(architecture: Architecture, names: Set[str], config: Mapping[str, Any], size: int) -> dict[str, int]:
    """The number of tokens under the config's keys for it: beside the layer count of a module with tables, and on top.

    Args:
        architecture: of the model.
        names: its tables' names in it.
        config: its config.json.
        size: the number.
    """
    keys = [_size_key(module, config) for module in architecture.modules.values() if _outside(module) & names]
    top = [key for key in ("vocab_size", "padded_vocab_size") if get_key(config, key) is not None]
    return dict.fromkeys([*keys, *top], size)


def _outside(module: Module) -> set[str]:
    return {weight.name for weight in (*module.before, *module.after)}


def _size_key(module: Module, config: Mapping[str, Any]) -> str:
    parents = [key.rpartition(".")[0] for key in module.layers_key] or [""]
    return written_key(config, tuple(f"{parent}.vocab_size" if parent else "vocab_size" for parent in parents))
