"""Trim, elect sign and merge (TIES)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mergecore_numerics import Cut, agreeing_sum, keep_largest, l1_scales, largest, weighted
from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class Ties(DeltaMethod):
    """Keep each task vector's largest entries, elect a sign, average what agrees (TIES, https://arxiv.org/abs/2306.01708).

    Of each task vector the `density` largest magnitudes of the whole tensor stay; weighted, their sum gives each
    element's sign; the entries of that sign are added up and, where normalize, divided by the sum of their weights.
    result = base + lambda * that
    """

    tile = Tile.ELEMENTS
    measured_by = ("density", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Share of this model's task vector that is kept.", minimum=0.0, maximum=1.0)
    normalize: bool = param(True, "Divide by the sum of the weights that agree.")
    rescale: bool = param(False, "Scale what is kept of a task vector back to the L1 norm of all of it.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[list[Cut], list[float]]:
        """Where each task vector is cut off, and what scales the rest back where `rescale`."""
        total = math.prod(ctx.shape)
        counts = [_kept(density, total) for density in self.density]
        cuts = largest(tiles, counts) if min(counts) < total else [Cut(0.0, total - 1)] * len(counts)
        scales = l1_scales(tiles, partial(_keep, cuts)) if self.rescale else [1.0] * len(cuts)
        return cuts, scales

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """The entries of each task vector that are kept."""
        return _keep(ctx.measured[0], deltas, ctx.offset)

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        scaled = weighted(kept, self.weight, ctx.measured[1])
        return agreeing_sum(scaled, self.weight, self.normalize).mul_(self.lambda_)


def _kept(density: float, total: int) -> int:
    """How many of `total` entries a density keeps: at least one, unless it is zero."""
    return 0 if density == 0 else total if density == 1 else max(1, int(density * total))


def _keep(cuts: Sequence[Cut], deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
    return [keep_largest(delta, cut, offset) for delta, cut in zip(deltas, cuts, strict=True)]
