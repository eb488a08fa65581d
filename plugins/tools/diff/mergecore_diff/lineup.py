"""Line up models: match every weight of the base with its counterpart in each other model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mergecore.api import FLOATS, ArchitectureError, ModelError
from mergecore.tooling import (
    Architecture,
    Checkpoint,
    Registry,
    Rows,
    Weight,
    fit_checkpoints,
    open_model,
    stored_name,
    token_ids,
    with_rows,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """One weight of the base and its tensor in each model.

    Attributes:
        name: Name in the base's architecture.
        layer: Layer number, prefixed with the module name if several modules have layers. Empty outside the layers.
        kind: Name without the layer, with every other number replaced by ``*``.
        tensors: Tensor name by model position. The base is at 0 and always has one.
    """

    name: str
    layer: str
    kind: str
    tensors: Mapping[int, str]


@dataclass(frozen=True)
class Lineup:
    """Models opened for comparison. The first is the base.

    Attributes:
        checkpoints: Models with the base's names and layout, and with only the rows of the tokens that all share.
        architecture: The base's architecture.
        rows: Every weight that the base and at least one other model have in the same shape.
        strangers: Why a model cannot be compared at all, by position.
        lacking, added, reshaped: Tensors that only the base has, that only the model has, and that have a
            different shape in the model, by position.
        notes: Anything else the user should know.
    """

    checkpoints: tuple[Checkpoint, ...]
    architecture: Architecture
    rows: tuple[Row, ...]
    strangers: Mapping[int, str] = field(default_factory=dict)
    lacking: Mapping[int, Sequence[str]] = field(default_factory=dict)
    added: Mapping[int, Sequence[str]] = field(default_factory=dict)
    reshaped: Mapping[int, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Model references as the user gave them."""
        return [checkpoint.reference for checkpoint in self.checkpoints]

    @property
    def others(self) -> list[int]:
        """Positions of the models, other than the base, that can be compared."""
        return [model for model in range(1, len(self.checkpoints)) if model not in self.strangers]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of `others`."""
        return [(one, other) for one in self.others for other in self.others if one < other]

    def close(self) -> None:
        """Close the files."""
        for checkpoint in self.checkpoints:
            checkpoint.close()


def line_up(references: Sequence[str], registry: Registry) -> Lineup:
    """Open models and match every weight of the first one with the others, using its architecture.

    Raises:
        InputError: A model cannot be opened, or the first model does not match its architecture.
    """
    checkpoints: list[Checkpoint] = []
    try:
        for reference in references:
            checkpoints.append(open_model(reference, registry))
        return _matched(checkpoints, registry)
    except BaseException:
        for checkpoint in checkpoints:
            checkpoint.close()
        raise


def _matched(checkpoints: Sequence[Checkpoint], registry: Registry) -> Lineup:
    architecture, (base,), notes = fit_checkpoints({}, registry, checkpoints[:1], 0)
    shown, strangers = [base], {}
    for model, checkpoint in enumerate(checkpoints[1:], 1):
        try:
            _, (_, fitted), more = fit_checkpoints({}, registry, [checkpoints[0], checkpoint], 0)
        except (ModelError, ArchitectureError) as error:
            fitted, strangers[model] = checkpoint, str(error)
        else:
            notes += [note for note in more if note not in notes]
        shown.append(fitted)
    shown, told = _with_shared_rows(shown, architecture, strangers)
    return _rows(Lineup(tuple(shown), architecture, (), strangers, notes=(*notes, *told)))


def _rows(lineup: Lineup) -> Lineup:
    """Fill in the rows of a line-up, and the tensors without a counterpart."""
    base, *_ = lineup.checkpoints
    lacking: dict[int, list[str]] = {}
    reshaped: dict[int, list[str]] = {}
    known: set[str] = set()
    rows, whole_numbers = [], 0
    for layer, kind, weight in weights(lineup.architecture, base):
        known |= {weight.name, *weight.aliases}
        found = {model: name for model in (0, *lineup.others) if (name := _name(lineup.checkpoints[model], weight))}
        if 0 not in found or not any(stored_name(lineup.checkpoints[model], weight) for model in found):
            continue  # an optional weight that the base does not have, or a head that is tied in every model
        infos = {model: lineup.checkpoints[model].tensors[name] for model, name in found.items()}
        for model in lineup.others:
            if model not in found:
                lacking.setdefault(model, []).append(weight.name)
            elif infos[model].shape != infos[0].shape:
                reshaped.setdefault(model, []).append(weight.name)
                del found[model]
        if any(infos[model].dtype not in FLOATS for model in found):
            whole_numbers += 1
        elif len(found) > 1:
            rows.append(Row(weight.name, layer, kind, found))
    names = {model: sorted(set(lineup.checkpoints[model].tensors) - known) for model in lineup.others}
    note = f"{whole_numbers} integer tensor(s) are not compared"
    return replace(
        lineup,
        rows=tuple(rows),
        lacking=lacking,
        added={model: extra for model, extra in names.items() if extra},
        reshaped=reshaped,
        notes=(*lineup.notes, *([note] if whole_numbers else [])),
    )


def _name(checkpoint: Checkpoint, weight: Weight) -> str | None:
    """Return the tensor that a checkpoint stores for a weight. For a tied head, this is the embedding."""
    tied = stored_name(checkpoint, Weight(weight.tied_to)) if weight.tied_to else None
    return stored_name(checkpoint, weight) or tied


def weights(architecture: Architecture, checkpoint: Checkpoint) -> Iterator[tuple[str, str, Weight]]:
    """Yield every weight that a checkpoint can have, with its layer and kind (see `Row`)."""
    stacks = [name for name, module in architecture.modules.items() if module.layers_key]
    for name, module in architecture.modules.items():
        label = f"{name} " if len(stacks) > 1 else ""
        for weight in module.before:
            yield "", _kind(weight.name, ""), weight
        for index in range(module.layer_count(checkpoint.config, checkpoint.reference)):
            for weight in module.in_layer(index):
                yield f"{label}{index}", label + _kind(weight.name, module.prefix(index)), weight
        for weight in module.after:
            yield "", _kind(weight.name, ""), weight


def _kind(name: str, prefix: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name.removeprefix(prefix).removesuffix(".weight"))


def _with_shared_rows(
    checkpoints: Sequence[Checkpoint], architecture: Architecture, strangers: Mapping[int, str]
) -> tuple[list[Checkpoint], list[str]]:
    """Reduce the models to the rows of the tokens that all share, if their tokenizers differ."""
    shown = list(checkpoints)
    models = [model for model in range(len(checkpoints)) if model not in strangers]
    tables = [weight for _, _, weight in weights(architecture, checkpoints[0]) if weight.vocabulary_axis == 0]
    names = {model: {n for weight in tables if (n := _name(checkpoints[model], weight))} for model in models}
    sizes = {model: {checkpoints[model].tensors[name].shape[0] for name in names[model]} for model in models}
    ids = {model: token_ids(checkpoints[model].info.tokenizer_folder) for model in models}
    same = len({frozenset(found.items()) if found else None for found in ids.values()}) == 1
    if len(set().union(*sizes.values())) < 2 and (same or None in ids.values()):
        return shown, []
    if None in ids.values() or not all(sizes.values()):
        return shown, []  # only the shapes can be compared
    rows = _shared_rows([ids[model] or {} for model in models], [min(sizes[model]) for model in models])
    for model, numbers in zip(models, rows):
        shown[model] = _with_rows(shown[model], names[model], numbers)
    return shown, [f"embeddings and heads are compared for the {len(rows[0])} tokens that all models have"]


def _shared_rows(ids: Sequence[Mapping[str, int]], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return, per model, the rows of the tokens that all models have a row for, in the order of the first model."""
    import numpy as np

    shared = [token for token in sorted(ids[0], key=ids[0].__getitem__)
              if all(found.get(token, size) < size for found, size in zip(ids, sizes))]  # fmt: skip
    return [np.array([found[token] for token in shared], np.int64) for found in ids]


def _with_rows(checkpoint: Checkpoint, names: set[str], rows: NDArray[np.int64]) -> Checkpoint:
    import numpy as np

    none = np.full((1, len(rows)), -1)
    gathered = {name: Rows([(checkpoint, name)], np.zeros_like(rows), rows, none) for name in names}
    return with_rows(checkpoint, gathered)
