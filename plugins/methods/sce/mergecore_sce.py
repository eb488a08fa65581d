"""SCE: select elements by variance, weight models by energy, and erase minority signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mergecore_numerics import Cut, Mapped, dots, elect_sign, keep_largest, largest, models_in, nonzeros, total

from mergecore.api import Context, DeltaMethod, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sce(DeltaMethod):
    """Weight task vectors by their energy where the models differ most (SCE, https://arxiv.org/abs/2408.07990).

    Select: if select_topk < 1, keep only the int(select_topk * c) elements with the largest variance across models, out
    of the c elements with nonzero variance (ties in index order). Set all other elements of the task vectors to zero.
    Calculate: a model's weight is its sum(delta^2) divided by the sum over all models. The weights are equal if all
    deltas are zero. Erase: agreeing contains the deltas with the sign of sum(delta), element by element.
    result = base + sum(weight * agreeing) / sum(their weights), or the base if none agrees.

    Both divisions are guarded only against exactly zero, with no absolute floor, so deltas of any size count.
    """

    tile = Tile.ELEMENTS
    ignored = ("int8_mask",)

    select_topk: float = param(
        1.0, "Fraction of elements to merge, out of those that differ between models.", minimum=0.0, maximum=1.0
    )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[Cut | None, list[float]]:
        """Return the cut through the spreads (None: all elements are selected) and each model's weight."""
        cut = None
        if self.select_topk < 1:
            spreads = Mapped(tiles, lambda deltas, _: [_spread(deltas)])
            (varying,) = nonzeros(spreads)
            (cut,) = largest(spreads, [int(self.select_topk * varying)])
            tiles = Mapped(tiles, partial(_selected, cut))
        models = range(models_in(tiles))
        energy = dots(tiles, [(model, model) for model in models])
        energies = math.fsum(energy)
        return cut, [1 / len(models) if energies == 0 else part / energies for part in energy]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        cut, weights = ctx.measured
        if cut is not None:
            deltas = _selected(cut, deltas, ctx.offset)
        sign = elect_sign(total(deltas))
        merged, share = sign.clone().zero_(), sign.clone().zero_()
        for delta, weight in zip(deltas, weights, strict=True):
            agreeing = (sign * delta).relu_()
            merged.add_(agreeing, alpha=weight)
            share.add_(agreeing.sign_(), alpha=weight)
        return merged.mul_(sign).div_(share.add_(sign.copy_(share).eq_(0)))


def _selected(cut: Cut, deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
    """Return the deltas of a tile with the elements set to zero whose spread does not pass `cut`. NaN stays NaN."""
    mask = keep_largest(_spread(deltas), cut, offset).ne(0).to(deltas[0].dtype)
    return [delta * mask for delta in deltas]


def _spread(deltas: Sequence[Tensor]) -> Tensor:
    """Return n^2 times each element's variance across the n models, in float64. It is exactly 0 if all are equal.

    With d the differences from the first model, this is n sum(d^2) - sum(d)^2. The first term is at least n / (n - 1)
    times the second, which avoids catastrophic cancellation.
    """
    first, *others = (delta.double() for delta in deltas)
    if not others:
        return first.clone().zero_()
    summed = others[0] - first
    squares = summed * summed
    for other in others[1:]:
        difference = other - first
        summed.add_(difference)
        squares.add_(difference * difference)  # not addcmul, which some processors round once
    return squares.mul_(len(deltas)).sub_(summed * summed)
