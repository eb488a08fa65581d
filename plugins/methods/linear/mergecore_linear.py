"""Linear: weighted mean of models (Model Soups)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, InputError, PerModel, Tile, WeightMethod, param

if TYPE_CHECKING:
    from torch import Tensor


VANISHING = 1e-8
"""Sums of weights smaller than this cannot be used as a divisor."""


@dataclass(frozen=True, kw_only=True)
class Linear(WeightMethod):
    """Weighted mean of models (Model Soups, https://arxiv.org/abs/2203.05482).

    result = sum(weight * model), divided by sum(weight) if normalize is set.
    """

    tile = Tile.ELEMENTS

    weight: PerModel[float] = param(doc="Weight of this model.")
    normalize: bool = param(True, "Divide by the sum of the weights.")

    def __post_init__(self) -> None:
        if self.normalize and abs(math.fsum(self.weight)) < VANISHING:
            raise InputError(
                f"linear: the weights {', '.join(map(str, self.weight))} add up to 0 and cannot be normalized;"
                " change them or set normalize: false"
            )

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        total = weights[0] * self.weight[0]
        for weight, tensor in zip(self.weight[1:], weights[1:], strict=True):
            total.add_(tensor, alpha=weight)
        # Not sum(), which rounds differently since Python 3.12.
        return total.div_(math.fsum(self.weight)) if self.normalize else total
