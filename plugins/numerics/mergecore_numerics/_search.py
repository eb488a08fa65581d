"""Multi-pass search for the k-th largest value: what each pass tries and what its counts imply."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[Any]
"""Magnitudes as the integers with the same bits. They sort like the magnitudes, with NaN above infinity."""

SAMPLE = 2**17
"""Approximate maximum number of values in a sample."""

_PATIENCE = 6  # passes before switching from sample-based guesses to bisection, which always terminates


class Search:
    """Find the `count`-th largest of `total` integers, which is between `low` and `high`, in passes over all of them.

    A pass counts the values above a few edges, which `aim` chooses from a sample, and picks the values between two of
    them. `found` then either narrows `low` and `high` or sets the results: `threshold`, how many values equal to it are
    `needed`, and how many of those there are `upto` the end of each piece.
    """

    def __init__(self, count: int, total: int, sample: Bits, capacity: int) -> None:
        """Requires 0 < count < total. `sample` holds evenly spaced values. At most `capacity` values are picked."""
        self.count = count
        # A single block: many small long-lived arrays among short-lived tiles would fragment the heap.
        self.picked = np.empty(min(capacity, total), sample.dtype)
        self.low, self.high = 0, int(np.iinfo(sample.dtype).max)
        self.passes = 0
        self._learn(sample, count, total)

    def _learn(self, sample: Bits, rank: int, size: int) -> None:
        """Base further guesses on this sample of `size` values and look for the rank-th largest of them."""
        self.sample = sample[:: max(1, sample.size // SAMPLE)].copy()
        self.rank = self.sample.size * rank / size
        # Four standard deviations, or more in case the sample is uneven, but at most half of the capacity.
        widest = self.sample.size * max(self.picked.size / size / 4, 1 / 256)
        self.reach = min(max(self.sample.size / 128, 2 * self.sample.size**0.5), widest) + 1

    def aim(self) -> None:
        """Start a pass by choosing the edges."""
        self.passes += 1
        self.rows, self.ends, self.fill, self.step = array("q"), array("q"), 0, 1
        left, right = self._bounds()
        edges = {left, right}
        # A frequent value would fill the memory. With an edge on each side, it is only counted.
        if left == right or self._frequent(left):
            edges.add(left - 1)
        if self._frequent(right):
            edges.add(right - 1)
        self.edges = sorted(edges)
        self.inner = self.edges.index(left)
        if right - left < 2 or self.edges[self.inner + 1] == left + 1:
            self.inner = -1

    def _bounds(self) -> tuple[int, int]:
        """Return the likely bounds of the target (right bound inclusive), within the known limits."""
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
        """Count the values of the next piece and pick those between the inner edges."""
        above = [piece > edge for edge in self.edges]
        row = [int(np.count_nonzero(mask)) for mask in above]
        values = piece[:0]
        if self.inner >= 0:
            inside = np.logical_xor(above[self.inner], above[self.inner + 1])
            values = np.compress(inside[:: self.step], piece[:: self.step])
        self.saw(row, values)

    def saw(self, row: Sequence[int], values: Bits) -> None:
        """Note how many values of the next piece are above each edge, and keep those between the inner edges."""
        self.rows.extend(row)
        if self.inner < 0:
            return
        while self.fill + values.size > self.picked.size:
            # From here on, only a sample is picked. An odd step cycles through all columns of a matrix.
            thinned = self.picked[: self.fill : 3].copy()
            self.picked[: thinned.size] = thinned
            self.fill, self.step, values = thinned.size, self.step * 3, values[::3]
        self.picked[self.fill : self.fill + values.size] = values
        self.fill += values.size
        self.ends.append(self.fill)

    def found(self) -> bool:
        """End a pass and return whether the threshold was found."""
        rows = np.array(self.rows).reshape(-1, len(self.edges))
        over = rows.sum(0)
        place = int(np.count_nonzero(over >= self.count)) - 1  # the target is above this edge but not the next
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
    """Return the rank-th largest (1: the largest) of non-negative integers and its rank among equal values.

    This counts leading bits, twelve at a time. np.partition takes ten times as long if some values are frequent.
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
