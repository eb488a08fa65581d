"""Plan a transplant: the donor's tokenizer, tables with rows for its tokens, and all other weights unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import yaml

from mergecore.api import (
    Input,
    InputError,
    Job,
    ModelError,
    OutputTokenizer,
    PluginError,
    Tile,
    TokenizerRequest,
    WeightMethod,
    encode_texts,
)
from mergecore.tooling import Place, Plan, Recipe, Registry, parse_recipe, size_config, with_keys
from mergecore_tokensurgeon import meanings
from mergecore_tokensurgeon.approximations.rotated import rotation
from mergecore_tokensurgeon.meanings import Tokens
from mergecore_tokensurgeon.origins import Origins
from mergecore_tokensurgeon.settings import Settings
from mergecore_tokensurgeon.sides import Side, open_side
from mergecore_tokensurgeon.tables import MADE, Stored, Table, Tables
from mergecore_tokensurgeon.task import Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenSurgeon(WeightMethod):
    """A model with another model's tokenizer. Rows of shared tokens are kept, and the others are built from them."""

    tile = Tile.ELEMENTS
    models = (1, 1)


def make_transplant(
    model: str, donor: str, settings: Settings, registry: Registry, workers: int, command: str
) -> tuple[Plan, Mapping[str, Table]]:
    """Plan a transplant.

    Args:
        model, donor: Folders of the models.
        settings: The user's choices.
        registry: The plugins.
        workers: Number of threads that compute new rows.
        command: The arguments of ``mergecore`` that reproduce the result.

    Returns:
        The plan, and its computed tables with one row per token.

    Raises:
        InputError: There is an error in the models, their tokenizers, or the settings.
    """
    recipe = _recipe(model, donor, settings, command)
    registry.before_plan(recipe.place.value)
    sides: list[Side] = []
    try:
        for reference in (model, donor):
            sides.append(open_side(reference, registry, recipe))
        answer = _tokenizer(sides, donor, registry)
        assert answer.vocabulary is not None
        size = answer.vocabulary.own.shape[1]
        ours = Tokens(sides[0].checkpoint.info.tokenizer_folder, answer.tokens[0], sides[0].rows)
        theirs = Tokens(sides[1].checkpoint.info.tokenizer_folder, answer.tokens[1], size)
        origins = Origins(sides[0], sides[1], ours, theirs, size, settings)
        tables = _tables(origins)
        return _plan(recipe, origins, answer, tables, workers, command), tables
    except BaseException:
        for side in sides:
            side.checkpoint.close()
        raise


def _recipe(model: str, donor: str, settings: Settings, command: str) -> Recipe:
    """Convert the settings to what the core expects: a recipe with only the model."""
    chosen = {name: getattr(value, "value", value) for name, value in asdict(settings).items()}
    text = yaml.safe_dump({"model": model, "donor": donor, **chosen}, sort_keys=False)
    value = {
        "merge_method": "tokensurgeon",
        "base_model": model,
        "models": [{"model": model}],
        "seed": settings.seed,
    }
    return parse_recipe(Place(value), f"# mergecore {command}\n{text}")


def _tokenizer(sides: Sequence[Side], donor: str, registry: Registry) -> OutputTokenizer:
    """Return the donor's tokenizer files, the special token IDs for the configs, and both vocabularies."""
    opened = [side.checkpoint for side in sides]
    models = [item.info for item in opened]
    rows, folders = [side.rows for side in sides], {item.reference: item.tokenizer_folder for item in models}
    request = TokenizerRequest({"source": donor}, None, opened[0].folder, models, rows, 0, folders.__getitem__)
    answer = registry.tokenizer(request)
    if answer is None or not answer.tokens:
        raise PluginError("no installed package can read tokenizers: pip install mergecore-tokenizer")
    ours, theirs = (item.tokenizer_folder.resolve() for item in models)
    if answer.tokens[1] is answer.tokens[0] and ours != theirs:
        raise InputError(f"{donor}: has no tokenizer files, such as tokenizer.json; download them too")
    return answer


