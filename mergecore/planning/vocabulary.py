"""Align the models to the output's vocabulary. A plugin decides the source of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.api import FLOATS, TokenizerRequest, Vocabulary
from mergecore.definitions import Architecture, size_config
from mergecore.discovery import Registry
from mergecore.errors import InputError, ModelError, PluginError, RecipeError
from mergecore.models import MEAN, ZERO, Checkpoint, Rows, source_name, stored_name, with_rows
from mergecore.recipes import Recipe


@dataclass(frozen=True)
class Aligned:
    """The input models with the output's vocabulary.

    Attributes:
        checkpoints: the models, each with the output's rows in the output's order.
        dtypes: stored dtypes of tensors that are read as another dtype, by (index, name).
        config: values to set in the output's config.json, by dotted key.
        files: every tokenizer file of the output. None copies those of the config source.
        rows: the source of each row. None leaves the rows unchanged.
        notes: notes for the author of the recipe.
    """

    checkpoints: Sequence[Checkpoint]
    dtypes: Mapping[tuple[int, str], str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] | None = None
    notes: tuple[str, ...] = ()
    rows: Vocabulary | None = None


@dataclass(frozen=True)
class Table:
    """A weight with one row per token.

    Attributes:
        weight: name in the architecture.
        names: name in each model. For a tied head, this is the embedding. None if absent.
        shown: name to expose it under in each model.
    """

    weight: str
    names: tuple[str | None, ...]
    shown: tuple[str, ...]


def align(
    recipe: Recipe,
    registry: Registry,
    architecture: Architecture,
    checkpoints: Sequence[Checkpoint],
    config_source: int,
    find: Callable[[str], Path],
) -> Aligned:
    """Align every model to the vocabulary that the recipe requests. Without a request, return the models unchanged.

    `find` is passed to `TokenizerRequest`.

    Raises:
        InputError: if no plugin handles the request, or it cannot be fulfilled.
    """
    key = next((key for key in ("tokenizer", "tokenizer_source", "chat_template") if recipe.place.get(key)), None)
    if key is None:
        return Aligned(checkpoints)
    try:
        return _align(recipe, registry, architecture, checkpoints, config_source, find)
    except RecipeError:
        raise
    except InputError as error:
        raise recipe.place.child(key).error(str(error)) from None


def _align(
    recipe: Recipe,
    registry: Registry,
    architecture: Architecture,
    checkpoints: Sequence[Checkpoint],
    config_source: int,
    find: Callable[[str], Path],
) -> Aligned:
    tables = list(_tables(architecture, checkpoints)) if recipe.tokenizer is not None else []
    rows = [_rows(tables, index, checkpoint) for index, checkpoint in enumerate(checkpoints)]
    models, place = [item.info for item in checkpoints], recipe.place.folder
    request = TokenizerRequest(recipe.tokenizer, recipe.chat_template, place, models, rows, config_source, find)
    answer = registry.tokenizer(request)
    if answer is None:
        raise PluginError("no plugin for tokenizers is loaded: pip install mergecore-tokenizer (and omit --no-hooks)")
    if answer.vocabulary is None:
        return Aligned(checkpoints, {}, answer.config, answer.files, answer.notes)
    _check_answer(answer.vocabulary, rows)
    shown, dtypes = _shown(checkpoints, tables, answer.vocabulary)
    names = {table.weight for table in tables}
    sizes = size_config(architecture, names, checkpoints[config_source].config, answer.vocabulary.own.shape[1])
    return Aligned(shown, dtypes, {**answer.config, **sizes}, answer.files, answer.notes, answer.vocabulary)


def _tables(architecture: Architecture, checkpoints: Sequence[Checkpoint]) -> Iterator[Table]:
    """Yield every weight with a vocabulary axis that at least one of the models has."""
    weights = {
        weight.name: weight
        for checkpoint in checkpoints
        for weight in architecture.weights(checkpoint.config, checkpoint.reference)
        if weight.vocabulary_axis is not None
    }
    for weight in weights.values():
        names = [stored_name(checkpoint, weight) for checkpoint in checkpoints]
        if not any(names):
            continue
        # The head is exposed next to the embedding if it is tied in only some of the models.
        shown = tuple(name or weight.name for name in names)
        if weight.vocabulary_axis != 0:
            raise ModelError(
                f"{weight.name}: has its vocabulary on axis {weight.vocabulary_axis}; only axis 0 is supported"
            )
        if weight.tied_to:
            names = [source_name(checkpoint, weight, architecture.name) for checkpoint in checkpoints]
        yield Table(weight.name, tuple(names), shown)


def _rows(tables: Sequence[Table], model: int, checkpoint: Checkpoint) -> int:
    """Return the number of rows in a model's tables, or 0 if it has no tables."""
    found = {name: checkpoint.tensors[name].shape[0] for table in tables if (name := table.names[model])}
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{count} in {name!r}" for name, count in found.items())
        raise ModelError(f"{checkpoint.folder}: has different numbers of tokens: {counts}; remove 'tokenizer'")
    return next(iter(found.values()), 0)


