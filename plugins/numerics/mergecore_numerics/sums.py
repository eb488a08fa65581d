"""Streaming sums over a tensor whose results do not depend on how it is cut into tiles."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

BLOCK = 2**14
"""Elements that are added up on their own: the length of every tile but the last must be a multiple of it."""

_CHUNK = 16 * BLOCK  # worked on at once: it stays in cache, and bounds the memory where a tile is a whole tensor
_PART = 256  # added up in the tensors' own dtype: longer sums of equal numbers lose more than the products have lost
_TINY = 1e-25  # underflow may have taken more than 1e-7 of a float32 block sum below this


def total(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors (at least one) of one shape and dtype, element by element and in their order; a new tensor."""
    result = tensors[0] + tensors[1] if len(tensors) > 1 else tensors[0].clone()
    for tensor in tensors[2:]:
        result.add_(tensor)
    return result


def dots(tiles: Sequence[Sequence[Tensor]], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Dot products of pairs of models, in one pass over the tiles; a pair `(j, j)` gives a squared norm.

    `tiles[i]` holds one flat CPU tensor a model, float32 or float64, of a multiple of BLOCK elements but in the last
    tile. Blocks of BLOCK elements are added up on their own, and their sums in order in float64: the result is the
    same, bit for bit, for every tiling and number of threads. Products and their first few sums are float32 where the
    tensors are; the error is below 1e-7 of the product of the two norms. Blocks where that overflows or underflows are
    added up in float64. NaN and infinity propagate.
    """
    sums = [0.0] * len(pairs)
    for index in range(len(tiles)):
        tile = tiles[index]
        for place, (left, right) in enumerate(pairs):
            sums[place] = _added(sums[place], torch.mul, tile[left], tile[right])
    return sums


def absolute_sums(tiles: Iterable[Sequence[Tensor]]) -> list[float]:
    """The L1 norm of each model's tensor, in one pass over the tiles (as for `dots`); no tiles give no norms."""
    sums: list[float] = []
    for tile in tiles:
        sums = sums or [0.0] * len(tile)
        for place, values in enumerate(tile):
            sums[place] = _added(sums[place], torch.abs, values)
    return sums


def _added(result: float, term: Callable[..., Tensor], *models: Tensor) -> float:
    """A sum with that of a term of flat tensors added to it, block by block, the incomplete one at the end."""
    for start in range(0, models[0].numel(), _CHUNK):
        chunk = [model[start : start + _CHUNK] for model in models]
        whole = chunk[0].numel() // BLOCK * BLOCK
        parts = term(*(values[:whole] for values in chunk)).view(-1, _PART).sum(1)
        rows = parts.view(-1, BLOCK // _PART).double().sum(1).tolist()
        if whole < chunk[0].numel():
            rows.append(0.0)  # the incomplete one, which is too short to be a row
        # Not sum(), which compensates since Python 3.12: other versions would give other bits.
        for row, block in enumerate(rows):
            result += block if _TINY < abs(block) < math.inf else _exact_sum(term, chunk, row)
    return result


def _exact_sum(term: Callable[..., Tensor], models: Sequence[Tensor], row: int) -> float:
    """The sum of one block, which may be incomplete, with products in float64."""
    block = slice(row * BLOCK, (row + 1) * BLOCK)
    return float(term(*(values[block].double() for values in models)).sum())
