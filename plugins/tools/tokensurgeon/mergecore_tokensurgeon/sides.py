"""The model and the donor: their tables with one row a token, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mergecore.api import FLOATS, ModelError
from mergecore.definitions.config import TIES, get_key
from mergecore.definitions.definition import Architecture, Weight
from mergecore.discovery.registry import Registry
from mergecore.models.adapters import open_model
from mergecore.models.architecture_lookup import fit, own_definitions
from mergecore.models.checkpoint import Checkpoint
from mergecore.planning.matching import stored
from mergecore.recipes.recipe import Recipe
from mergecore_tokensurgeon.tables import Stored


@dataclass(frozen=True)
class Side:
    """A model's weights, what it is, and what the user should know of that."""

    checkpoint: Checkpoint
    architecture: Architecture
    notes: Sequence[str]

    @cached_property
    def tables(self) -> Mapping[str, Weight]:
        """The weights that have one row a token, by their names in the checkpoint."""
        weights = self.architecture.weights(self.checkpoint.config, self.checkpoint.reference)
        found = {stored(self.checkpoint, item): item for item in weights if item.vocabulary_axis is not None}
        return {name: item for name, item in found.items() if name is not None}

    @cached_property
    def tied(self) -> bool:
        """Whether its config says that the head is the embedding, even where both are stored."""
        return any(get_key(self.checkpoint.config, key) is True for key in TIES)

    @property
    def rows(self) -> int:
        return self.matrix(False).info.shape[0]

    def is_head(self, name: str) -> bool:
        """Whether a table is at the model's end and is not the embedding again."""
        after = {weight.name for module in self.architecture.modules.values() for weight in module.after}
        return self.tables[name].name in after and not self.tied

    def matrix(self, head: bool) -> Stored:
        """The embedding, or the head; where there is none apart, the embedding is it.

        Raises:
            ModelError: it has none, or several.
        """
        matrices = [name for name in self.tables if len(self.checkpoint.tensors[name].shape) == 2]
        wanted = [name for name in matrices if self.is_head(name) is head]
        if self.tied:
            wanted = wanted[:1]
        if head and not wanted:
            return self.matrix(False)
        if len(wanted) != 1:
            what = f"several {'heads' if head else 'embeddings'} ({', '.join(wanted)})" if wanted else "no embedding"
            raise ModelError(f"{self.checkpoint.reference}: has {what} with one row a token; it must have one")
        return Stored(self.checkpoint, wanted[0])


def open_side(reference: str, registry: Registry, recipe: Recipe) -> Side:
    """Open a model and find what it is.

    Raises:
        InputError: it cannot be used, in a sentence.
    """
    checkpoint = open_model(reference, registry)
    try:
        architecture, (fitted,), notes = fit(own_definitions(recipe.architectures), registry, [checkpoint], 0)
        side = Side(fitted, architecture, notes)
        _check(side)
    except BaseException:
        checkpoint.close()
        raise
    return side


def _check(side: Side) -> None:
    """Every table must be of numbers that can be averaged, with the tokens along its rows, as many in each."""
    for name, weight in side.tables.items():
        info, where = side.checkpoint.tensors[name], f"{side.checkpoint.reference}: {name}"
        if weight.vocabulary_axis != 0:
            raise ModelError(f"{where}: has its tokens along axis {weight.vocabulary_axis}; only rows can be moved")
        if info.dtype not in FLOATS:
            raise ModelError(f"{where}: is stored as {info.dtype}; its rows cannot be moved")
        if info.shape[0] != side.rows:
            counts = f"{info.shape[0]} rows, the embedding {side.rows}"
            raise ModelError(f"{where}: has {counts}; both must have one for each token")
