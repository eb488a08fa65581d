"""Arcee Fusion: only the changes that matter most come into the base model."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from mergecore_numerics import Mapped, largest, row_sums

from mergecore.api import Base, Context, Tile, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = 1e-8
"""Added to each probability, so that none is 0."""


@dataclass(frozen=True, kw_only=True)
class ArceeFusion(WeightMethod):
    """Take over the outliers among the changes (https://www.julien.org/youtube/2025/20250708_Deep_Dive_-_Model_Merging_with_Arcee_Fusion.html).

    The importance of a weight is |other - base| times the Kullback-Leibler divergence of its row, sum(p ln(p/q)), with
    p = softmax(other's row) + 1e-8 and q likewise of the base. Weights at least as important as
    median + 1.5 (third quartile - first quartile) of the whole tensor are the other model's, the rest the base's. Of
    all n importances in order, counted from 0, the quartiles are those at floor((n-1)/4), floor((n-1)/2) and
    floor(3(n-1)/4). A vector is one row.
    """

    tile = Tile.ROWS
    base = Base.REQUIRED
    models = (2, 2)
    copies_lone = True
    ignored = ("normalize", "rescale", "int8_mask")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[Tensor, float]:
        """The divergence of every row, and the least importance that is enough."""
        # One block for all: many small tensors that stay, among tiles that come and go, leave the heap full of holes.
        found = array("d")
        for models in tiles:
            found.extend(_divergence(models, ctx).tolist())
        divergences = torch.tensor(found, dtype=models[0].dtype)

        def importances(models: Sequence[Tensor], offset: int) -> list[Tensor]:
            return [_importance(models, divergences, replace(ctx, offset=offset))] * 3  # one for each quartile

        low, middle, high = _quartiles(Mapped(tiles, importances), math.prod(ctx.shape))
        return divergences, middle + 1.5 * (high - low)

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        base, other = weights
        divergences, threshold = ctx.measured
        importance = _importance(weights, divergences, ctx)
        # A comparison into floats, as lerp's weights 0 and 1, costs a fraction of one into bools and a choice by them.
        chosen = torch.ge(importance, threshold, out=torch.empty_like(importance)).view_as(base)
        # Lerp makes 0.0 or -0.0 of a zero, as the element's place in the tile has it; adding 0.0 makes all 0.0.
        return torch.lerp(base, other, chosen).add_(0.0)


def _divergence(models: Sequence[Tensor], ctx: Context) -> Tensor:
    """The Kullback-Leibler divergence of each row of the base from the other's, in the models' dtype."""
    q, p = (model.reshape(-1, _width(ctx)).double().softmax(-1).add_(SMOOTHING) for model in models)
    # Rounding alone makes it negative.
    return row_sums(torch.div(p, q).log_().mul_(p)).clamp_(min=0).to(models[0].dtype)


def _importance(models: Sequence[Tensor], divergences: Tensor, ctx: Context) -> Tensor:
    """The importance of each weight of a tile that begins at `ctx.offset`, flat, by the divergences of all rows."""
    base, other = models
    first = ctx.offset // _width(ctx)
    of_rows = divergences[first : first + max(1, base.numel() // _width(ctx))]
    return torch.sub(other, base).abs_().view(len(of_rows), -1).mul_(of_rows.unsqueeze(-1)).view(-1)


def _width(ctx: Context) -> int:
    return ctx.shape[-1] if ctx.shape else 1


def _quartiles(importances: Sequence[Sequence[Tensor]], total: int) -> list[float]:
    """The three quartiles; every tile holds the importances once for each."""
    places = [int(share * (total - 1)) for share in (0.25, 0.5, 0.75)]
    if places[0] == 0:  # `largest` does not look for the smallest of all
        return torch.cat([tile[0] for tile in importances]).sort().values[places].tolist()
    return [cut.threshold for cut in largest(importances, [total - place for place in places])]
