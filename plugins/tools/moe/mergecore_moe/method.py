"""The method that transforms an expert's weights for the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, Tile, WeightMethod, param
from mergecore_moe.noise import gaussian

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Moe(WeightMethod):
    """A mixture of experts: the MLPs of several models behind routers, with all other weights from the base.

    expert = scale * (weight + noise * N(0, 1))
    """

    tile = Tile.ELEMENTS
    models = (1, 1)

    noise: float = param(0.0, "Standard deviation of the noise added to each element.")
    scale: float = param(1.0, "Factor of the last projection.")

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        weight = weights[0]
        if self.noise:
            weight = weight + self.noise * gaussian(ctx.random(0, weight), ctx.random(1, weight))
        return weight * self.scale
