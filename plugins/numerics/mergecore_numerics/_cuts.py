"""Find the cuts of `largest`: read the tiles in passes, let a search see the magnitudes, and split ties."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergecore_numerics._search import SAMPLE, Bits, Search
from mergecore_numerics.selection import Cut, checked
from mergecore_numerics.sums import models_in

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**18  # elements processed at once, few enough to stay in cache
_HELD = 3 * 2**23  # maximum bytes of picked values, for all models together


def find_cuts(tiles: Sequence[Sequence[Tensor]], counts: Sequence[int]) -> list[Cut]:
    """See `mergecore_numerics.largest`."""
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
    return checked(x).numpy(force=True).view(f"i{x.element_size()}")


def _magnitudes(integers: Bits) -> Bits:
    """Clear the sign bit. The integers then sort like the magnitudes, with NaN above infinity."""
    return np.bitwise_and(integers, np.iinfo(integers.dtype).max)
