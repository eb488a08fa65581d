"""Exact selection of the elements of largest magnitude, in bounded memory and without sorting them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mergecore_numerics._search import SAMPLE, Bits, Search

_CHUNK = 2**18  # elements worked on at once: they stay in cache
_HELD = 3 * 2**23  # bytes that may be picked out of the tensor, for all models together
_INTEGERS: dict[torch.dtype, type[np.signedinteger[Any]]] = {torch.float32: np.int32, torch.float64: np.int64}


class Cut(NamedTuple):
    """Where the kept elements end: kept are |x| > threshold, and |x| == threshold up to the flat index `last`."""

    threshold: float
    last: int


def largest(tiles: Sequence[Sequence[Tensor]], counts: Sequence[int]) -> list[Cut]:
    """For every model j the cut that keeps exactly the counts[j] elements of largest magnitude; of equals, the first.

    `tiles[i]` holds one flat CPU tensor a model, float32 or float64 (else TypeError), of the same length in all tiles
    but the last; `counts` has a number for each model. A pass reads every tile once, for all models; mostly there is
    one pass, after an eighth of the tiles (2 to 32) as a sample, and one tile a model where equals are parted. The
    cuts depend on the values alone, not on the tiles. Whatever the values, less than 50 MB are held.

    A count of zero or less keeps nothing, `Cut(inf, -1)`; one of at least the tensor's size N keeps all,
    `Cut(0.0, N - 1)`. NaN ranks above infinity, so it uses up the count, but it is never dropped: where there are more
    NaNs than the count, all of them stay and nothing else.

    Selection in a few passes by way of a sample: Floyd and Rivest, https://doi.org/10.1145/360680.360691; Munro and
    Paterson, https://doi.org/10.1016/0304-3975(80)90061-4.
    """
    if len(tiles) == 1:
        tiles = [tiles[0]]  # so that it is not made anew for every pass
    cuts = {model: Cut(math.inf, -1) for model in range(len(counts))}
    wanted = [model for model, count in enumerate(counts) if count > 0]
    if not wanted:
        return list(cuts.values())
    total, length, samples = _sample(tiles, wanted)
    searches: dict[int, Search] = {}
    for model in wanted:
        if counts[model] >= total:
            cuts[model] = Cut(0.0, total - 1)
        else:
            capacity = _HELD // max(3, len(wanted)) // samples[model].itemsize
            searches[model] = Search(counts[model], total, samples[model], capacity)
    while searches:
        _read(tiles, searches)
        for model in [model for model, search in searches.items() if search.found()]:
            cuts[model] = _cut(tiles, model, searches.pop(model), total, length)
    return list(cuts.values())


def keep_largest(x: Tensor, cut: Cut, offset: int) -> Tensor:
    """A new tensor with the elements of `x` that `cut` keeps, and zero elsewhere; NaN stays.

    `x` is flat, float32 or float64 (else TypeError), on any device, and begins at the flat index `offset` of the
    tensor that the cut was made for.
    """
    dtype = _checked(x).dtype
    ties = min(max(cut.last + 1 - offset, 0), x.numel())
    if not ties:
        return torch.hardshrink(x, cut.threshold)
    # Hardshrink zeroes |x| <= bound: bounded by the number before the threshold, it keeps what equals the threshold.
    ends = torch.tensor([cut.threshold, -math.inf], dtype=dtype)
    before = torch.nextafter(ends[0], ends[1]).item()
    if ties == x.numel():
        return torch.hardshrink(x, before)
    return torch.cat([torch.hardshrink(x[:ties], before), torch.hardshrink(x[ties:], cut.threshold)])


def _sample(tiles: Sequence[Sequence[Tensor]], models: Sequence[int]) -> tuple[int, int, dict[int, Bits]]:
    """Elements of the tensor, elements of its first tile, and magnitudes of each model taken evenly (none if few)."""
    number = min(32, max(2, len(tiles) // 8), len(tiles))
    parts: dict[int, list[Bits]] = {model: [] for model in models}
    total = length = 0
    for i in range(number):
        tile = tiles[i * (len(tiles) - 1) // max(number - 1, 1)]
        length = length or tile[0].numel()
        total = length * (len(tiles) - 1) + tile[0].numel()
        size = min(SAMPLE, total // 64) if total > _CHUNK else 0
        step = length * number // max(size, 1) | 1  # odd, so that it takes all columns of a matrix in turn
        for model in models:
            parts[model].append(_magnitudes(_integers(tile[model])[: size * step : step]))
    return total, length, {model: np.concatenate(part) for model, part in parts.items() if part}


def _read(tiles: Sequence[Sequence[Tensor]], searches: Mapping[int, Search]) -> None:
    """Let every search see all magnitudes of its model, in pieces."""
    for search in searches.values():
        search.aim()
    for index in range(len(tiles)):
        tile = tiles[index]
        for model, search in searches.items():
            spelt = _integers(tile[model])
            for start in range(0, spelt.size, _CHUNK):
                search.see(_magnitudes(spelt[start : start + _CHUNK]))


def _cut(tiles: Sequence[Sequence[Tensor]], model: int, search: Search, total: int, length: int) -> Cut:
    """The cut for what a search found, with the flat index of the last element that is kept among equals."""
    threshold = float(np.array(search.threshold, search.sample.dtype).view(f"f{search.sample.itemsize}"))
    if math.isnan(threshold):
        return Cut(math.inf, -1)
    if search.needed == search.upto[-1]:
        return Cut(threshold, total - 1)
    piece = int(np.searchsorted(search.upto, search.needed))
    place, start = divmod(piece, -(-length // _CHUNK))
    start *= _CHUNK
    values = _magnitudes(_integers(tiles[place][model])[start : start + _CHUNK])
    equal = np.flatnonzero(values == search.threshold)
    return Cut(threshold, place * length + start + int(equal[search.needed - int(search.upto[piece]) - 1]))


def _integers(x: Tensor) -> Bits:
    """The integers that the bits of a float tensor spell, in the same memory."""
    integer = _INTEGERS[_checked(x).dtype]
    return x.numpy(force=True).view(integer)


def _magnitudes(integers: Bits) -> Bits:
    """The same without the sign bit: these order like the magnitudes, with NaN above infinity."""
    return np.bitwise_and(integers, np.iinfo(integers.dtype).max)


def _checked(x: Tensor) -> Tensor:
    if x.dtype not in _INTEGERS:
        raise TypeError(f"mergecore-numerics selects from float32 or float64, not from {x.dtype}; convert it first")
    return x
