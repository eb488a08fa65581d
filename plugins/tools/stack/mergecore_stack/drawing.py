"""Draw the model that each layer of a stack comes from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Run:
    """Layers `start` to `end` (exclusive) of a model, by its position. `scale` multiplies the output of their MLPs."""

    model: int
    start: int
    end: int
    scale: float | None = None


def shuffled(layers: int, weights: Sequence[float], seed: int) -> list[Run]:
    """Draw the model of each layer with these weights, keeping positions. Adjacent layers of a model form one run."""
    draw = random.Random(seed)
    models = draw.choices(range(len(weights)), weights, k=layers)
    return joined(Run(model, index, index + 1) for index, model in enumerate(models))


def scattered(layers: int, weights: Sequence[float], seed: int) -> list[Run]:
    """Draw as many layers as one model has: a share by weight from each model, in random order."""
    draw = random.Random(seed)
    runs = [
        Run(model, index, index + 1)
        for model, count in enumerate(shares(layers, weights))
        for index in draw.sample(range(layers), count)
    ]
    draw.shuffle(runs)
    return joined(runs)


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` into integers in proportion to weights, by the largest-remainder method."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda place: counts[place] - exact[place])
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    return counts


def joined(runs: Iterable[Run]) -> list[Run]:
    """Join each run with the previous one if it continues it."""
    result: list[Run] = []
    for run in runs:
        last = result[-1] if result else None
        if last and (last.model, last.end) == (run.model, run.start):
            result[-1] = replace(last, end=run.end)
        else:
            result.append(run)
    return result
