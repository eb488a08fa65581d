"""What is added up, tile by tile, of a weight's change from the base, and of two models' changes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Change(NamedTuple):
    """Of a base A and D = B - A: how many elements, how many of D are not 0, and the dot products."""

    elements: int = 0
    changed: int = 0
    aa: float = 0.0
    ad: float = 0.0
    dd: float = 0.0

    @property
    def relative(self) -> float:
        """||B - A|| / ||A||; NaN where the base is zero and the other is not."""
        return _ratio(math.sqrt(self.dd), math.sqrt(self.aa)) if self.dd else 0.0

    @property
    def cosine(self) -> float:
        """The cosine of the angle between A and B; 1 where they are equal."""
        if not self.dd:
            return 1.0
        bb = max(self.aa + 2 * self.ad + self.dd, 0.0)
        return _ratio(self.aa + self.ad, math.sqrt(self.aa) * math.sqrt(bb))

    @property
    def share(self) -> float:
        """The share of the elements that differ."""
        return _ratio(self.changed, self.elements)


class Clash(NamedTuple):
    """Of two changes D and E of one base: dot products, and the elements that both change, and that they oppose in."""

    dd: float = 0.0
    de: float = 0.0
    ee: float = 0.0
    both: int = 0
    opposite: int = 0

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the two task vectors; NaN where one of them is zero."""
        return _ratio(self.de, math.sqrt(self.dd) * math.sqrt(self.ee))

    @property
    def conflict(self) -> float:
        """Of the elements that both models change, the share that they move in opposite directions."""
        return _ratio(self.opposite, self.both)

    @property
    def distance(self) -> float:
        """How far the two models are from each other, ||D - E||."""
        return math.sqrt(max(self.dd + self.ee - 2 * self.de, 0.0))


def total_change(items: Iterable[Change]) -> Change:
    """The sums over several weights."""
    return Change(*map(sum, zip(Change(), *items)))


def total_clash(items: Iterable[Clash]) -> Clash:
    """The sums over several weights."""
    return Clash(*map(sum, zip(Clash(), *items)))


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan
