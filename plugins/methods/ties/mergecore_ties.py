"""TIES: trim, elect sign, and merge task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mergecore_numerics import Cut, agreeing_sum, keep_largest, l1_scales, largest, weighted

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ties(DeltaMethod):
    """Trim each task vector, elect signs, and average the entries that agree (TIES, https://arxiv.org/abs/2306.01708).

    kept contains the entries of a task vector with the largest magnitudes in the whole tensor, a fraction of `density`.
    The elected sign of an element is that of sum(weight * kept), and agreeing contains the weight * kept terms with it.
    result = base + lambda * sum(agreeing), with the sum divided by the sum of their weights if normalize is set.
    """

    tile = Tile.ELEMENTS
    measured_by = ("density", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Fraction of each task vector's entries to keep.", minimum=0.0, maximum=1.0)
    normalize: bool = param(True, "Divide by the sum of the weights whose entries agree with the elected sign.")
    rescale: bool = param(False, "Rescale what remains of each task vector to its original L1 norm.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[list[Cut], list[float]]:
        """Return the cutoff of each task vector, and its scale if `rescale` is set."""
        total = math.prod(ctx.shape)
        counts = [_kept(density, total) for density in self.density]
        cuts = largest(tiles, counts) if min(counts) < total else [Cut(0.0, total - 1)] * len(counts)
        scales = l1_scales(tiles, partial(_keep, cuts)) if self.rescale else [1.0] * len(cuts)
        return cuts, scales

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """Return each task vector with the trimmed entries set to zero."""
        return _keep(ctx.measured[0], deltas, ctx.offset)

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        scaled = weighted(kept, self.weight, ctx.measured[1])
        return agreeing_sum(scaled, self.weight, self.normalize).mul_(self.lambda_)


def _kept(density: float, total: int) -> int:
    """Return how many of `total` entries to keep: at least one, unless the density is zero."""
    return 0 if density == 0 else total if density == 1 else max(1, int(density * total))


def _keep(cuts: Sequence[Cut], deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
    return [keep_largest(delta, cut, offset) for delta, cut in zip(deltas, cuts, strict=True)]
