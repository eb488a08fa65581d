"""Task vectors of which elements are dropped at random, and what scales the rest back to the size of the whole."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from mergecore_numerics.deltas import l1_scales
from mergecore_numerics.masks import Masks

Draw = Callable[[int, Tensor, int], Tensor]
"""The mask of a tile: a new float32 tensor of zeros and ones, of its shape and on its device, always the same one.

It is given the model's number, the tile of its task vector, and the flat index of the tile's first element.
"""


class Thinned(NamedTuple):
    """What scales each thinned task vector back to its size, and the masks that were drawn to find out."""

    scales: list[float]
    masks: Masks


def thinned(
    tiles: Sequence[Sequence[Tensor]], densities: Sequence[float], draw: Draw, *, rescale: bool = True
) -> Thinned:
    """For each model what gives its thinned task vector the L1 norm of all of it, in one pass; 1 without `rescale`.

    `tiles` are as for `l1_scales`; of models with a density of 1 nothing is dropped, and for them nothing is drawn.
    """
    if not rescale or min(densities) >= 1:
        return Thinned([1.0] * len(densities), Masks(0))
    masks = Masks()
    return Thinned(l1_scales(tiles, lambda deltas, offset: thin(deltas, densities, draw, masks, offset)), masks)


def thin(deltas: Sequence[Tensor], densities: Sequence[float], draw: Draw, masks: Masks, offset: int) -> list[Tensor]:
    """The tile of each task vector that begins at `offset`, times its mask; the very same tensor at a density of 1."""
    return [
        delta if density >= 1 else delta * masks.get(model, offset, delta, partial(draw, model, delta, offset))
        for model, (delta, density) in enumerate(zip(deltas, densities, strict=True))
    ]
