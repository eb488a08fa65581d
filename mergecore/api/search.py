"""What an optimizer is asked: points to try, and what they were worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Optimizer(Protocol):
    """Looks for the lowest losses over the unit cube; made as ``Kind(dimensions, seed, population)``.

    `population` is how many points to ask for at a time, 0 its own choice. The same seed and the same losses must lead
    to the same points: a search that was killed asks everything again and is told what it knew.
    """

    def ask(self) -> Sequence[Sequence[float]]:
        """The next points, each with a number from 0 to 1 for every dimension."""

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """What the points that were asked last are worth: a row a point, a loss an objective, infinite if it failed."""
