"""The model and the donor, each with its tables that have one row per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mergecore.api import FLOATS, ModelError
from mergecore.tooling import (
    Architecture,
    Checkpoint,
    Recipe,
    Registry,
    Weight,
    fit_checkpoints,
    open_model,
    recipe_definitions,
    stored_name,
)
from mergecore_tokensurgeon.tables import Stored


@dataclass(frozen=True)
class Side:
    """A model's weights, architecture, and notes for the user."""

    checkpoint: Checkpoint
    architecture: Architecture
    notes: Sequence[str]

    @cached_property
    def tables(self) -> Mapping[str, Weight]:
        """Weights with one row per token, by their names in the checkpoint."""
        weights = self.architecture.weights(self.checkpoint.config, self.checkpoint.reference)
        found = {stored_name(self.checkpoint, item): item for item in weights if item.vocabulary_axis is not None}
        return {name: item for name, item in found.items() if name is not None}

    @property
    def rows(self) -> int:
        return self.matrix(False).info.shape[0]

    def is_head(self, name: str) -> bool:
        """Return whether a table is the head. A head that is tied to the embedding has no table."""
        after = {weight.name for module in self.architecture.modules.values() for weight in module.after}
        return self.tables[name].name in after

    def matrix(self, head: bool) -> Stored:
        """Return the embedding or the head. Without a separate head, the embedding serves as the head.

        Raises:
            ModelError: There is none, or there are several.
        """
        matrices = [name for name in self.tables if len(self.checkpoint.tensors[name].shape) == 2]
        wanted = [name for name in matrices if self.is_head(name) is head]
        if head and not wanted:
            return self.matrix(False)
        if len(wanted) != 1:
            what = f"several {'heads' if head else 'embeddings'} ({', '.join(wanted)})" if wanted else "no embedding"
            raise ModelError(f"{self.checkpoint.reference}: has {what} with one row per token; it must have one")
        return Stored(self.checkpoint, wanted[0])


def open_side(reference: str, registry: Registry, recipe: Recipe) -> Side:
    """Open a model and find its architecture.

    Raises:
        InputError: The model cannot be used.
    """
    checkpoint = open_model(reference, registry)
    try:
        architecture, (fitted,), notes = fit_checkpoints(
            recipe_definitions(recipe.architectures), registry, [checkpoint], 0
        )
        side = Side(fitted, architecture, notes)
        _check(side)
    except BaseException:
        checkpoint.close()
        raise
    return side


def _check(side: Side) -> None:
    """Check that every table has a float dtype, tokens along its rows, and the same number of rows."""
    for name, weight in side.tables.items():
        info, where = side.checkpoint.tensors[name], f"{side.checkpoint.reference}: {name}"
        if weight.vocabulary_axis != 0:
            raise ModelError(f"{where}: has tokens along axis {weight.vocabulary_axis}; only rows are supported")
        if info.dtype not in FLOATS:
            raise ModelError(f"{where}: is stored as {info.dtype}, which is not supported")
        if info.shape[0] != side.rows:
            counts = f"{info.shape[0]} rows, but the embedding has {side.rows}"
            raise ModelError(f"{where}: has {counts}; both must have one per token")
