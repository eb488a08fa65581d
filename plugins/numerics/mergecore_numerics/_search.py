"""The search for one k-th largest value over several passes: what a pass tries, and what follows from what it saw."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[Any]
"""Magnitudes as the integers that their bits spell: those have the order of the magnitudes, with NaN above infinity."""

SAMPLE = 2**17
"""Values that a sample has at most, more or less."""

_PATIENCE = 6  # passes after which guessing from samples gives way to bisection, which always ends


class Search:
    """Finds the `count`-th largest of `total` integers, which lies within `low` and `high`, in passes over all of them.

    A pass counts the values above a few edges (`aim` chooses them, from a sample) and picks those out that lie between
    two of them. `found` then either narrows `low` and `high`, or sets the results: `threshold`, how many of its
    equals are `needed`, and how many of them there are `upto` the end of each piece.
    """

    def __init__(self, count: int, total: int, sample: Bits, capacity: int) -> None:
        """0 < count < total; `sample` are values taken evenly; `capacity` says how many may be picked out."""
        self.count = count
        # One block for all: many small ones that stay, among tiles that come and go, leave the heap full of holes.
        self.picked = np.empty(min(capacity, total), sample.dtype)
        self.low, self.high = 0, int(np.iinfo(sample.dtype).max)
        self.passes = 0
        self._learn(sample, count, total)

    def _learn(self, sample: Bits, rank: int, size: int) -> None:
        """Guess from now on from this sample of `size` values, whose rank-th largest is sought."""
        self.sample = sample[:: max(1, sample.size // SAMPLE)].copy()
        self.rank = self.sample.size * rank / size
        # Four standard deviations, or more for samples that are not quite even; but no more than half of the capacity.
        widest = self.sample.size * max(self.picked.size / size / 4, 1 / 256)
        self.reach = min(max(self.sample.size / 128, 2 * self.sample.size**0.5), widest) + 1

    def aim(self) -> None:
        """Begin a pass: choose the edges."""
        self.passes += 1
        self.rows, self.ends, self.fill, self.step = array("q"), array("q"), 0, 1
        left, right = self._bounds()
        edges = {left, right}
        # A frequent value would fill the memory: with an edge on either side it is counted instead.
        if left == right or self._frequent(left):
            edges.add(left - 1)
        if self._frequent(right):
            edges.add(right - 1)
        self.edges = sorted(edges)
        self.inner = self.edges.index(left)
        if right - left < 2 or self.edges[self.inner + 1] == left + 1:
            self.inner = -1

    def _bounds(self) -> tuple[int, int]:
        """Two values between which the sought one probably is (right included), within what is known."""
        if self.low == self.high or self.passes > _PATIENCE:
            middle = (self.low + self.high) // 2
            return middle, middle
        lower, upper = int(self.rank + self.reach), int(self.rank - self.reach)
        left = _ranked(self.sample, lower)[0] if lower <= self.sample.size else self.low - 1
        right = _ranked(self.sample, upper)[0] if upper > 0 else self.high
        return min(max(left, self.low - 1), self.high), min(max(right, self.low), self.high)

    def _frequent(self, value: int) -> bool:
        return int(np.count_nonzero(self.sample == value)) > self.sample.size // 512

    def see(self, piece: Bits) -> None:
        """Count the values of the next piece, and pick out those between the inner edges."""
        above = [piece > edge for edge in self.edges]
        row = [int(np.count_nonzero(mask)) for mask in above]
        self.rows.extend(row)
        if self.inner < 0:
            return
        inside = np.logical_xor(above[self.inner], above[self.inner + 1])
        values = np.compress(inside[:: self.step], piece[:: self.step])
        while self.fill + values.size > self.picked.size:
            # From here on what is picked is but a sample, by odd steps that take all columns of a matrix in turn.
            thinned = self.picked[: self.fill : 3].copy()
            self.picked[: thinned.size] = thinned
            self.fill, self.step, values = thinned.size, self.step * 3, values[::3]
        self.picked[self.fill : self.fill + values.size] = values
        self.fill += values.size
        self.ends.append(self.fill)

    def found(self) -> bool:
        """End a pass: whether the threshold is found."""
        rows = np.array(self.rows).reshape(-1, len(self.edges))
        over = rows.sum(0)
        place = int(np.count_nonzero(over >= self.count)) - 1  # the sought value is above this edge, not above the next
        if place >= 0:
            self.low = self.edges[place] + 1
        if place + 1 < len(self.edges):
            self.high = self.edges[place + 1]
        if not 0 <= place < len(self.edges) - 1:
            self.reach *= 8
            return False
        self.needed = self.count - int(over[place + 1])
        if self.low == self.high:
            self.threshold, self.upto = self.low, np.cumsum(rows[:, place] - rows[:, place + 1])
            return True
        values = self.picked[: self.fill]
        if self.step > 1:
            self._learn(values, self.needed, int(over[place] - over[place + 1]))
            return False
        self.threshold, self.needed = _ranked(values, self.needed)
        self.upto = np.searchsorted(np.flatnonzero(values == self.threshold), np.array(self.ends))
        return True


def _ranked(values: Bits, rank: int) -> tuple[int, int]:
    """The rank-th largest (1: the largest) of non-negative integers, and its rank among its equals.

    By counting their leading bits, twelve at a time: np.partition takes ten times as long where values are frequent.
    """
    base = int(values.min())
    width = (int(values.max()) - base).bit_length()
    while width:
        width = max(width - 12, 0)
        tally = np.zeros(2**12, np.int64)
        for start in range(0, values.size, SAMPLE):
            tally += np.bincount((values[start : start + SAMPLE] - base) >> width, minlength=tally.size)
        upto = np.cumsum(tally[::-1])
        place = int(np.searchsorted(upto, rank))
        digit = tally.size - 1 - place
        rank -= int(upto[place] - tally[digit])
        base += digit << width
        values = np.compress((values >= base) & (values < base + (1 << width)), values)
    return base, rank
