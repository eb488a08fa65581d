"""Drop at random and rescale (DARE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mergecore_numerics import Thinned, agreeing_sum, plain_sum, thin, thinned, weighted
from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class _Dare(DeltaMethod):
    """What both variants do to a task vector before they add up."""

    tile = Tile.ELEMENTS
    measured_by = ("density", "rescale")
    ignored = ("int8_mask",)

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    density: PerModel[float] = param(1.0, "Chance of an element to be kept.", minimum=0.0, maximum=1.0)
    normalize: bool = param(False, "Divide by the sum of the weights.")
    rescale: bool = param(True, "Scale what is kept of a task vector back to the L1 norm of all of it.")
    lambda_: float = param(1.0, "Scale of the merged task vector.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Thinned:
        """What scales each thinned task vector back where `rescale`."""
        return thinned(tiles, self.density, partial(self._mask, ctx), rescale=self.rescale)

    def prepare(self, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        """delta * [u < density], u uniform in [0, 1)."""
        return thin(deltas, self.density, partial(self._mask, ctx), ctx.measured.masks, ctx.offset)

    def _weighted(self, kept: Sequence[Tensor], ctx: Context) -> list[Tensor]:
        return weighted(kept, self.weight, ctx.measured.scales)

    def _mask(self, ctx: Context, model: int, delta: Tensor, offset: int) -> Tensor:
        return replace(ctx, offset=offset).random(model, delta).lt_(self.density[model])


@dataclass(frozen=True, kw_only=True)
class DareLinear(_Dare):
    """Drop elements of the task vectors at random, rescale the rest, add up (DARE, https://arxiv.org/abs/2311.03099).

    kept = delta * [u < density], with u uniform in [0, 1) for each element and model; where rescale, kept is multiplied
    by |delta|_1 / |kept|_1, over the whole tensor, in place of the 1 / density that this is on average;
    result = base + lambda * sum(weight * kept), the sum divided by sum(weight) where normalize.
    """

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return plain_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class DareTies(_Dare):
    """Drop at random and rescale as DARE, elect a sign and add up what agrees (https://arxiv.org/abs/2311.03099).

    kept = delta * [u < density], rescaled as in dare_linear; the sign of sum(weight * kept) is elected for each
    element; agreeing = those weight * kept that have it (TIES, https://arxiv.org/abs/2306.01708);
    result = base + lambda * sum(agreeing), the sum divided by the sum of their weights where normalize.
    """

    normalize: bool = param(False, "Divide by the sum of the weights that agree.")

    def merge(self, kept: Sequence[Tensor], ctx: Context) -> Tensor:
        return agreeing_sum(self._weighted(kept, ctx), self.weight, self.normalize).mul_(self.lambda_)
