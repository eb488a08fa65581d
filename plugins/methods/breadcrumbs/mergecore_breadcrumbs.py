"""Drop the largest and the smallest changes (Model Breadcrumbs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mergecore_numerics import Cut, Mapped, agreeing_sum, keep_largest, l1_scales, largest, plain_sum, weighted
from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param


class Band(NamedTuple):
    """The magnitudes that are kept: those that `lower` keeps and `upper` does not."""

    lower: Cut
    upper: Cut


@dataclass(frozen=True, kw_only=True)
class _Breadcrumbs(DeltaMethod):
    """What both variants do to a task vector before they add up."""

    tile = Tile.ELEMENTS
    measured_by = ("density", "gamma", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Share of this model's task vector that is kept.", minimum=0.0, maximum=1.0)
    gamma: PerModel[float] = param(0.01, "Share of the largest magnitudes that is dropped.", minimum=0.0, maximum=1.0)
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(False, "Scale what is kept of a task vector back to the L1 norm of all of it.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[list[Band], list[float]]:
        """The band of magnitudes that is kept of each task vector, and what scales the rest back where `rescale`."""
        total, models = math.prod(ctx.shape), len(self.density)
        shares = [counts(total, density, gamma) for density, gamma in zip(self.density, self.gamma, strict=True)]
        wanted = [*(top + kept for top, kept in shares), *(top for top, _ in shares)]
        cuts = largest(Mapped(tiles, lambda deltas, _: [*deltas, *deltas]), wanted)
        bands = [Band(*ends) for ends in zip(cuts[:models], cuts[models:], strict=True)]
        if not self.rescale:
            return bands, [1.0] * models
        return bands, l1_scales(tiles, lambda deltas, offset: _kept(deltas, bands, offset))

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """The entries of each task vector that are in its band."""
        return _kept(deltas, ctx.measured[0], ctx.offset)

    def _weighted(self, kept: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        return weighted(kept, self.weight, ctx.measured[1])


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(_Breadcrumbs):
    """Drop the largest and the smallest entries of each task vector, add up (https://arxiv.org/abs/2312.06795).

    Of the N magnitudes of a task vector's tensor, in descending order, of equals the first first, kept are int(density
    * N) after the int(gamma * N) largest; where fewer than that are left, the smallest int(density * N). A density of
    1 keeps all, whatever gamma is. result = base + lambda * sum(weight * kept), the sum divided by sum(weight) where
    normalize.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(_Breadcrumbs):
    """Drop the largest and the smallest entries, elect a sign, add up what agrees (https://arxiv.org/abs/2312.06795).

    kept as in breadcrumbs; the sign of sum(weight * kept) is elected for each element; agreeing = those weight * kept
    that have it (TIES, https://arxiv.org/abs/2306.01708); result = base + lambda * sum(agreeing), the sum divided by
    the sum of their weights where normalize.
    """

    normalize: bool = param(False, "Divide by the sum of the weights that agree.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


def counts(total: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest of `total` magnitudes are dropped, and how many of those that follow are kept."""
    if density >= 1:
        return 0, total
    kept = int(density * total)
    return min(int(gamma * total), total - kept), kept


def _kept(deltas: Sequence[Tensor], bands: Sequence[Band], offset: int) -> list[Tensor]:
    """New tensors; a difference of two selections is exact, and NaN stays."""
    return [
        keep_largest(delta, band.lower, offset).sub_(keep_largest(delta, band.upper, offset))
        for delta, band in zip(deltas, bands, strict=True)
    ]
