"""Drop at random, small magnitudes more often than large ones (DELLA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from mergecore_numerics import Thinned, agreeing_sum, plain_sum, thin, thinned, weighted
from torch import Tensor

from mergecore.api import Context, DeltaMethod, InputError, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class _Della(DeltaMethod):
    """What both variants do to a task vector before they add up."""

    tile = Tile.ROWS
    measured_by = ("density", "epsilon", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Mean chance of an element to be kept.", minimum=0.0, maximum=1.0)
    epsilon: PerModel[float] = param(
        0.15, "How far the chances go from the density, down and up.", minimum=0.0, maximum=0.5
    )
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(True, "Scale what is kept of a task vector back to the L1 norm of all of it.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def __post_init__(self) -> None:
        for density, epsilon in zip(self.density, self.epsilon, strict=True):
            if 0 < density < 1 and not (density + epsilon < 1 and density - epsilon > 0):
                raise InputError(
                    f"density {density:g} with epsilon {epsilon:g} gives chances from {density - epsilon:g} to"
                    f" {density + epsilon:g}, which must lie between 0 and 1, both excluded;"
                    f" give an epsilon below {min(density, 1 - density):g}"
                )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Thinned:
        """What scales each thinned task vector back where `rescale`."""
        return thinned(tiles, self.density, partial(self._mask, ctx), rescale=self.rescale)

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """delta * [u < p], u uniform in [0, 1)."""
        return thin(deltas, self.density, partial(self._mask, ctx), ctx.measured.masks, ctx.offset)

    def _weighted(self, kept: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        return weighted(kept, self.weight, ctx.measured.scales)

    def _mask(self, ctx: Context, model: int, delta: Tensor, offset: int) -> Tensor:
        return (
            replace(ctx, offset=offset)
            .random(model, delta)
            .lt_(chances(delta, self.density[model], self.epsilon[model]))
        )


@dataclass(frozen=True, kw_only=True)
class Della(_Della):
    """Drop at random, small changes more often, elect a sign and average (DELLA, https://arxiv.org/abs/2406.11617).

    In each row of a task vector (along the last dimension; a vector is one row) the magnitudes are ranked from 1, the
    smallest, to n, exactly, of equals the first lowest. The chance to be kept grows with the rank from density -
    epsilon to density + epsilon, p = density - epsilon + 2 epsilon (rank - 1) / (n - 1); it is the density where
    n = 1, and a density of 1 or 0 keeps all or none. kept = delta * [u < p], u uniform in [0, 1); where rescale,
    kept is multiplied by |delta|_1 / |kept|_1 over the whole tensor. The sign of sum(weight * kept) is elected for
    each element; agreeing = those weight * kept that have it;
    result = base + lambda * sum(agreeing), the sum divided by the sum of their weights where normalize.
    """

    normalize: bool = param(True, "Divide by the sum of the weights that agree.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class DellaLinear(_Della):
    """Drop at random, small changes more often than large ones, add up (DELLA, https://arxiv.org/abs/2406.11617).

    kept as in della: in each row the chance to be kept grows with the rank of the magnitude from density - epsilon to
    density + epsilon; rescaled to the task vector's L1 norm where rescale;
    result = base + lambda * sum(weight * kept), the sum divided by sum(weight) where normalize.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """The chance of each element to be kept, in float32: by its magnitude's rank in its row, the last dimension."""
    if density <= 0:
        return torch.zeros(delta.shape, device=delta.device)
    rows = delta.reshape(-1, delta.shape[-1] if delta.ndim else 1)
    width = rows.shape[1]
    ends = (density - epsilon, density + epsilon) if width > 1 else (density, density)
    steps = torch.linspace(*ends, width, dtype=torch.float64).float()
    ranked = torch.empty(rows.shape).scatter_(1, ascending(rows), steps.expand(rows.shape))
    return ranked.view(delta.shape).to(delta.device)


def ascending(rows: Tensor) -> Tensor:
    """The order of the magnitudes in each row of a matrix, from the smallest, of equals the first first; on the CPU.

    A radix sort by 16 bits at a time, which NumPy does without comparisons: several times faster than any other sort.
    """
    bits = rows.cpu().abs()
    bits = bits.view(torch.int32 if bits.dtype == torch.float32 else torch.int64)
    order = torch.arange(rows.shape[1]).expand(rows.shape)
    for shift in range(0, 8 * bits.element_size(), 16):
        digits = (bits >> shift).to(torch.int16).gather(1, order).numpy().view("uint16")
        order = order.gather(1, torch.from_numpy(digits.argsort(axis=1, kind="stable")))
    return order