def _check_answer(vocabulary: Vocabulary, rows: Sequence[int]) -> None:
    for array in (vocabulary.own, vocabulary.common):
        if array.shape != (len(rows), vocabulary.own.shape[1]) or (array.max(axis=1, initial=-1) >= rows).any():
            raise PluginError("the tokenizer plugin uses rows that the models do not have; report it to its authors")


def _shown(
    checkpoints: Sequence[Checkpoint], tables: Sequence[Table], vocabulary: Vocabulary
) -> tuple[list[Checkpoint], dict[tuple[int, str], str]]:
    """Return the models with gathered tables, and the stored dtypes of the tables."""
    gathered: list[dict[str, Rows]] = [{} for _ in checkpoints]
    dtypes = {}
    for table in tables:
        for model, item in _gathered(table, vocabulary, checkpoints):
            gathered[model][table.shown[model]] = item
            dtypes[model, table.shown[model]] = checkpoints[model].tensors[table.names[model] or ""].kept
    return [with_rows(checkpoint, items) for checkpoint, items in zip(checkpoints, gathered)], dtypes


def _gathered(table: Table, vocabulary: Vocabulary, checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[int, Rows]]:
    """Yield the gathered table for each model that has it, with the index of the model."""
    import numpy as np

    parts = {model: (checkpoints[model], name) for model, name in enumerate(table.names) if name}
    _check_parts(table, list(parts.values()))
    holders = list(parts)
    own, common = vocabulary.own[holders], vocabulary.common[holders]
    # If a row's source model does not have this weight, use the mean of the models that do.
    lost = (vocabulary.common >= 0).any(axis=0) & (common < 0).all(axis=0)
    common = np.where(lost, own, common)
    count = (common >= 0).sum(axis=0)
    origin = np.where(count > 1, MEAN, np.where(count == 1, common.argmax(axis=0), ZERO))
    row = common.max(axis=0)
    for part, model in enumerate(holders):
        has = own[part] >= 0
        rows = np.where(has, own[part], row)
        yield model, Rows(list(parts.values()), np.where(has, part, origin), rows, common)


def _check_parts(table: Table, parts: Sequence[tuple[Checkpoint, str]]) -> None:
    infos = {checkpoint.reference: checkpoint.tensors[name] for checkpoint, name in parts}
    if len({info.shape[1:] for info in infos.values()}) > 1:
        shapes = ", ".join(f"{list(info.shape)} in {model}" for model, info in infos.items())
        raise ModelError(f"{table.weight}: the models differ in more than their vocabularies: {shapes}")
    for model, info in infos.items():
        if info.dtype not in FLOATS:
            raise ModelError(f"{table.weight}: is stored as {info.dtype} in {model}; its rows cannot be merged")
