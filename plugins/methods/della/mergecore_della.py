"""DELLA: drop entries of task vectors at random, small magnitudes more often than large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mergecore_numerics import Thinned, agreeing_sum, plain_sum, thin, thinned, weighted

from mergecore.api import Context, DeltaMethod, InputError, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Della(DeltaMethod):
    """Parameters and sparsification shared by both variants."""

    tile = Tile.ROWS
    measured_by = ("density", "epsilon", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Mean probability of keeping an entry.", minimum=0.0, maximum=1.0)
    epsilon: PerModel[float] = param(
        0.15, "Half the range of the keep probabilities around the density.", minimum=0.0, maximum=0.5
    )
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(True, "Rescale what remains of each task vector to its original L1 norm.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def __post_init__(self) -> None:
        for density, epsilon in zip(self.density, self.epsilon, strict=True):
            if 0 < density < 1 and not (density + epsilon < 1 and density - epsilon > 0):
                raise InputError(
                    f"density {density:g} with epsilon {epsilon:g} results in keep probabilities from"
                    f" {density - epsilon:g} to {density + epsilon:g}, which must be strictly between 0 and 1;"
                    f" set epsilon below {min(density, 1 - density):g}"
                )

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Thinned:
        """Return the masks, and the scale of each task vector if `rescale` is set."""
        return thinned(tiles, self.density, partial(self._mask, ctx), rescale=self.rescale)

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """Return delta * [u < p], with u uniform in [0, 1)."""
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
    """Drop small entries more often than large ones, elect signs, and average (DELLA, https://arxiv.org/abs/2406.11617).

    Each row of a task vector (the last dimension; a vector is one row) ranks its magnitudes exactly from 1, the
    smallest, to n, with ties in index order. The keep probability grows with the rank from density - epsilon to
    density + epsilon: p = density - epsilon + 2 epsilon (rank - 1) / (n - 1). It equals the density if n = 1, and a
    density of 1 or 0 keeps all or none. kept = delta * [u < p], with u uniform in [0, 1). If rescale is set, kept is
    multiplied by |delta|_1 / |kept|_1 over the whole tensor. The elected sign of an element is that of
    sum(weight * kept), and agreeing contains the weight * kept terms with that sign.
    result = base + lambda * sum(agreeing), with the sum divided by the sum of their weights if normalize is set.
    """

    normalize: bool = param(True, "Divide by the sum of the weights whose entries agree with the elected sign.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class DellaLinear(_Della):
    """Drop small entries more often than large ones, then add up (DELLA, https://arxiv.org/abs/2406.11617).

    kept is the same as in della: in each row, the keep probability grows with the rank of the magnitude from
    density - epsilon to density + epsilon, and rescale restores the task vector's L1 norm.
    result = base + lambda * sum(weight * kept), with the sum divided by sum(weight) if normalize is set.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """Return each element's keep probability in float32, from its magnitude's rank in its row (last dimension)."""
    import torch

    if density <= 0:
        return torch.zeros(delta.shape, device=delta.device)
    rows = delta.reshape(-1, delta.shape[-1] if delta.ndim else 1)
    width = rows.shape[1]
    ends = (density - epsilon, density + epsilon) if width > 1 else (density, density)
    steps = torch.linspace(*ends, width, dtype=torch.float64).float()
    ranked = torch.empty(rows.shape).scatter_(1, ascending(rows), steps.expand(rows.shape))
    return ranked.view(delta.shape).to(delta.device)


def ascending(rows: Tensor) -> Tensor:
    """Return the stable ascending argsort of the magnitudes in each row of a matrix, computed on the CPU.

    This is a radix sort, 16 bits at a time. NumPy sorts 16-bit integers without comparisons, several times faster.
    """
    import torch

    bits = rows.cpu().abs()
    bits = bits.view(torch.int32 if bits.dtype == torch.float32 else torch.int64)
    order = torch.arange(rows.shape[1]).expand(rows.shape)
    for shift in range(0, 8 * bits.element_size(), 16):
        digits = (bits >> shift).to(torch.int16).gather(1, order).numpy().view("uint16")
        order = order.gather(1, torch.from_numpy(digits.argsort(axis=1, kind="stable")))
    return order
