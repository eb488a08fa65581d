"""Spherical mean of models or task vectors, around their weighted mean direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mergecore_numerics import CANCELLED, gram, norm_of_sum, weighted_sum

from mergecore.api import Base, Context, DeltaMethod, InputError, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor

VANISHING = 1e-8
"""A sum of weights below this cannot be divided by."""


@dataclass(frozen=True, kw_only=True)
class MultiSlerp(DeltaMethod):
    """Average directions and lengths apart (after spherical averages, https://doi.org/10.1145/502122.502124).

    Of the models, or with a base model of their differences from it, y_i with norms n_i: the directions
    u_i = y_i / (n_i + eps), their weighted mean of direction m, and the weighted mean T of the u_i projected onto the
    tangent space at m give result = (cos(v) m + sin(v) T/v) * sum(weight_i n_i), v = |T| + eps. T is 0, since m has
    the direction of that very mean, so that result = cos(eps) m * sum(weight_i n_i), added to the base if there is one.
    Directions that cancel each other have no mean: there result = sum(weight_i y_i). A lone model is the result.
    """

    tile = Tile.ELEMENTS
    base = Base.OPTIONAL

    weight: PerModel[float] = param(1.0, "Weight of this model's direction and length; one model needs none.")
    normalize_weights: bool = param(True, "Divide the weights by their sum, which must not be 0.")
    eps: float = param(
        1e-8, "Added to norms that are divided by; a mean direction shorter than this is none.", minimum=0
    )

    def __post_init__(self) -> None:
        if self.normalize_weights and len(self.weight) > 1 and abs(sum(self.weight)) < VANISHING:
            raise InputError(
                f"multislerp: the weights {', '.join(map(str, self.weight))} add up to 0 and cannot be normalized;"
                " change them or set normalize_weights: false"
            )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """The factor of each model."""
        if len(self.weight) == 1:
            return [1.0]
        products = gram(tiles)
        norms = products.diagonal().sqrt()
        weight = torch.tensor(self.weight, dtype=torch.float64)
        if self.normalize_weights:
            weight = weight / weight.sum()
        mean = torch.where(norms == 0, 0.0, weight / (norms + self.eps))
        length = norm_of_sum(mean, products)
        if length < max(self.eps, CANCELLED * weight.abs().sum().item()):
            return weight.tolist()
        return (mean / length * math.cos(self.eps) * (weight * norms).sum()).tolist()

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        return weighted_sum(deltas, ctx.measured)
