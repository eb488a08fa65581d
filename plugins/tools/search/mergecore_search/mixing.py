"""Soups and cocktails: choose the models of a mean, and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergecore_eval.results import measure
from mergecore_eval.subjects import Folder

from mergecore.tooling import available_cores, say, warn
from mergecore_search.candidates import Maker
from mergecore_search.objectives import total
from mergecore_search.setup import Setup, linear


@dataclass(frozen=True)
class Mixture:
    """The models of a mean, by position, and the losses of that mean."""

    models: tuple[int, ...]
    losses: tuple[float, ...]


def losses_of_each(setup: Setup, models: Sequence[Path]) -> list[tuple[float, ...]]:
    """Return the losses of each single model."""
    found = []
    for model in models:
        say(f"measuring {model}")
        result = measure(Folder(model.absolute(), str(model)), setup.evaluations)
        found.append(tuple(setup.objectives.losses(result.scores)))
    return found


def greedy(models: Sequence[Mixture], mean: Callable[[tuple[int, ...]], Mixture]) -> list[Mixture]:
    """Greedy soup (https://arxiv.org/abs/2203.05482): keep the next best model unless it makes the mean worse.

    Args:
        models: Each model on its own.
        mean: Computes and measures the mean of some models.

    Returns:
        Every mixture that was tried, kept or not. The soup is the last one with the lowest loss.
    """
    order = sorted(range(len(models)), key=lambda index: total(models[index].losses))
    kept = models[order[0]]
    tried = [kept]
    for index in order[1:]:
        tried.append(mean((*kept.models, index)))
        if total(tried[-1].losses) <= total(kept.losses):
            kept = tried[-1]
    return tried


def measured_mean(setup: Setup, models: Sequence[Path]) -> tuple[Callable[[tuple[int, ...]], Mixture], Maker]:
    """Return a function that computes and measures the mean of some of the models, and the `Maker` to close."""
    maker = Maker(setup.registry, setup.memory, available_cores(), warn)

    def mean(chosen: tuple[int, ...]) -> Mixture:
        say(f"trying {' + '.join(models[index].name for index in chosen)}")
        place = linear([models[index] for index in chosen], [1.0] * len(chosen))
        with maker.candidate(place, "soup") as subject:
            losses = setup.objectives.losses(measure(subject, setup.evaluations).scores)
        return Mixture(chosen, tuple(losses))

    return mean, maker


def cocktail_weights(losses: Sequence[float], temperature: float) -> list[float]:
    """Return weights by how well each model does on the examples: softmax(-loss / temperature).

    LM-Cocktail (https://arxiv.org/abs/2311.13534). A lower temperature favors the best model more.
    """
    best = min(losses)
    shares = [math.exp((best - loss) / temperature) for loss in losses]
    return [share / math.fsum(shares) for share in shares]
