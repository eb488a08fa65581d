"""A method that needs whole tensors, for `bench.planning.estimates`. No installed method does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, Tile, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SortedMean(WeightMethod):
    """The mean of models, clipped to the range between two quantiles of the first model."""

    tile = Tile.TENSOR

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        mean, ranked = sum(weights[1:], weights[0]) / len(weights), weights[0].reshape(-1).sort().values
        return mean.clamp(ranked[len(ranked) // 100], ranked[-1 - len(ranked) // 100])
