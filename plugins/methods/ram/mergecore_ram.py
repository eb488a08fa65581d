"""RAM: average elements that several models change and keep elements that only one changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, DeltaMethod, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ram(DeltaMethod):
    """Average elements that several models change and keep those that only one changes (https://arxiv.org/abs/2601.13572).

    A model changes an element if |delta| > epsilon, and c is the number of models that change it.
    result = base + sum(the changing deltas) / max(c, 1).
    """

    tile = Tile.ELEMENTS

    epsilon: float = param(1e-5, "Elements that differ from the base by at most this count as unchanged.", minimum=0.0)

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        changes, count = _changes(deltas, self.epsilon)
        total = changes[0]
        for change in changes[1:]:
            total.add_(change)
        return total.div_(count.clamp_(min=1))


@dataclass(frozen=True, kw_only=True)
class RamPlusTl(DeltaMethod):
    """RAM that amplifies changes made by only one model, based on its overlap (https://arxiv.org/abs/2601.13572).

    A model changes an element if |delta| > epsilon, and c is the number of models that change it. Of all elements that
    a model changes in the tensor, S are also changed by others and U are not. With rho = S / max(U, epsilon), the
    model's factor is 1 + r * min(rho, alpha). If c = 1, result = base + sum(delta * factor). If c > 1,
    result = base + sum(the changing deltas) / c.
    """

    tile = Tile.ELEMENTS

    epsilon: float = param(1e-5, "Elements that differ from the base by at most this count as unchanged.", minimum=0.0)
    r: float = param(0.1, "Strength of the amplification of changes made by only one model.")
    alpha: float = param(0.2, "Upper limit of the ratio of shared to unshared changes.", minimum=0.0)

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """Return the factor of each model."""
        shared, own = [0] * len(tiles[0]), [0] * len(tiles[0])
        for deltas in tiles:
            changes, count = _changes(deltas, self.epsilon)
            alone = count.eq_(1)
            for model, change in enumerate(changes):
                lone = int(_is_change(change).mul_(alone).count_nonzero())
                own[model] += lone
                shared[model] += int(change.count_nonzero()) - lone
        # A model with no unshared changes has nothing to amplify.
        ratios = [s / max(u, self.epsilon) if u else 0.0 for s, u in zip(shared, own, strict=True)]
        return [1 + self.r * min(ratio, self.alpha) for ratio in ratios]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        changes, count = _changes(deltas, self.epsilon)
        alone = count.clone().eq_(1)
        share = count.clamp_(min=1).reciprocal_()
        total = share.clone().zero_()
        for change, factor in zip(changes, ctx.measured, strict=True):
            total.addcmul_(change, share.add(alone, alpha=factor - 1))
        return total


def _changes(deltas: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Return the deltas with unchanged elements set to zero (NaN is a change), and how many models change each one."""
    changes = [delta.hardshrink(epsilon) for delta in deltas]
    count = changes[0].clone().zero_()
    for change in changes:
        count.add_(_is_change(change))
    return changes, count


def _is_change(change: Tensor) -> Tensor:
    """Return 1.0 where nonzero, else 0.0. Floats are several times faster than bools here."""
    return change.clone().ne_(0)
