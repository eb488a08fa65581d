"""DARE: drop entries of task vectors at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mergecore_numerics import Thinned, agreeing_sum, plain_sum, thin, thinned, weighted

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Dare(DeltaMethod):
    """Parameters and sparsification shared by both variants."""

    tile = Tile.ELEMENTS
    measured_by = ("density", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Probability of keeping an entry of a task vector.", minimum=0.0, maximum=1.0)
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(True, "Rescale what remains of each task vector to its original L1 norm.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Thinned:
        """Return the masks, and the scale of each task vector if `rescale` is set."""
        return thinned(tiles, self.density, partial(self._mask, ctx), rescale=self.rescale)

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """Return delta * [u < density], with u uniform in [0, 1)."""
        return thin(deltas, self.density, partial(self._mask, ctx), ctx.measured.masks, ctx.offset)

    def _weighted(self, kept: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        return weighted(kept, self.weight, ctx.measured.scales)

    def _mask(self, ctx: Context, model: int, delta: Tensor, offset: int) -> Tensor:
        return replace(ctx, offset=offset).random(model, delta).lt_(self.density[model])


@dataclass(frozen=True, kw_only=True)
class DareLinear(_Dare):
    """Drop entries of each task vector at random, rescale the rest, and add up (DARE, https://arxiv.org/abs/2311.03099).

    kept = delta * [u < density], with u uniform in [0, 1) for each element and model. If rescale is set, kept is
    multiplied by |delta|_1 / |kept|_1 over the whole tensor, which is 1 / density on average.
    result = base + lambda * sum(weight * kept), with the sum divided by sum(weight) if normalize is set.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class DareTies(_Dare):
    """Drop entries at random, rescale, elect signs, and add up what agrees (DARE, https://arxiv.org/abs/2311.03099).

    kept = delta * [u < density], rescaled as in dare_linear. The elected sign of an element is that of
    sum(weight * kept), and agreeing contains the weight * kept terms with that sign (TIES, https://arxiv.org/abs/2306.01708).
    result = base + lambda * sum(agreeing), with the sum divided by the sum of their weights if normalize is set.
    """

    normalize: bool = param(False, "Divide by the sum of the weights whose entries agree with the elected sign.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)
