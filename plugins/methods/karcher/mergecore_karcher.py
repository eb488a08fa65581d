"""The Karcher mean of models: the point of the sphere that is nearest to all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mergecore_numerics import CANCELLED, cosines, gram, norm_of_sum, weighted_sum

from mergecore.api import Context, Tile, WeightMethod, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Karcher(WeightMethod):
    """Find the models' centre of mass on the sphere (Karcher 1977, https://doi.org/10.1002/cpa.3160300502).

    Of the models' directions u_i (zero tensors have none) the mean m begins at the normalized average and moves by the
    average T of the u_i's logarithms at m, (angle_i / sin(angle_i)) (u_i - cos(angle_i) m), to
    cos|T| m + sin|T| T/|T|, until |T| < tol; result = m * the mean of all models' norms.
    Where the average vanishes, as that of two opposite models, m begins at the first; what lies opposite of m does not
    pull at it. All m are sums of the u_i, so the search needs but their dot products.
    """

    tile = Tile.ELEMENTS

    max_iter: int = param(10, "Steps at most.", minimum=0)
    tol: float = param(1e-5, "A step, or the angle to a model, smaller than this is none.", minimum=0)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """The factor of each model."""
        products = gram(tiles)
        norms = products.diagonal().sqrt()
        directed = norms.nonzero().flatten()
        factors = torch.zeros_like(norms)
        if len(directed):
            factors[directed] = self._mean(cosines(products)[directed][:, directed]) / norms[directed]
        return (factors * norms.mean()).tolist()

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        return weighted_sum(weights, ctx.measured)

    def _mean(self, cosine: Tensor) -> Tensor:
        """The mean direction as factors of the directions whose cosines these are."""
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
        length = norm_of_sum(mean, cosine)
        if length < max(self.tol, CANCELLED):
            return torch.eye(len(mean), dtype=mean.dtype)[0]
        return mean / length
