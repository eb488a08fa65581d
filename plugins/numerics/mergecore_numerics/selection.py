"""Exact selection of the elements of largest magnitude, in bounded memory and without sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = ("torch.float32", "torch.float64")
"""Names of the dtypes to select from."""


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
    from mergecore_numerics._cuts import find_cuts  # it imports NumPy, which takes longer than a small merge

    return find_cuts(tiles, counts)


def nonzeros(tiles: Sequence[Sequence[Tensor]]) -> list[int]:
    """Return the number of elements of each model's tensor that are not 0, in one pass. NaN is not 0.

    If `tiles` has a method of this name, that one counts.
    """
    if native := getattr(tiles, "nonzeros", None):
        return list(native())
    counts = [0] * len(tiles[0])
    for index in range(len(tiles)):
        counts = [count + int(x.count_nonzero()) for count, x in zip(counts, tiles[index], strict=True)]
    return counts


def keep_largest(x: Tensor, cut: Cut, offset: int) -> Tensor:
    """Return a new tensor with the elements of `x` that `cut` keeps and zeros elsewhere. NaN stays NaN.

    `x` is flat, float32 or float64 (else TypeError), and on any device. It starts at the flat index `offset` of the
    tensor that the cut was computed for.
    """
    if hasattr(x, "keep_largest"):  # a stand-in that records what a method does
        recorded: Tensor = x.keep_largest(cut.threshold, cut.last, offset)
        return recorded
    import torch

    dtype = checked(x).dtype
    ties = min(max(cut.last + 1 - offset, 0), x.numel())
    if not ties:
        return torch.hardshrink(x, cut.threshold)
    # Hardshrink zeroes |x| <= bound. With the next smaller number as bound, it keeps elements equal to the threshold.
    ends = torch.tensor([cut.threshold, -math.inf], dtype=dtype)
    before = torch.nextafter(ends[0], ends[1]).item()
    if ties == x.numel():
        return torch.hardshrink(x, before)
    return torch.cat([torch.hardshrink(x[:ties], before), torch.hardshrink(x[ties:], cut.threshold)])


def checked(x: Tensor) -> Tensor:
    """Return a tensor, or raise TypeError if it is not float32 or float64."""
    if str(x.dtype) not in FLOATS:
        raise TypeError(f"mergecore-numerics selects from float32 or float64, not {x.dtype}; convert the tensor first")
    return x
