"""Karcher mean: the point on the sphere that is closest to all models."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore_numerics import CANCELLED, cosines, gram, norm_of_sum, weighted_sum

from mergecore.api import Context, Tile, WeightMethod, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Karcher(WeightMethod):
    """Find the models' center of mass on the sphere (Karcher 1977, https://doi.org/10.1002/cpa.3160300502).

    Given the models' directions u_i (a zero tensor has none), the mean m starts at their normalized average. Each step
    computes T, the average of the logarithmic maps (angle_i / sin(angle_i)) (u_i - cos(angle_i) m) of the u_i at m, and
    moves m to cos|T| m + sin|T| T/|T|, until |T| < tol. result = m * mean(norms of all models).
    If the average vanishes, as for two opposite models, m starts at the first direction. A direction opposite to m is
    ignored. Every m is a linear combination of the u_i, so the search needs only their dot products.
    """

    tile = Tile.ELEMENTS

    max_iter: int = param(10, "Maximum number of steps.", minimum=0)
    tol: float = param(1e-5, "Steps and angles smaller than this count as zero.", minimum=0)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """Return the factor of each model."""
        products = gram(tiles)
        norms = [math.sqrt(row[place]) for place, row in enumerate(products)]
        directed = [place for place, norm in enumerate(norms) if norm]
        cosine = cosines(products)
        mean = self._mean([[cosine[i][j] for j in directed] for i in directed]) if directed else []
        factors = dict(zip(directed, mean))
        length = math.fsum(norms) / len(norms)
        return [factors[place] / norm * length if norm else 0.0 for place, norm in enumerate(norms)]

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        return weighted_sum(weights, ctx.measured)

    def _mean(self, cosine: list[list[float]]) -> list[float]:
        """Return the mean direction as factors of the directions, given their pairwise cosines."""
        share = 1 / len(cosine)
        mean = self._normalized([share] * len(cosine), cosine)
        for _ in range(self.max_iter):
            towards = [_limited(math.fsum(map(operator.mul, row, mean))) for row in cosine]
            pull = [share / _sinc(angle) if self.tol <= angle <= math.pi - CANCELLED else 0.0
                    for angle in map(math.acos, towards)]  # fmt: skip
            along = math.fsum(map(operator.mul, pull, towards))
            tangent = [part - along * factor for part, factor in zip(pull, mean)]
            length = norm_of_sum(tangent, cosine)
            if length < self.tol:
                break
            moved = [math.cos(length) * factor + _sinc(length) * part for factor, part in zip(mean, tangent)]
            mean = self._normalized(moved, cosine)
        return mean

    def _normalized(self, mean: list[float], cosine: list[list[float]]) -> list[float]:
        length = norm_of_sum(mean, cosine)
        if length < max(self.tol, CANCELLED):
            return [1.0] + [0.0] * (len(mean) - 1)
        return [factor / length for factor in mean]


def _limited(cosine: float) -> float:
    return min(max(cosine, -1.0), 1.0)


def _sinc(angle: float) -> float:
    """Return sin(angle) / angle, which is 1 at 0."""
    return math.sin(angle) / angle if angle else 1.0
