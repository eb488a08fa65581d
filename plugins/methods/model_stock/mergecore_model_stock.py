"""Model Stock: move from the base model toward the mean of fine-tuned models, by a ratio based on their angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore_numerics import cosines, gram, row_cosines, row_gram, total

from mergecore.api import Context, DeltaMethod, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

VANISHING = 1e-6
"""If the divisor is smaller than this, the ratio is 0 and the result is the base."""


@dataclass(frozen=True, kw_only=True)
class ModelStock(DeltaMethod):
    """Move to the point between base and mean closest to the center of the weights (https://arxiv.org/abs/2403.19522).

    c is the mean cosine between the N task vectors, and t = N c / (1 + (N - 1) c).
    result = base + t * mean(task vectors). A zero task vector counts as orthogonal to all others. t is 0 if its
    divisor is 0, and can be below 0 or above 1 if c is negative.
    """

    tile = Tile.TENSOR
    models = (2, None)

    filter_wise: bool = param(False, "Compute a ratio for each row (last dimension). A vector counts as one row.")

    def __post_init__(self) -> None:
        # How a tensor can be tiled depends on the parameter, so set it on the instance.
        object.__setattr__(self, "tile", Tile.ROWS if self.filter_wise else Tile.ELEMENTS)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> float | None:
        """Return the ratio t, or None if each row's ratio is computed in `merge`."""
        if not self.filter_wise:
            return _ratio(gram(tiles))
        return None if ctx.shape else _ratio(gram([[delta.reshape(-1) for delta in tiles[0]]]))

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        t = _row_ratios(row_gram(deltas)).unsqueeze(-1) if ctx.measured is None else ctx.measured
        return total(deltas).mul_(t / len(deltas))


def _ratio(products: list[list[float]]) -> float:
    """Return the ratio t, given the dot products of the task vectors."""
    count = len(products)
    above = [cosine for place, row in enumerate(cosines(products)) for cosine in row[place + 1 :]]
    cosine = math.fsum(above) / len(above)
    divisor = 1 + (count - 1) * cosine
    return 0.0 if abs(divisor) < VANISHING else count * cosine / divisor


def _row_ratios(products: Tensor) -> Tensor:
    """Return the ratio t of each row, given the dot products [..., N, N] of the task vectors."""
    import torch

    count = products.shape[-1]
    left, right = torch.triu_indices(count, count, 1)
    cosine = row_cosines(products)[..., left, right].mean(-1)
    divisor = 1 + (count - 1) * cosine
    return torch.where(divisor.abs() < VANISHING, 0.0, count * cosine / divisor)
