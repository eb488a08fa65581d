"""Average what several models change, keep what one alone changes (RAM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergecore.api import Context, DeltaMethod, Tile, param


@dataclass(frozen=True, kw_only=True)
class Ram(DeltaMethod):
    """Average elements that several models change, keep those that one alone changes (https://arxiv.org/abs/2601.13572).

    A model changes an element where |delta| > epsilon; c = how many models change it;
    result = base + sum(the changing deltas) / max(c, 1).
    """

    tile = Tile.ELEMENTS

    epsilon: float = param(1e-5, "Differences up to this are no change.", minimum=0.0)

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        changes, count = _changes(deltas, self.epsilon)
        total = changes[0]
        for change in changes[1:]:
            total.add_(change)
        return total.div_(count.clamp_(min=1))


@dataclass(frozen=True, kw_only=True)
class RamPlusTl(DeltaMethod):
    """RAM, with what one model alone changes strengthened by how much it shares (https://arxiv.org/abs/2601.13572).

    A model changes an element where |delta| > epsilon; c = how many models change it. Of the elements of the whole
    tensor that a model changes, S are changed by others too and U are not; rho = S / max(U, epsilon), and its factor is
    1 + r * min(rho, alpha). result = base + sum(delta * factor) where c = 1, base + sum(the changing deltas) / c
    where c > 1.
    """

    tile = Tile.ELEMENTS

    epsilon: float = param(1e-5, "Differences up to this are no change.", minimum=0.0)
    r: float = param(0.1, "Strength of the factor on what one model alone changes.")
    alpha: float = param(0.2, "Largest ratio of shared to own changes that counts.", minimum=0.0)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """The factor of each model."""
        shared, own = [0] * len(tiles[0]), [0] * len(tiles[0])
        for deltas in tiles:
            changes, count = _changes(deltas, self.epsilon)
            alone = torch.eq(count, 1, out=count)
            for model, change in enumerate(changes):
                lone = int(torch.count_nonzero(_is_change(change).mul_(alone)))
                own[model] += lone
                shared[model] += int(torch.count_nonzero(change)) - lone
        # A model without changes of its own has nothing that the factor could act on.
        ratios = [s / max(u, self.epsilon) if u else 0.0 for s, u in zip(shared, own, strict=True)]
        return [1 + self.r * min(ratio, self.alpha) for ratio in ratios]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        changes, count = _changes(deltas, self.epsilon)
        alone = torch.eq(count, 1, out=torch.empty_like(count))
        share = count.clamp_(min=1).reciprocal_()
        total = torch.zeros_like(share)
        for change, factor in zip(changes, ctx.measured, strict=True):
            total.addcmul_(change, torch.add(share, alone, alpha=factor - 1))
        return total


def _changes(deltas: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """The deltas, zero where they are no change (NaN is one), and how many models change each element."""
    changes = [torch.hardshrink(delta, epsilon) for delta in deltas]
    count = torch.zeros_like(changes[0])
    for change in changes:
        count.add_(_is_change(change))
    return changes, count


def _is_change(change: Tensor) -> Tensor:
    """1 where it is not zero, else 0, as floats: bools cost several times as much."""
    return torch.ne(change, 0, out=torch.empty_like(change))
