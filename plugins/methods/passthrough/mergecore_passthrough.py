"""Passthrough: copy one model's weights, optionally scaled. With slices, stack layers of several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, PerModel, Tile, WeightMethod, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Passthrough(WeightMethod):
    """Copy one model's weights, optionally scaled. With slices, stack layers of several models.

    result = scale * model
    """

    tile = Tile.ELEMENTS
    models = (1, 1)

    scale: PerModel[float] = param(1.0, "Scale of the weights.")

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        return weights[0] * self.scale[0]
