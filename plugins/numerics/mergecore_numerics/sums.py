"""Streaming sums over a tensor with results that do not depend on the tiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Term = Callable[..., "Tensor"]
"""Computes what to sum from tiles of one or two models."""

BLOCK = 2**14
"""Elements per block sum. The length of every tile except the last must be a multiple of it."""

_CHUNK = 16 * BLOCK  # elements processed at once: fits in cache and bounds memory if a tile is a whole tensor
_LANES = 256  # numbers that are left of a block when float64 begins
_TINY = 1e-25  # below this, underflow can lose more than 1e-7 of a float32 block sum


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Return the elementwise sum of at least one tensor of the same shape and dtype, in order, as a new tensor."""
    result = tensors[0] + tensors[1] if len(tensors) > 1 else tensors[0].clone()
    for tensor in tensors[2:]:
        result.add_(tensor)
    return result


def dots(tiles: Sequence[Sequence[Tensor]], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return the dot products of pairs of models in one pass over the tiles. For `(j, j)`, it is the squared norm.

    `tiles[i]` holds one flat CPU tensor per model, float32 or float64. Every tile except the last has a multiple of
    BLOCK elements. Each block of BLOCK elements is summed by pairwise additions in a fixed order, and the block sums
    are added in order in float64, so the result is bitwise the same for any tiling, number of threads, and processor.
    For float32 tensors, products and partial sums are float32. The error is below 1e-7 of the product of the two norms.
    Blocks that overflow, underflow, or are incomplete are summed in float64. NaN and infinity propagate.

    If `tiles` has a method of this name, that one computes the result, with the same bits.
    """
    if native := getattr(tiles, "dots", None):
        return list(native(pairs))
    sums = [0.0] * len(pairs)
    for index in range(len(tiles)):
        tile = tiles[index]
        for place, (left, right) in enumerate(pairs):
            sums[place] = _added(sums[place], _product, tile[left], tile[right])
    return sums


def models_in(tiles: Sequence[Sequence[Tensor]]) -> int:
    """Return the number of models, from the attribute `models` of `tiles` if there is one, or from the first tile."""
    return getattr(tiles, "models", None) or len(tiles[0])


def absolute_sums(tiles: Iterable[Sequence[Tensor]]) -> list[float]:
    """Return the L1 norm of each model's tensor in one pass over tiles (see `dots`), or an empty list without tiles."""
    sums: list[float] = []
    for tile in tiles:
        sums = sums or [0.0] * len(tile)
        for place, values in enumerate(tile):
            sums[place] = _added(sums[place], _magnitude, values)
    return sums


def _product(left: Tensor, right: Tensor) -> Tensor:
    return left * right


def _magnitude(values: Tensor) -> Tensor:
    return values.abs()


def _added(result: float, term: Term, *models: Tensor) -> float:
    """Add the sum of a term over tensors to `result`, block by block, with any incomplete block last."""
    flat = [values.reshape(-1) for values in models]
    for start in range(0, flat[0].numel(), _CHUNK):
        chunk = [values[start : start + _CHUNK] for values in flat]
        whole = chunk[0].numel() // BLOCK * BLOCK
        rows = _block_sums(term(*(values[:whole] for values in chunk)))
        if whole < chunk[0].numel():
            rows.append(0.0)  # the incomplete block
        # Not sum(), which uses compensated summation since Python 3.12 and would produce different bits.
        for row, block in enumerate(rows):
            result += block if _TINY < abs(block) < math.inf else _exact_sum(term, chunk, row)
    return result


def _exact_sum(term: Term, models: Sequence[Tensor], row: int) -> float:
    """Return the sum of one block, which can be incomplete, with products in float64."""
    here = slice(row * BLOCK, (row + 1) * BLOCK)
    return _block_sums(term(*(values[here].double() for values in models)))[0]


def _block_sums(terms: Tensor) -> list[float]:
    """Return the sum of each block of a flat tensor. The last one can be incomplete.

    A block is a matrix with rows of `_LANES`. Neighboring rows are added until one is left, and then its halves in
    float64 until one number is left. Not `sum`, whose order depends on the processor.
    """
    if rest := -terms.numel() % BLOCK:
        terms = _concatenated(terms, terms.new_zeros(rest))
    sums = terms.view(-1, BLOCK // _LANES, _LANES)
    while sums.shape[1] > 1:
        sums = sums[:, 0::2] + sums[:, 1::2]
    sums = sums[:, 0].double()
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    numbers: list[float] = sums[:, 0].tolist()
    return numbers


def _concatenated(*parts: Tensor) -> Tensor:
    import torch

    return torch.cat(parts)
