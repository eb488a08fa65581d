"""Built-in optimizers: CMA-ES, and random search as a baseline."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from mergecore_search.objectives import total


class Cma:
    """CMA-ES (https://arxiv.org/abs/1604.00772) on the mean of the objectives, starting in the center of the cube.

    See `mergecore.api.Optimizer`.
    """

    def __init__(self, dimensions: int, seed: int, population: int = 0) -> None:
        from cma import CMAEvolutionStrategy

        options = {"bounds": [0, 1], "seed": seed + 1, "verbose": -9}  # in cma, a seed of 0 means the clock
        if population:
            options["popsize"] = population
        # cma does not support one dimension, so add an unused one.
        self._spare = dimensions < 2
        self._strategy = CMAEvolutionStrategy([0.5] * (dimensions + self._spare), 1 / 4, options)
        self._asked: list[Sequence[float]] = []

    def ask(self) -> list[list[float]]:
        self._asked = self._strategy.ask()
        return [[float(x) for x in (point[:-1] if self._spare else point)] for point in self._asked]

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        totals = [total(row) for row in losses]
        worst = max((value for value in totals if math.isfinite(value)), default=0.0)
        self._strategy.tell(self._asked, [value if math.isfinite(value) else worst + 1.0 for value in totals])


class RandomSearch:
    """Points drawn uniformly from the cube. See `mergecore.api.Optimizer`."""

    def __init__(self, dimensions: int, seed: int, population: int = 0) -> None:
        self._draw = random.Random(seed)
        self._dimensions, self._population = dimensions, population or 8

    def ask(self) -> list[list[float]]:
        return [[self._draw.random() for _ in range(self._dimensions)] for _ in range(self._population)]

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """Do nothing, because random search does not learn."""
