"""Points of a space turned into trials: in this process, in others, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from mergecore_eval.results import measure

from mergecore.api import Evaluation
from mergecore.cli.console import warn
from mergecore.discovery.registry import Registry
from mergecore.errors import MergecoreError, RunError
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


class Processes:
    """Tries points at the same time, in processes of this machine."""

    def __init__(self, task: Task, processes: int) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _open, (task,))

    def attempt(self, points: Sequence[Sequence[float]]) -> list[Trial]:
        """A trial for each point, in their order.

        Raises:
            RunError: a process was killed.
        """
        from concurrent.futures import BrokenExecutor

        try:
            return list(self._pool.map(_attempt, points))
        except BrokenExecutor:
            raise RunError(
                "a process that tried a candidate was killed, perhaps because the memory was used up; type the same"
                " command again, with fewer --workers or less --memory"
            ) from None

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Cluster:
    """Tries points at the same time, in processes of a Ray cluster."""

    def __init__(self, task: Task, processes: int, address: str) -> None:
        import ray
        from ray.util.multiprocessing import Pool

        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        self._pool: Any = Pool(processes, _open, [task])

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
        pool = Processes(task, processes) if ray is None else Cluster(task, processes, ray)
        with closing(pool):
            yield pool.attempt
        return
    trier = Trier(task)
    with closing(trier):
        yield lambda points: [trier.attempt(point) for point in points]
