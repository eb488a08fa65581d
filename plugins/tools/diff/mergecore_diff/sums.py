"""Running sums, tile by tile, over one model's change from the base and over two models' changes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Change(NamedTuple):
    """For a base A and D = B - A: the number of elements, of nonzero elements of D, and the dot products."""

    elements: int = 0
    changed: int = 0
    aa: float = 0.0
    ad: float = 0.0
    dd: float = 0.0

    @property
    def relative(self) -> float:
        """||B - A|| / ||A||, or NaN if the base is zero and the other model is not."""
        return _ratio(math.sqrt(self.dd), math.sqrt(self.aa)) if self.dd else 0.0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between A and B, or 1 if they are equal."""
        if not self.dd:
            return 1.0
        bb = max(self.aa + 2 * self.ad + self.dd, 0.0)
        return _ratio(self.aa + self.ad, math.sqrt(self.aa) * math.sqrt(bb))

    @property
    def share(self) -> float:
        """Share of the elements that differ."""
        return _ratio(self.changed, self.elements)


class Clash(NamedTuple):
    """For two changes D and E of one base: the dot products, the elements that both change, and the opposite ones."""

    dd: float = 0.0
    de: float = 0.0
    ee: float = 0.0
    both: int = 0
    opposite: int = 0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two task vectors, or NaN if one is zero."""
        return _ratio(self.de, math.sqrt(self.dd) * math.sqrt(self.ee))

    @property
    def conflict(self) -> float:
        """Share of the elements changed by both models that move in opposite directions."""
        return _ratio(self.opposite, self.both)

    @property
    def distance(self) -> float:
        """Distance between the two models, ||D - E||."""
        return math.sqrt(max(self.dd + self.ee - 2 * self.de, 0.0))


def total_change(items: Iterable[Change]) -> Change:
    """Add up the sums of several weights."""
    return Change(*map(sum, zip(Change(), *items)))


def total_clash(items: Iterable[Clash]) -> Clash:
    """Add up the sums of several weights."""
    return Clash(*map(sum, zip(Clash(), *items)))


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan
