"""Task arithmetic: add a weighted sum of task vectors to the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

VANISHING = 1e-8
"""If the sum of the weights is smaller than this, do not divide by it."""


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(DeltaMethod):
    """Add a weighted sum of task vectors to the base (https://arxiv.org/abs/2212.04089).

    result = base + lambda * sum(weight * (model - base)), with the sum divided by sum(weight) if normalize is set.
    """

    tile = Tile.ELEMENTS
    ignored = ("density", "rescale", "int8_mask")

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    normalize: bool = param(False, "Divide by the sum of the weights.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        total = deltas[0] * self.weight[0]
        for weight, delta in zip(self.weight[1:], deltas[1:], strict=True):
            total.add_(delta, alpha=weight)
        divisor = math.fsum(self.weight) if self.normalize else 1.0
        return total.mul_(self.lambda_ / (divisor if abs(divisor) >= VANISHING else 1.0))
