"""Streaming sums over a tensor with results that do not depend on the tiling."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

BLOCK = 2**14
"""Elements per block sum. The length of every tile except the last must be a multiple of it."""

_CHUNK = 16 * BLOCK  # elements processed at once: fits in cache and bounds memory if a tile is a whole tensor
_PART = 256  # elements summed in the tensors' dtype: longer sums would lose more precision than the products
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
    BLOCK elements. Each block of BLOCK elements is summed separately, and the block sums are added in order in float64,
    so the result is bitwise the same for any tiling and number of threads. For float32 tensors, products and partial
    sums are float32. The error is below 1e-7 of the product of the two norms. Blocks that overflow or underflow are
    summed in float64. NaN and infinity propagate.
    """
    sums = [0.0] * len(pairs)
    for index in range(len(tiles)):
        tile = tiles[index]
        for place, (left, right) in enumerate(pairs):
            sums[place] = _added(sums[place], torch.mul, tile[left], tile[right])
    return sums


def absolute_sums(tiles: Iterable[Sequence[Tensor]]) -> list[float]:
    """Return the L1 norm of each model's tensor in one pass over tiles (see `dots`), or an empty list without tiles."""
    sums: list[float] = []
    for tile in tiles:
        sums = sums or [0.0] * len(tile)
        for place, values in enumerate(tile):
            sums[place] = _added(sums[place], torch.abs, values)
    return sums


def _added(result: float, term: Callable[..., Tensor], *models: Tensor) -> float:
    """Add the sum of a term over flat tensors to `result`, block by block, with any incomplete block last."""
    for start in range(0, models[0].numel(), _CHUNK):
        chunk = [model[start : start + _CHUNK] for model in models]
        whole = chunk[0].numel() // BLOCK * BLOCK
        parts = term(*(values[:whole] for values in chunk)).view(-1, _PART).sum(1)
        rows = parts.view(-1, BLOCK // _PART).double().sum(1).tolist()
        if whole < chunk[0].numel():
            rows.append(0.0)  # the incomplete block, which is too short for a row
        # Not sum(), which uses compensated summation since Python 3.12 and would produce different bits.
        for row, block in enumerate(rows):
            result += block if _TINY < abs(block) < math.inf else _exact_sum(term, chunk, row)
    return result


def _exact_sum(term: Callable[..., Tensor], models: Sequence[Tensor], row: int) -> float:
    """Return the sum of one block, which can be incomplete, with products in float64."""
    block = slice(row * BLOCK, (row + 1) * BLOCK)
    return float(term(*(values[block].double() for values in models)).sum())
