"""Model Breadcrumbs: drop the largest and the smallest entries of each task vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mergecore_numerics import Cut, agreeing_sum, keep_largest, l1_scales, largest, plain_sum, weighted

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


class Band(NamedTuple):
    """The band of magnitudes to keep: those that `lower` keeps and `upper` does not."""

    lower: Cut
    upper: Cut


@dataclass(frozen=True, kw_only=True)
class _Breadcrumbs(DeltaMethod):
    """Parameters and sparsification shared by both variants."""

    tile = Tile.ELEMENTS
    measured_by = ("density", "gamma", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Fraction of each task vector's entries to keep.", minimum=0.0, maximum=1.0)
    gamma: PerModel[float] = param(0.01, "Fraction of the largest magnitudes to drop.", minimum=0.0, maximum=1.0)
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(False, "Rescale what remains of each task vector to its original L1 norm.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[list[Band], list[float]]:
        """Return the band of magnitudes to keep of each task vector, and its scale if `rescale` is set."""
        total, models = math.prod(ctx.shape), len(self.density)
        shares = [counts(total, density, gamma) for density, gamma in zip(self.density, self.gamma, strict=True)]
        wanted = [*(top + kept for top, kept in shares), *(top for top, _ in shares)]
        cuts = largest(tiles, wanted)
        bands = [Band(*ends) for ends in zip(cuts[:models], cuts[models:], strict=True)]
        if not self.rescale:
            return bands, [1.0] * models
        return bands, l1_scales(tiles, lambda deltas, offset: _kept(deltas, bands, offset))

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """Return each task vector with the entries outside its band set to zero."""
        return _kept(deltas, ctx.measured[0], ctx.offset)

    def _weighted(self, kept: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        return weighted(kept, self.weight, ctx.measured[1])


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(_Breadcrumbs):
    """Drop the largest and smallest entries of each task vector, then add them up (https://arxiv.org/abs/2312.06795).

    Sort the N magnitudes of a task vector's tensor in descending order, with ties in index order. Skip the
    int(gamma * N) largest and keep the next int(density * N). If fewer are left, keep the int(density * N) smallest.
    A density of 1 keeps everything, regardless of gamma. result = base + lambda * sum(weight * kept), with the sum
    divided by sum(weight) if normalize is set.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(_Breadcrumbs):
    """Drop the largest and smallest entries, elect signs, and add up what agrees (https://arxiv.org/abs/2312.06795).

    kept is the same as in breadcrumbs. The elected sign of an element is that of sum(weight * kept), and agreeing
    contains the weight * kept terms with that sign (TIES, https://arxiv.org/abs/2306.01708).
    result = base + lambda * sum(agreeing), with the sum divided by the sum of their weights if normalize is set.
    """

    normalize: bool = param(False, "Divide by the sum of the weights whose entries agree with the elected sign.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


def counts(total: int, density: float, gamma: float) -> tuple[int, int]:
    """Return how many of the largest of `total` magnitudes to drop and how many of the next ones to keep."""
    if density >= 1:
        return 0, total
    kept = int(density * total)
    return min(int(gamma * total), total - kept), kept


def _kept(deltas: Sequence[Tensor], bands: Sequence[Band], offset: int) -> list[Tensor]:
    """Return new tensors. The difference of two selections is exact, and NaN stays NaN."""
    return [
        keep_largest(delta, band.lower, offset).sub_(keep_largest(delta, band.upper, offset))
        for delta, band in zip(deltas, bands, strict=True)
    ]
