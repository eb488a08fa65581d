"""Select by variance, weigh by energy, erase the minority (SCE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mergecore_numerics import Cut, Mapped, Masks, dots, elect_sign, keep_largest, largest, total
from torch import Tensor

from mergecore.api import Context, DeltaMethod, Tile, param


@dataclass(frozen=True, kw_only=True)
class Sce(DeltaMethod):
    """Weigh task vectors by their energy where models disagree most (SCE, https://arxiv.org/abs/2408.07990).

    Select: where select_topk < 1, only the int(select_topk * c) elements of largest variance over the models stay, of
    the c whose variance is not zero (equals: the first); all other elements of the task vectors are zero from here on.
    Calculate: weight = sum(delta^2) of a model, divided by the sum of those of all models; equal weights where all
    deltas are zero. Erase: agreeing = the deltas of the sign of sum(delta), element by element;
    result = base + sum(weight * agreeing) / sum(their weights), base where none agrees.

    Both divisions are guarded at exactly zero, with no absolute floor: deltas of any size are weighed.
    """

    tile = Tile.ELEMENTS
    ignored = ("int8_mask",)

    select_topk: float = param(
        1.0, "Share of the elements that differ between models that is merged.", minimum=0.0, maximum=1.0
    )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[Selection | None, list[float]]:
        """Which elements are selected (None: all), and each model's weight."""
        selection = None
        if self.select_topk < 1:
            varying = sum(_varying(deltas) for deltas in tiles)
            spreads = Mapped(tiles, lambda deltas, _: [_spread(deltas)])
            (cut,) = largest(spreads, [int(self.select_topk * varying)])
            selection = Selection(cut, Masks())
            tiles = Mapped(tiles, selection.of)
        models = range(len(tiles[0]))
        energy = dots(tiles, [(model, model) for model in models])
        energies = math.fsum(energy)
        return selection, [1 / len(models) if energies == 0 else part / energies for part in energy]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        selection, weights = ctx.measured
        if selection is not None:
            deltas = selection.of(deltas, ctx.offset)
        sign = elect_sign(total(deltas))
        merged, share = torch.zeros_like(sign), torch.zeros_like(sign)
        for delta, weight in zip(deltas, weights, strict=True):
            agreeing = torch.mul(sign, delta).relu_()
            merged.add_(agreeing, alpha=weight)
            share.add_(agreeing.sign_(), alpha=weight)
        return merged.mul_(sign).div_(share.add_(torch.eq(share, 0, out=sign)))


@dataclass(frozen=True)
class Selection:
    """The elements whose spread over the models `cut` keeps, drawn into `masks` where they are first asked for."""

    cut: Cut
    masks: Masks

    def of(self, deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
        """The deltas of a tile, zero where they are not selected; NaN stays."""
        mask = self.masks.get(0, offset, deltas[0], partial(self._mask, deltas, offset))
        return [delta * mask for delta in deltas]

    def _mask(self, deltas: Sequence[Tensor], offset: int) -> Tensor:
        kept = keep_largest(_spread(deltas), self.cut, offset)
        return torch.ne(kept, 0, out=torch.empty_like(deltas[0], dtype=torch.float32))


def _varying(deltas: Sequence[Tensor]) -> int:
    """In how many elements the models differ."""
    differing = torch.zeros_like(deltas[0])
    for delta in deltas[1:]:
        differing.add_(torch.ne(delta, deltas[0], out=torch.empty_like(delta)))
    return int(torch.count_nonzero(differing))


def _spread(deltas: Sequence[Tensor]) -> Tensor:
    """The variance over the n models of each element, times n^2, in float64; exactly zero where all are equal.

    With the differences d from the first model, n sum(d^2) - sum(d)^2: its first term is at least n / (n - 1) times
    the second, so that nothing cancels.
    """
    first, others = deltas[0].double(), deltas[1:]
    if not others:
        return torch.zeros_like(first)
    summed = others[0] - first
    squares = summed * summed
    for other in others[1:]:
        difference = other - first
        summed.add_(difference)
        squares.addcmul_(difference, difference)
    return squares.mul_(len(deltas)).addcmul_(summed, summed, value=-1)
