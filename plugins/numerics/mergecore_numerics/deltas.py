"""Weighted sums of task vectors, and scales that restore the norm of sparsified ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mergecore_numerics.sums import BLOCK, absolute_sums, total

if TYPE_CHECKING:
    from torch import Tensor

VANISHING_NORM = 1e-7
"""L1 norms below this are not rescaled, because the vector is only noise."""

VANISHING_WEIGHT = 1e-8
"""Sums of weights smaller than this are not used as a divisor."""

Keep = Callable[["Sequence[Tensor]", int], "Sequence[Tensor]"]
"""Sparsifies a tile of task vectors, given the flat index of its first element."""


def weighted(deltas: Sequence[Tensor], weights: Sequence[float], scales: Sequence[float]) -> list[Tensor]:
    """Return new tensors: each delta times its weight and scale. Raise ValueError if the lengths differ."""
    return [x * (weight * scale) for x, weight, scale in zip(deltas, weights, scales, strict=True)]


def plain_sum(deltas: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Return the sum of weighted deltas. If `normalize`, divide by the sum of the weights unless it is nearly zero.

    `deltas` holds at least one delta, one per model, already multiplied by `weights`. All have the same shape and are
    float32 or float64. They are not modified. Task arithmetic, https://arxiv.org/abs/2212.04089.
    """
    merged = total(deltas)
    divisor = math.fsum(weights)  # sum() rounds differently since Python 3.12
    return merged.div_(divisor) if normalize and abs(divisor) >= VANISHING_WEIGHT else merged


def l1_scales(tiles: Iterable[Sequence[Tensor]], keep: Keep) -> list[float]:
    """Return, for each model, the factor that gives `keep` of its task vector the L1 norm of all of it, in one pass.

    `tiles[i]` holds one CPU tensor per model, float32 or float64, of any shape and length. Concatenated in order, the
    tiles make up the tensors. The result is bitwise independent of the tiling. It is 1 if either norm is below 1e-7,
    infinite, or NaN.

    If `tiles` has a method `absolute_sums`, that one computes the norms, with the same bits, unless it returns None.
    """
    native = getattr(tiles, "absolute_sums", None)
    norms = (native and native(keep)) or absolute_sums(_blocks(_with_kept(tiles, keep)))
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
    """Yield the same tensors in flat tiles of whole blocks, with any remainder at the end."""
    import torch

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
