"""Arcee Fusion: copy only the most important changes into the base model."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mergecore_numerics import Mapped, largest, row_sums

from mergecore.api import Base, Context, Tile, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = 1e-8
"""Added to each probability so that none is zero."""


@dataclass(frozen=True, kw_only=True)
class ArceeFusion(WeightMethod):
    """Copy only the outliers among the changes (https://www.julien.org/youtube/2025/20250708_Deep_Dive_-_Model_Merging_with_Arcee_Fusion.html).

    The importance of an element is |other - base| times the Kullback-Leibler divergence of its row, sum(p ln(p/q)),
    where p = softmax(row of other) + 1e-8 and q is the same for the base. Elements whose importance is at least
    median + 1.5 * (third quartile - first quartile), over the whole tensor, come from the other model. All others come
    from the base. With the n importances sorted and indexed from 0, the quartiles are at floor((n-1)/4), floor((n-1)/2)
    and floor(3(n-1)/4). A vector counts as one row.
    """

    tile = Tile.ROWS
    base = Base.REQUIRED
    models = (2, 2)
    copies_lone = True
    ignored = ("normalize", "rescale", "int8_mask")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[Tensor, float]:
        """Return the divergence of every row and the importance threshold."""
        # One block for all rows: many small long-lived tensors among short-lived tiles would fragment the heap.
        found = array("d")
        for models in tiles:
            found.extend(_divergence(models, ctx).tolist())
        import torch

        divergences = torch.tensor(found, dtype=models[0].dtype)

        def importances(models: Sequence[Tensor], offset: int) -> list[Tensor]:
            return [_importance(models, divergences, replace(ctx, offset=offset))] * 3  # one per quartile

        low, middle, high = _quartiles(Mapped(tiles, importances), math.prod(ctx.shape))
        return divergences, middle + 1.5 * (high - low)

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        import torch

        base, other = weights
        divergences, threshold = ctx.measured
        importance = _importance(weights, divergences, ctx)
        # Comparing into floats (lerp weights of 0 and 1) is several times faster than a bool mask with `torch.where`.
        chosen = torch.ge(importance, threshold, out=torch.empty_like(importance)).view_as(base)
        # The sign of a zero from lerp depends on the element's position in the tile. Adding 0.0 makes it positive.
        return torch.lerp(base, other, chosen).add_(0.0)


def _divergence(models: Sequence[Tensor], ctx: Context) -> Tensor:
    """Return the Kullback-Leibler divergence of the base from the other model for each row, in the models' dtype."""
    q, p = (model.reshape(-1, _width(ctx)).double().softmax(-1).add_(SMOOTHING) for model in models)
    # It can be negative only through rounding.
    return row_sums((p / q).log_().mul_(p)).clamp_(min=0).to(models[0].dtype)


def _importance(models: Sequence[Tensor], divergences: Tensor, ctx: Context) -> Tensor:
    """Return the flat importances of the elements of the tile at `ctx.offset`, given the divergences of all rows."""
    base, other = models
    first = ctx.offset // _width(ctx)
    of_rows = divergences[first : first + max(1, base.numel() // _width(ctx))]
    return (other - base).abs_().view(len(of_rows), -1).mul_(of_rows.unsqueeze(-1)).view(-1)


def _width(ctx: Context) -> int:
    return ctx.shape[-1] if ctx.shape else 1


def _quartiles(importances: Sequence[Sequence[Tensor]], total: int) -> list[float]:
    """Return the three quartiles. Every tile holds the importances three times, once per quartile."""
    import torch

    places = [int(share * (total - 1)) for share in (0.25, 0.5, 0.75)]
    if places[0] == 0:  # `largest` cannot return the minimum
        return torch.cat([tile[0] for tile in importances]).sort().values[places].tolist()
    return [cut.threshold for cut in largest(importances, [total - place for place in places])]
