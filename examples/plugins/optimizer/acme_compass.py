"""Compass search: a step along each number in turn, half as long when none of them leads on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


class Compass:
    """Looks both ways along every number, and goes where it is lowest (Fermi and Metropolis; Davidon, 1991).

    The seed says where it begins. A generation has two points a number, whatever `population` says.
    """

    def __init__(self, dimensions: int, seed: int, population: int = 0) -> None:
        draw = random.Random(seed)
        self._best, self._lowest = [draw.random() for _ in range(dimensions)], math.inf
        self._step = 0.25

    def ask(self) -> list[list[float]]:
        """The beginning with its neighbours at first, then the neighbours of the best point."""
        points = [] if self._lowest < math.inf else [list(self._best)]
        for index, value in enumerate(self._best):
            for moved in (max(0.0, value - self._step), min(1.0, value + self._step)):
                points.append([*self._best[:index], moved, *self._best[index + 1 :]])
        return points

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """Move to the lowest, by the mean of the objectives, or take smaller steps."""
        totals = [math.fsum(row) / len(row) for row in losses]
        place = min(range(len(points)), key=totals.__getitem__)
        if totals[place] < self._lowest:
            self._best, self._lowest = list(points[place]), totals[place]
        else:
            self._step /= 2
