"""Points of a space turned into trials: in this process, in others, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from mergecore_eval.results import measure

from mergecore.api import Evaluation
from mergecore.console import warn
from mergecore.errors import MergecoreError
from mergecore.registry import Registry
from mergecore_search.candidates import Maker
from mergecore_search.history import Trial
from mergecore_search.objectives import Objectives
from mergecore_search.space import Space


@dataclass(frozen=True)
class Task:
    """All that a process needs to try points; it can be sent to others.

    Attributes:
        space, evaluations, objectives: what is searched and how it is judged.
        memory: bytes that merging may have in flight.
        cores: threads that merge and compute.
    """

    space: Space
    evaluations: tuple[Evaluation, ...]
    objectives: Objectives
    memory: int
    cores: int


class Trier:
    """Tries points one after another."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.cores)
        self._task = task
        self._maker = Maker(Registry(warn), task.memory, task.cores, warn)

    def attempt(self, point: Sequence[float]) -> Trial:
        """Merge the candidate of a point and measure it; one that cannot be merged or measured is worth nothing."""
        task, values = self._task, self._task.space.values(point)
        try:
            with self._maker.candidate(task.space.at(point), "candidate") as subject:
                result = measure(subject, task.evaluations)
            losses, scores, failed = task.objectives.losses(result.scores), result.plain()["scores"], ""
        except MergecoreError as error:
            losses, scores, failed = [float("inf")] * len(task.objectives.wanted), {}, str(error)
        return Trial(tuple(point), values, tuple(losses), scores, failed)

    def close(self) -> None:
        self._maker.close()


_TRIER: list[Trier] = []
"""Of a process of a pool."""


def _open(task: Task) -> None:
    _TRIER[:] = [Trier(task)]


def _attempt(point: Sequence[float]) -> Trial:
    return _TRIER[0].attempt(point)


class Pool:
    """Tries points at the same time, in processes of this machine or of a Ray cluster."""

    def __init__(self, task: Task, processes: int, ray: str | None) -> None:
        if ray is not None:
            import ray as cluster
            from ray.util.multiprocessing import Pool as RayPool

            cluster.init(address=ray, ignore_reinit_error=True, log_to_driver=False)
            self._pool: Any = RayPool(processes, _open, [task])
        else:
            from multiprocessing import get_context

            self._pool = get_context("spawn").Pool(processes, _open, [task])

    def attempt(self, points: Sequence[Sequence[float]]) -> list[Trial]:
        """A trial for each point, in their order."""
        return list(self._pool.map(_attempt, points, chunksize=1))

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


@contextmanager
def trying(task: Task, processes: int, ray: str | None) -> Iterator[Callable[[Sequence[Sequence[float]]], list[Trial]]]:
    """What tries points, for as long as the block lasts."""
    if processes > 1 or ray is not None:
        pool = Pool(task, processes, ray)
        with closing(pool):
            yield pool.attempt
        return
    trier = Trier(task)
    with closing(trier):
        yield lambda points: [trier.attempt(point) for point in points]
