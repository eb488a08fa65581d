"""Exact selection of the elements of largest magnitude, in bounded memory and without sorting."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mergecore_numerics._search import SAMPLE, Bits, Search
from mergecore_numerics.sums import models_in

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**18  # elements processed at once, few enough to stay in cache
_HELD = 3 * 2**23  # maximum bytes of picked values, for all models together
_INTEGERS: dict[str, type[np.signedinteger[Any]]] = {"torch.float32": np.int32, "torch.float64": np.int64}


class Cut(NamedTuple):
    """Selection boundary: keeps |x| > threshold, plus |x| == threshold up to the flat index `last`."""

    threshold: float
    last: int


def largest(tiles: Sequence[Sequence[Tensor]], counts: Sequence[int]) -> list[Cut]:
    """Return, for each model j, the cut that keeps exactly its counts[j] largest magnitudes, with ties in index order.

    `tiles[i]` holds one flat CPU tensor per model, float32 or float64 (else TypeError). All tiles except the last have
    the same length. `counts` has one number per model. A pass reads every tile once, for all models. Usually there is
    one pass, plus an eighth of the tiles (2 to 32) as a sample, and one more tile per model if ties must be split. The
    cuts depend only on the values, not on the tiling. At most 50 MB is held in memory, regardless of the values.

    A count of zero or less keeps nothing, `Cut(inf, -1)`. A count of at least the tensor's size N keeps everything,
    `Cut(0.0, N - 1)`. NaN ranks above infinity, so it counts toward the total, but it is never dropped: if there are
    more NaNs than the count, exactly the NaNs are kept.

    There can also be a multiple of the number of models: counts[j] is then for model j modulo that number. If `tiles`
    has the methods `bits` and `look`, no tensor is needed.

    Selection in a few passes based on a sample: Floyd and Rivest, https://doi.org/10.1145/360680.360691; Munro and
    Paterson, https://doi.org/10.1016/0304-3975(80)90061-4.
    """
    if len(tiles) == 1 and not hasattr(tiles, "bits"):
        tiles = [tiles[0]]  # computed once, not for every pass
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
        _read(tiles, searches, total, length)
        for model in [model for model, search in searches.items() if search.found()]:
            cuts[model] = _cut(tiles, model, searches.pop(model), total, length)
    return list(cuts.values())


def keep_largest(x: Tensor, cut: Cut, offset: int) -> Tensor:
    """Return a new tensor with the elements of `x` that `cut` keeps and zeros elsewhere. NaN stays NaN.

    `x` is flat, float32 or float64 (else TypeError), and on any device. It starts at the flat index `offset` of the
    tensor that the cut was computed for.
    """
    if hasattr(x, "keep_largest"):  # a stand-in that records what a method does
        recorded: Tensor = x.keep_largest(cut.threshold, cut.last, offset)
        return recorded
    import torch

    dtype = _checked(x).dtype
    ties = min(max(cut.last + 1 - offset, 0), x.numel())
    if not ties:
        return torch.hardshrink(x, cut.threshold)
    # Hardshrink zeroes |x| <= bound. With the next smaller number as bound, it keeps elements equal to the threshold.
    ends = torch.tensor([cut.threshold, -math.inf], dtype=dtype)
    before = torch.nextafter(ends[0], ends[1]).item()
    if ties == x.numel():
        return torch.hardshrink(x, before)
    return torch.cat([torch.hardshrink(x[:ties], before), torch.hardshrink(x[ties:], cut.threshold)])


def _sample(tiles: Sequence[Sequence[Tensor]], models: Sequence[int]) -> tuple[int, int, dict[int, Bits]]:
    """Return the sizes of the tensor and its first tile, and evenly sampled magnitudes per model (none if small)."""
    number = min(32, max(2, len(tiles) // 8), len(tiles))
    parts: dict[int, list[Bits]] = {model: [] for model in models}
    total = length = 0
    for i in range(number):
        tile = _bits(tiles, i * (len(tiles) - 1) // max(number - 1, 1))
        length = length or tile[0].size
        total = length * (len(tiles) - 1) + tile[0].size
        size = min(SAMPLE, total // 64) if total > _CHUNK else 0
        step = length * number // max(size, 1) | 1  # odd, to cycle through all columns of a matrix
        for model in models:
            parts[model].append(_magnitudes(tile[model % len(tile)][: size * step : step]))
    return total, length, {model: np.concatenate(part) for model, part in parts.items() if part}


def _read(tiles: Sequence[Sequence[Tensor]], searches: Mapping[int, Search], total: int, length: int) -> None:
    """Pass all magnitudes of each model to its search, in pieces."""
    for search in searches.values():
        search.aim()
    for index in range(len(tiles)):
        size, tile = min(length, total - index * length), list[Bits]()
        for start in range(0, size, _CHUNK):
            count = min(_CHUNK, size - start)
            seen = _look(tiles, index, start, count, searches)
            for model, search in searches.items():
                if model not in seen:
                    tile = tile or _bits(tiles, index)
                    search.see(_magnitudes(tile[model % len(tile)][start : start + count]))


def _look(
    tiles: Sequence[Sequence[Tensor]], index: int, start: int, count: int, searches: Mapping[int, Search]
) -> Collection[int]:
    """Let native code, if the tiles have some, see a piece. Return the models whose searches it has served."""
    if not (look := getattr(tiles, "look", None)):
        return ()
    models, served = models_in(tiles), [model for model, search in searches.items() if search.step == 1]
    looks = [(model % models, searches[model].edges, searches[model].inner) for model in served]
    for model, found in zip(served, look(index, start, count, looks)):
        searches[model].saw(*found)
    return served


def _cut(tiles: Sequence[Sequence[Tensor]], model: int, search: Search, total: int, length: int) -> Cut:
    """Return the cut for a search result, with the flat index of the last element to keep among ties."""
    threshold = float(np.array(search.threshold, search.sample.dtype).view(f"f{search.sample.itemsize}"))
    if math.isnan(threshold):
        return Cut(math.inf, -1)
    if search.needed == search.upto[-1]:
        return Cut(threshold, total - 1)
    piece = int(np.searchsorted(search.upto, search.needed))
    place, start = divmod(piece, -(-length // _CHUNK))
    start *= _CHUNK
    tile = _bits(tiles, place)
    values = _magnitudes(tile[model % len(tile)][start : start + _CHUNK])
    equal = np.flatnonzero(values == search.threshold)
    return Cut(threshold, place * length + start + int(equal[search.needed - int(search.upto[piece]) - 1]))


def _bits(tiles: Sequence[Sequence[Tensor]], index: int) -> list[Bits]:
    """Return the tensors of a tile as integers with the same bits."""
    native = getattr(tiles, "bits", None)
    return list(native(index)) if native else [_integers(x) for x in tiles[index]]


def _integers(x: Tensor) -> Bits:
    """View a float tensor as integers with the same bits, without copying."""
    integer = _INTEGERS[str(_checked(x).dtype)]
    return x.numpy(force=True).view(integer)


def _magnitudes(integers: Bits) -> Bits:
    """Clear the sign bit. The integers then sort like the magnitudes, with NaN above infinity."""
    return np.bitwise_and(integers, np.iinfo(integers.dtype).max)


def _checked(x: Tensor) -> Tensor:
    if str(x.dtype) not in _INTEGERS:
        raise TypeError(f"mergecore-numerics selects from float32 or float64, not {x.dtype}; convert the tensor first")
    return x
