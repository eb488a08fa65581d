"""The loop of a search: ask the optimizer, try what it asks, tell it what that was worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mergecore.api import Optimizer
from mergecore_search.history import History, Trial
from mergecore_search.objectives import front, total

Try = Callable[[Sequence[Sequence[float]]], list[Trial]]


def evolve(
    optimizer: Optimizer, attempt: Try, history: History, count: int, at_once: int, tell: Callable[[Trial], None]
) -> None:
    """Try `count` points; what `history` knows from an earlier run is not tried again.

    Args:
        optimizer: what chooses points.
        attempt: what tries several.
        history: what keeps every trial before the next is begun.
        count: points in all.
        at_once: how many are tried at one time; they are kept in their order, so that the search is the same for any.
        tell: hears of each trial.
    """
    while len(history.trials) < count:
        points = [tuple(point) for point in optimizer.ask()]
        begun = len(history.trials)
        points_left = points[: count - begun]
        while len(history.trials) - begun < len(points_left):
            rest = points_left[len(history.trials) - begun :]
            known = history.known(rest[0])
            for trial in [known] if known else attempt(rest[:at_once]):
                history.add(trial)
                tell(trial)
        if len(points_left) == len(points):
            optimizer.tell(points, [trial.losses for trial in history.trials[begun:]])


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the lowest mean of its objectives; the first of equals, None where all failed."""
    fine = [trial for trial in trials if not trial.failed and total(trial.losses) < float("inf")]
    return min(fine, key=lambda trial: total(trial.losses), default=None)


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other beats in every objective."""
    return [trials[index] for index in front([trial.losses for trial in trials])]
