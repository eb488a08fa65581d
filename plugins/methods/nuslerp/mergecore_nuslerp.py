"""Spherical interpolation of two models or task vectors, as wholes or row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mergecore_numerics import cosines, gram, row_gram, weighted_sum

from mergecore.api import Base, Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

OPPOSITE = -0.9995
"""Cosine below which the way is a straight line: between nearly opposite vectors rounding alone picks the arc."""
VANISHING = 1e-6
"""Weights whose sum is below this count as equal."""


@dataclass(frozen=True, kw_only=True)
class NuSlerp(DeltaMethod):
    """Go along the arc between two models or task vectors (Shoemake 1985, https://doi.org/10.1145/325165.325242).

    t = weight_2 / (weight_1 + weight_2); the vectors x_1 and x_2 are the models, or with a base model their
    differences from it; result = (sin((1-t) angle) x_1 + sin(t angle) x_2) / sin(angle), added to the base if there is
    one. Equal and nearly opposite vectors go a straight line; a zero vector is at right angles with all others.
    A tensor of fewer than two dimensions is one vector in all modes.
    """

    tile = Tile.TENSOR
    base = Base.OPTIONAL
    models = (2, 2)
    copies_lone = True

    weight: PerModel[float] = param(1.0, "This model's share of the way: t is the second's share of the sum.")
    nuslerp_flatten: bool = param(True, "Take the whole tensor as one vector.")
    nuslerp_row_wise: bool = param(
        False,
        "Where not flattened: false interpolates vectors along the last dimension, the rows of an [out, in] matrix;"
        " true those along the first, its columns. So recipes have always meant it, whatever the name says.",
    )

    def __post_init__(self) -> None:
        # What may be cut depends on the parameters, so the instance knows better than the class.
        object.__setattr__(self, "tile", Tile.ELEMENTS if self.nuslerp_flatten else Tile.ROWS)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[Tensor] | None:
        """The factors of the two vectors, or of each column; rows get theirs when they are merged."""
        if self.nuslerp_flatten:
            return self._factors(gram(tiles))
        if len(ctx.shape) < 2:
            return self._factors(gram([[model.reshape(-1) for model in tiles[0]]]))
        return self._factors(_column_gram(tiles)) if self.nuslerp_row_wise else None

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        factors = ctx.measured or [factor.unsqueeze(-1) for factor in self._factors(row_gram(deltas))]
        return weighted_sum(deltas, factors)

    def _factors(self, products: Tensor) -> list[Tensor]:
        """The factors of x_1 and x_2 by their dot products [..., 2, 2]."""
        total = sum(self.weight)
        t = 0.5 if abs(total) < VANISHING else self.weight[1] / total
        cosine = cosines(products)[..., 0, 1]
        angle = cosine.acos()
        straight = (cosine == 1) | (cosine < OPPOSITE)
        sine = angle.sin()
        return [torch.where(straight, share, (share * angle).sin() / sine) for share in (1 - t, t)]


def _column_gram(tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    """The dot products of the models along the first dimension, [*columns, models, models] in float64."""
    total: Tensor | None = None
    for models in tiles:
        exact = [model.double() for model in models]
        # One row after the other: the order, and so the last bit, is the same wherever the tiles end.
        for row in torch.stack([one * other for one in exact for other in exact], 1):
            total = row if total is None else total + row
    assert total is not None
    return total.movedim(0, -1).reshape(*total.shape[1:], 2, 2)
