"""Random sparsification of task vectors, and the scales that restore their norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mergecore_numerics.deltas import l1_scales
from mergecore_numerics.masks import Masks

if TYPE_CHECKING:
    from torch import Tensor

Draw = Callable[[int, "Tensor", int], "Tensor"]
"""Returns the mask of a tile: a new float32 tensor of zeros and ones with its shape and device, always the same.

The arguments are the model's index, the tile of its task vector, and the flat index of the tile's first element.
"""


class Thinned(NamedTuple):
    """Scales that restore the norms of thinned task vectors, and the masks drawn to compute them."""

    scales: list[float]
    masks: Masks


def thinned(
    tiles: Sequence[Sequence[Tensor]], densities: Sequence[float], draw: Draw, *, rescale: bool = True
) -> Thinned:
    """Return, for each model, the scale that restores the L1 norm after thinning, in one pass (1 without `rescale`).

    `tiles` has the format of `l1_scales`. Models with a density of 1 are not thinned, and no masks are drawn for them.
    """
    if not rescale or min(densities) >= 1:
        return Thinned([1.0] * len(densities), Masks(0))
    masks = Masks()
    return Thinned(l1_scales(tiles, lambda deltas, offset: thin(deltas, densities, draw, masks, offset)), masks)


def thin(deltas: Sequence[Tensor], densities: Sequence[float], draw: Draw, masks: Masks, offset: int) -> list[Tensor]:
    """Return the tile at `offset` of each task vector times its mask, or the same tensor if the density is 1."""

    def mask(model: int, delta: Tensor) -> Tensor:
        if hasattr(delta, "uniform"):  # a stand-in that records what a method does
            return draw(model, delta, offset)
        return masks.get(model, offset, delta, partial(draw, model, delta, offset))

    return [
        delta if density >= 1 else delta * mask(model, delta)
        for model, (delta, density) in enumerate(zip(deltas, densities, strict=True))
    ]
