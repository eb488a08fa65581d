"""MultiSLERP: spherical mean of models or task vectors around their weighted mean direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore_numerics import CANCELLED, gram, norm_of_sum, weighted_sum

from mergecore.api import Base, Context, DeltaMethod, InputError, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

VANISHING = 1e-8
"""Sums of weights smaller than this cannot be used as a divisor."""


@dataclass(frozen=True, kw_only=True)
class MultiSlerp(DeltaMethod):
    """Average directions and norms separately (based on spherical averages, https://doi.org/10.1145/502122.502124).

    The y_i are the models, or their task vectors if there is a base model. With norms n_i and directions
    u_i = y_i / (n_i + eps), m is the direction of the weighted mean of the u_i, and T is the weighted mean of the u_i
    projected onto the tangent space at m. With v = |T| + eps, result = (cos(v) m + sin(v) T/v) * sum(weight_i n_i).
    T is always 0, because m is the direction of that mean, so result = cos(eps) m * sum(weight_i n_i), added to the
    base if there is one. If the directions cancel out, they have no mean and result = sum(weight_i y_i). A single model
    is returned unchanged.
    """

    tile = Tile.ELEMENTS
    base = Base.OPTIONAL

    weight: PerModel[float] = param(1.0, "Weight of this model's direction and norm. A single model ignores it.")
    normalize_weights: bool = param(True, "Divide the weights by their sum, which must not be zero.")
    eps: float = param(1e-8, "Added to norms before dividing. A mean shorter than this has no direction.", minimum=0)

    def __post_init__(self) -> None:
        if self.normalize_weights and len(self.weight) > 1 and abs(sum(self.weight)) < VANISHING:
            raise InputError(
                f"multislerp: the weights {', '.join(map(str, self.weight))} add up to 0 and cannot be normalized;"
                " change them or set normalize_weights: false"
            )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """Return the factor of each model."""
        if len(self.weight) == 1:
            return [1.0]
        products = gram(tiles)
        norms = [math.sqrt(row[place]) for place, row in enumerate(products)]
        total = math.fsum(self.weight) if self.normalize_weights else 1.0  # sum() rounds differently since Python 3.12
        weights = [weight / total for weight in self.weight]
        mean = [weight / (norm + self.eps) if norm else 0.0 for weight, norm in zip(weights, norms)]
        length = norm_of_sum(mean, products)
        if not length > max(self.eps, CANCELLED * math.fsum(map(abs, weights))):  # or it is NaN
            return weights
        scale = math.cos(self.eps) * math.fsum(weight * norm for weight, norm in zip(weights, norms))
        return [factor / length * scale for factor in mean]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        return weighted_sum(deltas, ctx.measured)
