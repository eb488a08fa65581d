"""Trim, elect sign and merge (TIES)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergecore_numerics import Cut, absolute_sums, agreeing_sum, keep_largest, largest
from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param

VANISHING = 1e-7
"""A norm below this is not divided by."""


@dataclass(frozen=True, kw_only=True)
class Ties(DeltaMethod):
    """Keep each task vector's largest entries, elect a sign, average what agrees (TIES, https://arxiv.org/abs/2306.01708).

    Of each task vector the `density` largest magnitudes of the whole tensor stay; weighted, their sum gives each
    element's sign; the entries of that sign are added up and, where normalize, divided by the sum of their weights.
    result = base + lambda * that
    """

    tile = Tile.ELEMENTS
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Share of this model's task vector that is kept.", minimum=0.0, maximum=1.0)
    normalize: bool = param(True, "Divide by the sum of the weights that agree.")
    rescale: bool = param(False, "Scale what is kept of a task vector back to the L1 norm of all of it.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[list[Cut], list[float]]:
        """Where each task vector is cut off, and what scales the rest back where `rescale`."""
        total = math.prod(ctx.shape)
        counts = [total if density >= 1 else max(1, int(density * total)) if density > 0 else 0 for density in self.density]
        cuts = largest(tiles, counts) if any(count < total for count in counts) else [Cut(0.0, total - 1) for _ in counts]
        if not self.rescale:
            return cuts, [1.0] * len(cuts)
        norms = absolute_sums(_with_kept(tiles, cuts))
        whole, kept = norms[: len(cuts)], norms[len(cuts) :]
        return cuts, [a / b if min(a, b) >= VANISHING else 1.0 for a, b in zip(whole, kept, strict=True)]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        cuts, scales = ctx.measured
        kept = [
            keep_largest(delta, cut, ctx.offset).mul_(weight * scale)
            for delta, cut, weight, scale in zip(deltas, cuts, self.weight, scales, strict=True)
        ]
        return agreeing_sum(kept, self.weight, self.normalize).mul_(self.lambda_)


def _with_kept(tiles: Sequence[Sequence[Tensor]], cuts: Sequence[Cut]) -> Iterator[Sequence[Tensor]]:
    """Tiles of the task vectors, followed in each by what is kept of them."""
    offset = 0
    for deltas in tiles:
        yield [*deltas, *(keep_largest(delta, cut, offset) for delta, cut in zip(deltas, cuts, strict=True))]
        offset += deltas[0].numel()
