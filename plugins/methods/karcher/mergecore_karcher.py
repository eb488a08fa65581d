"""Karcher mean: the point on the sphere that is closest to all models."""

from __future__ import annotations

import math
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
        norms = products.diagonal().sqrt()
        directed = norms.nonzero().flatten()
        factors = norms.clone().zero_()
        if len(directed):
            factors[directed] = self._mean(cosines(products)[directed][:, directed]) / norms[directed]
        return (factors * norms.mean()).tolist()

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        return weighted_sum(weights, ctx.measured)

    def _mean(self, cosine: Tensor) -> Tensor:
        """Return the mean direction as factors of the directions, given their pairwise cosines."""
        import torch

        share = 1 / len(cosine)
        mean = self._normalized(torch.full_like(cosine[0], share), cosine)
        for _ in range(self.max_iter):
            towards = (cosine * mean).sum(1).clamp(-1, 1)
            angle = towards.acos()
            pulls = (angle >= self.tol) & (angle <= math.pi - CANCELLED)
            pull = torch.where(pulls, share / torch.sinc(angle / math.pi), 0.0)
            tangent = pull - (pull * towards).sum() * mean
            length = norm_of_sum(tangent, cosine)
            if length < self.tol:
                break
            mean = self._normalized(length.cos() * mean + torch.sinc(length / math.pi) * tangent, cosine)
        return mean

    def _normalized(self, mean: Tensor, cosine: Tensor) -> Tensor:
        import torch

        length = norm_of_sum(mean, cosine)
        if length < max(self.tol, CANCELLED):
            return torch.eye(len(mean), dtype=mean.dtype)[0]
        return mean / length
