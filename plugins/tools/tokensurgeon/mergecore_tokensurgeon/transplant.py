"""The plan of a transplant: the donor's tokenizer, tables with its rows, all other weights as they are."""

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
    ModelInfo,
    OutputTokenizer,
    PluginError,
    Tile,
    TokenizerRequest,
    WeightMethod,
)
from mergecore.definitions.config import with_keys
from mergecore.discovery.registry import Registry
from mergecore.documents import Place
from mergecore.models.references import locate
from mergecore.planning.plan import Plan
from mergecore.planning.vocabulary import size_config
from mergecore.recipes.recipe import Recipe, parse_recipe
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
    """A model with another's tokenizer: rows of shared tokens stay its own, the others are made of them."""

    tile = Tile.ELEMENTS
    models = (1, 1)


def make_transplant(
    model: str, donor: str, settings: Settings, registry: Registry, workers: int, command: str
) -> tuple[Plan, Mapping[str, Table]]:
    """Plan a transplant.

    Args:
        model, donor: their folders.
        settings: what the user chose.
        registry: the plugins.
        workers: threads that make new rows.
        command: what of ``mergecore`` makes the same again.

    Returns:
        The plan, and its tables with one row a token, which are computed.

    Raises:
        InputError: whatever is wrong with the models, their tokenizers or the settings.
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
        ours = Tokens(sides[0].checkpoint.folder, answer.tokens[0], sides[0].rows)
        theirs = Tokens(sides[1].checkpoint.folder, answer.tokens[1], size)
        origins = Origins(sides[0], sides[1], ours, theirs, size, settings)
        tables = _tables(origins)
        return _plan(recipe, origins, answer, tables, workers, command), tables
    except BaseException:
        for side in sides:
            side.checkpoint.close()
        raise


def _recipe(model: str, donor: str, settings: Settings, command: str) -> Recipe:
    """The settings as the rest of core knows them: a recipe of the model alone."""
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
    """The donor's tokenizer files, the special tokens' numbers for the configs, and both vocabularies."""
    opened = [side.checkpoint for side in sides]
    models = [ModelInfo(item.reference, item.folder, item.config) for item in opened]
    rows = [side.rows for side in sides]
    request = TokenizerRequest({"source": donor}, None, opened[0].folder, models, rows, 0, lambda name: locate(name)[0])
    answer = registry.tokenizer(request)
    if answer is None or not answer.tokens:
        raise PluginError("no installed package reads tokenizers: pip install mergecore-tokenizer")
    if answer.tokens[1] is answer.tokens[0] and opened[1].folder.resolve() != opened[0].folder.resolve():
        raise InputError(f"{donor}: has no tokenizer files, such as tokenizer.json; fetch them too")
    return answer


def _tables(origins: Origins) -> dict[str, Table]:
    """Every table of the output; biases and the like get zeros where the model has no such token.

    Raises:
        InputError: there are no shared tokens to make rows of.
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
                f"{models} have no token in common to make new rows of; see that the tokenizers are theirs"
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
    """What gives the model's rows for the text of a donor's token."""
    from tokenizers import Tokenizer

    path = origins.ours.folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # the library's own are all of that class
        raise InputError(f"{path}: --method subword needs it to cut text, and it is not there or broken") from None

    def pieces(row: int) -> Sequence[int]:
        text = meanings.text(origins.theirs.meanings[row])
        return [number for number in tokenizer.encode(text, add_special_tokens=False).ids if number < origins.ours.rows]

    return pieces


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
        donor=0,
        jobs=tuple(Job(name, info, (Input(0, name, info),), None) for name, info in shown.tensors.items()),
        config=with_keys(own.config, {**answer.config, **sizes}),
        dropped=len(origins.donor.checkpoint.tensors),
        notes=(*origins.model.notes, *_notes(origins, tables)),
        tokenizer_files=answer.files,
        command=command,
    )


def _made_of(origins: Origins, tables: Mapping[str, Table]) -> str:
    """A digest of all that decides the tables beside the models' files, which core looks at itself."""
    donor = str(origins.donor.checkpoint.folder.resolve())
    parts = [version("mergecore-tokensurgeon"), donor, repr(origins.settings)]
    digest = hashlib.sha256("\0".join(parts).encode())
    for table in tables.values():
        digest.update(table.source.tobytes())
    return digest.hexdigest()


def _notes(origins: Origins, tables: Mapping[str, Table]) -> list[str]:
    """How many rows come from where, for each table unless all are alike."""
    lines: dict[str, list[str]] = {}
    for name, table in tables.items():
        counts = origins.counts(table.source)
        words = [f"{counts['kept']} rows kept", f"{counts['made']} made by {origins.settings.method}"]
        words += [f"{counts['matched']} taken from a byte's or a prefix's"] if counts["matched"] else []
        words += [f"{counts['zero']} zero"] if counts["zero"] else []
        lines.setdefault(", ".join(words), []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in lines.items()]
