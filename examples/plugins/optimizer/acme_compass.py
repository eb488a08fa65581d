"""Compass search: step along each number in both directions and halve the step if nothing improves."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


class Compass:
    """Try both directions along every number and move to the lowest loss (Fermi and Metropolis; Davidon, 1991).

    The seed determines the starting point. A generation has two points per number, regardless of `population`.
    """

    def __init__(self, dimensions: int, seed: int, population: int = 0) -> None:
        draw = random.Random(seed)
        self._best, self._lowest = [draw.random() for _ in range(dimensions)], math.inf
        self._step = 0.25

    def ask(self) -> list[list[float]]:
        """Return the neighbors of the best point, and in the first generation also the starting point."""
        points = [] if self._lowest < math.inf else [list(self._best)]
        for index, value in enumerate(self._best):
            for moved in (max(0.0, value - self._step), min(1.0, value + self._step)):
                points.append([*self._best[:index], moved, *self._best[index + 1 :]])
        return points

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """Move to the point with the lowest mean of the objectives, or halve the step."""
        totals = [math.fsum(row) / len(row) for row in losses]
        place = min(range(len(points)), key=totals.__getitem__)
        if totals[place] < self._lowest:
            self._best, self._lowest = list(points[place]), totals[place]
        else:
            self._step /= 2
