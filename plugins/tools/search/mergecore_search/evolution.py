"""The search loop: ask the optimizer for points, try them, and report the losses back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mergecore.api import Optimizer
from mergecore_search.history import History, Trial
from mergecore_search.objectives import front, total

Try = Callable[[Sequence[Sequence[float]]], list[Trial]]


def evolve(
    optimizer: Optimizer, attempt: Try, history: History, count: int, at_once: int, tell: Callable[[Trial], None]
) -> None:
    """Try `count` points, except those that `history` has from an earlier run.

    Args:
        optimizer: Chooses the points.
        attempt: Tries several points.
        history: Saves every trial before the next one starts.
        count: Total number of points.
        at_once: Number of points to try in parallel. Their order is kept, so the result does not depend on it.
        tell: Called with each trial.
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
    """Return the first trial with the lowest mean of its objectives, or None if all failed."""
    fine = [trial for trial in trials if not trial.failed and total(trial.losses) < float("inf")]
    return min(fine, key=lambda trial: total(trial.losses), default=None)


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials on the Pareto front."""
    return [trials[index] for index in front([trial.losses for trial in trials])]
