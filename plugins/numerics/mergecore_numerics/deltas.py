"""Sums of weighted task vectors, and what scales a thinned one back to the size it had."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mergecore_numerics.sums import BLOCK, absolute_sums, total

VANISHING_NORM = 1e-7
"""L1 norms below this are not made equal: what is left of the vector is noise."""

VANISHING_WEIGHT = 1e-8
"""A sum of weights below this cannot be divided by."""

Keep = Callable[[Sequence[Tensor], int], Sequence[Tensor]]
"""Thins a tile of task vectors, given the flat index of its first element."""


def weighted(deltas: Sequence[Tensor], weights: Sequence[float], scales: Sequence[float]) -> list[Tensor]:
    """New tensors: each delta times its weight and scale, of which there are as many; else ValueError."""
    return [x * (weight * scale) for x, weight, scale in zip(deltas, weights, scales, strict=True)]


def plain_sum(deltas: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Sum of the weighted deltas, divided by the sum of the weights where `normalize` and that is not nearly zero.

    `deltas` (one a model, at least one; same shape, float32 or float64) have been multiplied by their `weights`, and
    stay as they are. Task arithmetic, https://arxiv.org/abs/2212.04089.
    """
    merged = total(deltas)
    divisor = math.fsum(weights)  # sum() has other bits since Python 3.12
    return merged.div_(divisor) if normalize and abs(divisor) >= VANISHING_WEIGHT else merged


def l1_scales(tiles: Iterable[Sequence[Tensor]], keep: Keep) -> list[float]:
    """For each model what multiplies `keep` of its task vector to give it the L1 norm of all of it, in one pass.

    `tiles[i]` holds one CPU tensor a model, float32 or float64, of any shape and length: the tiles, in order, make up
    the tensors. The result does not depend, bit for bit, on how they are cut. It is 1 where one of the norms is below
    1e-7, infinite or NaN.
    """
    norms = absolute_sums(_blocks(_with_kept(tiles, keep)))
    models = len(norms) // 2
    return [_ratio(whole, kept) for whole, kept in zip(norms[:models], norms[models:], strict=True)]


def _ratio(whole: float, kept: float) -> float:
    return whole / kept if VANISHING_NORM <= whole < math.inf and kept >= VANISHING_NORM else 1.0


def _with_kept(tiles: Iterable[Sequence[Tensor]], keep: Keep) -> Iterator[list[Tensor]]:
    offset = 0
    for deltas in tiles:
        yield [*deltas, *keep(deltas, offset)]
        offset += deltas[0].numel()


def _blocks(tiles: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """The same tensors in flat tiles of whole blocks, with what is left over at the end."""
    rest: list[Tensor] = []
    for tile in tiles:
        flat = [values.reshape(-1) for values in tile]
        if rest:
            flat = [torch.cat(parts) for parts in zip(rest, flat, strict=True)]
        whole = flat[0].numel() - flat[0].numel() % BLOCK
        yield [values[:whole] for values in flat]
        rest = [values[whole:].clone() for values in flat] if whole < flat[0].numel() else []
    if rest:
        yield rest
