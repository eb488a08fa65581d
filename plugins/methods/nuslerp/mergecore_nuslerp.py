"""NuSLERP: spherical interpolation of two models or task vectors, as a whole or row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore_numerics import cosines, gram, row_cosines, row_gram, weighted_sum

from mergecore.api import Base, Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

OPPOSITE = -0.9995
"""Below this cosine, interpolate linearly: the arc between nearly opposite vectors depends only on rounding."""
VANISHING = 1e-6
"""If the sum of the weights is smaller than this, they count as equal."""


@dataclass(frozen=True, kw_only=True)
class NuSlerp(DeltaMethod):
    """Interpolate along the arc between two models or task vectors (Shoemake 1985, https://doi.org/10.1145/325165.325242).

    The vectors x_1 and x_2 are the models, or their task vectors if there is a base model, and
    t = weight_2 / (weight_1 + weight_2). result = (sin((1-t) angle) x_1 + sin(t angle) x_2) / sin(angle), added to the
    base if there is one. Equal and nearly opposite vectors are interpolated linearly. A zero vector counts as
    orthogonal to all others. A tensor with fewer than two dimensions is one vector in all modes.
    """

    tile = Tile.TENSOR
    base = Base.OPTIONAL
    models = (2, 2)
    copies_lone = True

    weight: PerModel[float] = param(1.0, "Weight of this model. t is the second model's weight over the sum of both.")
    nuslerp_flatten: bool = param(True, "Treat the whole tensor as one vector.")
    nuslerp_row_wise: bool = param(
        False,
        "Applies if nuslerp_flatten is false. False interpolates vectors along the last dimension (rows of an [out, in]"
        " matrix), true along the first (columns). The name suggests the opposite, but existing recipes rely on this.",
    )

    def __post_init__(self) -> None:
        # How a tensor can be tiled depends on the parameters, so set it on the instance.
        object.__setattr__(self, "tile", Tile.ELEMENTS if self.nuslerp_flatten else Tile.ROWS)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Sequence[float | Tensor] | None:
        """Return the factors of the two vectors or of each column, or None if rows get theirs in `merge`."""
        if self.nuslerp_flatten:
            return self._factors(gram(tiles))
        if len(ctx.shape) < 2:
            return self._factors(gram([[model.reshape(-1) for model in tiles[0]]]))
        return self._row_factors(_column_gram(tiles)) if self.nuslerp_row_wise else None

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        factors = ctx.measured or [factor.unsqueeze(-1) for factor in self._row_factors(row_gram(deltas))]
        return weighted_sum(deltas, factors)

    @property
    def _shares(self) -> tuple[float, float]:
        """1 - t and t."""
        total = math.fsum(self.weight)  # sum() rounds differently since Python 3.12
        t = 0.5 if abs(total) < VANISHING else self.weight[1] / total
        return 1 - t, t

    def _factors(self, products: list[list[float]]) -> Sequence[float]:
        """Return the factors of x_1 and x_2, given their dot products."""
        cosine = cosines(products)[0][1]
        if cosine == 1 or cosine < OPPOSITE:
            return self._shares
        angle = math.acos(cosine)
        return [math.sin(share * angle) / math.sin(angle) for share in self._shares]

    def _row_factors(self, products: Tensor) -> list[Tensor]:
        """Return the factors of the rows of x_1 and x_2, given their dot products [..., 2, 2]."""
        import torch

        cosine = row_cosines(products)[..., 0, 1]
        angle = cosine.acos()
        straight = (cosine == 1) | (cosine < OPPOSITE)
        sine = angle.sin()
        return [torch.where(straight, share, (share * angle).sin() / sine) for share in self._shares]


def _column_gram(tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the dot products of the models along the first dimension, [*columns, models, models] in float64."""
    import torch

    total: Tensor | None = None
    for models in tiles:
        exact = [model.double() for model in models]
        # Row by row, so that neither the order of additions nor any bit depends on the tiling.
        for row in torch.stack([one * other for one in exact for other in exact], 1):
            total = row if total is None else total + row
    assert total is not None
    return total.movedim(0, -1).reshape(*total.shape[1:], 2, 2)