def _tables(origins: Origins) -> dict[str, Table]:
    """Return every table of the output. Biases are zero for tokens that the model does not have.

    Raises:
        InputError: There are no shared tokens to build rows from.
    """
    pieces = _pieces(origins) if origins.settings.method == "subword" else lambda row: ()
    if origins.settings.method == "mp_rope":
        for side in (origins.model, origins.donor):
            rotation(side.checkpoint.config, side.matrix(False).info.shape[1])
    tables = {}
    for name in origins.model.tables:
        stored, head = Stored(origins.model.checkpoint, name), origins.model.is_head(name)
        matrix = len(stored.info.shape) == 2
        source = origins.table(head) if matrix else origins.shared
        theirs = origins.donor.matrix(head) if matrix else None
        tables[name] = Table(stored, theirs, source, partial(_task, origins, pieces, head))
        if (source == MADE).any() and not (origins.shared >= 0).any():
            models = " and ".join(side.checkpoint.reference for side in (origins.model, origins.donor))
            raise InputError(
                f"{models} have no token in common to build new rows from; check that the tokenizers are the right ones"
            )
    return tables


def _task(origins: Origins, pieces: Callable[[int], Sequence[int]], head: bool, model: Tensor, donor: Tensor) -> Task:
    import torch

    tokens = np.isin(np.arange(len(donor)), list(origins.theirs.meanings))
    there = np.flatnonzero(tokens[: origins.size] & (origins.shared[: len(donor)] >= 0))
    configs = (origins.model.checkpoint.config, origins.donor.checkpoint.config)
    here = torch.from_numpy(origins.shared[there])
    return Task(model, donor, here, torch.from_numpy(there), head, origins.settings, pieces, configs)


def _pieces(origins: Origins) -> Callable[[int], Sequence[int]]:
    """Return a function that maps a donor row to the model's rows for the same text."""
    path = origins.ours.folder / "tokenizer.json"
    texts = {row: meanings.text(meaning) for row, meaning in origins.theirs.meanings.items()}
    try:
        ids = encode_texts(path, list(texts.values()))
    except ModelError as error:
        raise InputError(f"--method subword needs the model's tokenizer: {error}") from None
    found = {row: [number for number in numbers if number < origins.ours.rows] for row, numbers in zip(texts, ids)}
    return found.__getitem__


def _plan(
    recipe: Recipe, origins: Origins, answer: OutputTokenizer, tables: Mapping[str, Table], workers: int, command: str
) -> Plan:
    reader, own = Tables(tables, workers), origins.model.checkpoint
    shown = replace(
        own,
        tensors={**own.tensors, **reader.tensors},
        readers={**own.readers, **dict.fromkeys(tables, reader)},
        files=[*own.files, reader],
        made_of=_made_of(origins, tables),
    )
    names = {weight.name for weight in origins.model.tables.values()}
    sizes = size_config(origins.model.architecture, names, own.config, origins.size)
    return Plan(
        recipe=recipe,
        method=TokenSurgeon,
        architecture=origins.model.architecture,
        checkpoints=(shown, origins.donor.checkpoint),
        config_source=0,
        jobs=tuple(Job(name, info, (Input(0, name, info),), None) for name, info in shown.tensors.items()),
        config=with_keys(own.config, {**answer.config, **sizes}),
        dropped=len(origins.donor.checkpoint.tensors),
        notes=(*origins.model.notes, *_notes(origins, tables)),
        tokenizer_files=answer.files,
        command=command,
    )


def _made_of(origins: Origins, tables: Mapping[str, Table]) -> str:
    """Return a digest of everything that affects the tables except the model files, which the core checks."""
    donor = origins.donor.checkpoint.origin
    parts = [version("mergecore-tokensurgeon"), donor, repr(origins.settings)]
    digest = hashlib.sha256("\0".join(parts).encode())
    for table in tables.values():
        digest.update(table.source.tobytes())
    return digest.hexdigest()


def _notes(origins: Origins, tables: Mapping[str, Table]) -> list[str]:
    """Return notes on the sources of the rows, grouping tables with the same counts."""
    lines: dict[str, list[str]] = {}
    for name, table in tables.items():
        counts = origins.counts(table.source)
        words = [f"{counts['kept']} rows kept", f"{counts['made']} created by {origins.settings.method}"]
        words += [f"{counts['matched']} matched by byte or prefix"] if counts["matched"] else []
        words += [f"{counts['zero']} zero"] if counts["zero"] else []
        lines.setdefault(", ".join(words), []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in lines.items()]
