"""Model Stock: from the base towards the mean of fine-tuned models, as far as their angles say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mergecore_numerics import cosines, gram, row_gram, total

from mergecore.api import Context, DeltaMethod, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

VANISHING = 1e-6
"""A divisor below this has no ratio: the base stays."""


@dataclass(frozen=True, kw_only=True)
class ModelStock(DeltaMethod):
    """Go to the point between base and mean that is nearest to the weights' centre (https://arxiv.org/abs/2403.19522).

    With the mean c of the cosines between the N task vectors: t = N c / (1 + (N - 1) c),
    result = base + t * mean(task vectors). A zero task vector is at right angles with all others; t is 0 where its
    divisor is, and beyond 0 and 1 where c is negative.
    """

    tile = Tile.TENSOR
    models = (2, None)

    filter_wise: bool = param(False, "A ratio for each row, along the last dimension; a vector is one row.")

    def __post_init__(self) -> None:
        # What may be cut depends on the parameter, so the instance knows better than the class.
        object.__setattr__(self, "tile", Tile.ROWS if self.filter_wise else Tile.ELEMENTS)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Tensor | None:
        """The ratio t; rows get theirs when they are merged."""
        if not self.filter_wise:
            return _ratio(gram(tiles))
        return None if ctx.shape else _ratio(gram([[delta.reshape(-1) for delta in tiles[0]]]))

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        t = _ratio(row_gram(deltas)).unsqueeze(-1) if ctx.measured is None else ctx.measured
        return total(deltas).mul_(t / len(deltas))


def _ratio(products: Tensor) -> Tensor:
    """The ratio t by the dot products [..., N, N] of the task vectors."""
    count = products.shape[-1]
    left, right = torch.triu_indices(count, count, 1)
    cosine = cosines(products)[..., left, right].mean(-1)
    divisor = 1 + (count - 1) * cosine
    return torch.where(divisor.abs() < VANISHING, 0.0, count * cosine / divisor)
