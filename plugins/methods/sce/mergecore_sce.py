"""SCE: select elements by variance, weight models by energy, and erase minority signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mergecore_numerics import Cut, Mapped, Masks, dots, elect_sign, keep_largest, largest, models_in, total

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

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[Selection | None, list[float]]:
        """Return the selected elements (None: all) and each model's weight."""
        selection = None
        if self.select_topk < 1:
            varying = sum(_varying(deltas) for deltas in tiles)
            spreads = Mapped(tiles, lambda deltas, _: [_spread(deltas)])
            (cut,) = largest(spreads, [int(self.select_topk * varying)])
            selection = Selection(cut, Masks())
            tiles = Mapped(tiles, selection.of)
        models = range(models_in(tiles))
        energy = dots(tiles, [(model, model) for model in models])
        energies = math.fsum(energy)
        return selection, [1 / len(models) if energies == 0 else part / energies for part in energy]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        selection, weights = ctx.measured
        if selection is not None:
            deltas = selection.of(deltas, ctx.offset)
        sign = elect_sign(total(deltas))
        merged, share = sign.clone().zero_(), sign.clone().zero_()
        for delta, weight in zip(deltas, weights, strict=True):
            agreeing = (sign * delta).relu_()
            merged.add_(agreeing, alpha=weight)
            share.add_(agreeing.sign_(), alpha=weight)
        return merged.mul_(sign).div_(share.add_(sign.copy_(share).eq_(0)))


@dataclass(frozen=True)
class Selection:
    """The elements whose variance across models passes `cut`. Masks are computed on first use and kept in `masks`."""

    cut: Cut
    masks: Masks

    def of(self, deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
        """Return the deltas of a tile with unselected elements set to zero. NaN stays NaN."""
        mask = self.masks.get(0, offset, deltas[0], partial(self._mask, deltas, offset))
        return [delta * mask for delta in deltas]

    def _mask(self, deltas: Sequence[Tensor], offset: int) -> Tensor:
        import torch

        kept = keep_largest(_spread(deltas), self.cut, offset)
        return torch.ne(kept, 0, out=torch.empty_like(deltas[0], dtype=torch.float32))


def _varying(deltas: Sequence[Tensor]) -> int:
    """Return the number of elements in which the models differ."""
    import torch

    differing = torch.zeros_like(deltas[0])
    for delta in deltas[1:]:
        differing.add_(torch.ne(delta, deltas[0], out=torch.empty_like(delta)))
    return int(torch.count_nonzero(differing))


def _spread(deltas: Sequence[Tensor]) -> Tensor:
    """Return n^2 times each element's variance across the n models, in float64. It is exactly 0 if all are equal.

    With d the differences from the first model, this is n sum(d^2) - sum(d)^2. The first term is at least n / (n - 1)
    times the second, which avoids catastrophic cancellation.
    """
    first, others = deltas[0].double(), deltas[1:]
    if not others:
        return first.clone().zero_()
    summed = others[0] - first
    squares = summed * summed
    for other in others[1:]:
        difference = other - first
        summed.add_(difference)
        squares.addcmul_(difference, difference)
    return squares.mul_(len(deltas)).addcmul_(summed, summed, value=-1)
