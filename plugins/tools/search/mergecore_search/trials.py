"""Try the points of a space: in this process, in other processes, or on a Ray cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, parent_process
from typing import Any

from mergecore_eval.results import measure

from mergecore.api import Evaluation, RunError
from mergecore.tooling import MergecoreError, Registry, warn
from mergecore_search.candidates import Maker
from mergecore_search.history import Trial
from mergecore_search.objectives import Objectives
from mergecore_search.space import Space


@dataclass(frozen=True)
class Task:
    """Everything that a process needs to try points. It can be pickled.

    Attributes:
        space, evaluations, objectives: What to search, and how to score it.
        memory: Bytes available for merging.
        cores: Number of threads for merging and evaluation.
    """

    space: Space
    evaluations: tuple[Evaluation, ...]
    objectives: Objectives
    memory: int
    cores: int


class Trier:
    """Try points one after another."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.cores)
        self._task = task
        self._maker = Maker(Registry(warn), task.memory, task.cores, warn)

    def attempt(self, point: Sequence[float]) -> Trial:
        """Merge and measure the candidate of a point. If that fails, its losses are infinite."""
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
"""The trier of a pool process."""


def _open(task: Task) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _TRIER[:] = [Trier(task)]


def _end_with_parent() -> None:
    """End this process once its parent has been killed. It would wait for work forever."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _attempt(point: Sequence[float]) -> Trial:
    return _TRIER[0].attempt(point)


class Processes:
    """Try points in parallel, in processes on this machine."""

    def __init__(self, task: Task, processes: int) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _open, (task,))

    def attempt(self, points: Sequence[Sequence[float]]) -> list[Trial]:
        """Return a trial for each point, in order.

        Raises:
            RunError: A process was killed.
        """
        from concurrent.futures import BrokenExecutor

        try:
            return list(self._pool.map(_attempt, points))
        except BrokenExecutor:
            raise RunError(
                "a process that tried a candidate was killed, possibly because it ran out of memory; run the same"
                " command again with fewer --workers or less --memory"
            ) from None

    def stop(self) -> None:
        """End the processes without waiting for their candidates."""
        for process in active_children():
            process.kill()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Cluster:
    """Try points in parallel, in processes on a Ray cluster."""

    def __init__(self, task: Task, processes: int, address: str) -> None:
        import ray
        from ray.util.multiprocessing import Pool

        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        self._pool: Any = Pool(processes, _open, [task])

    def attempt(self, points: Sequence[Sequence[float]]) -> list[Trial]:
        """Return a trial for each point, in order."""
        return list(self._pool.map(_attempt, points, chunksize=1))

    def stop(self) -> None:
        """End the processes without waiting for their candidates."""
        self._pool.terminate()

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


@contextmanager
def trying(task: Task, processes: int, ray: str | None) -> Iterator[Callable[[Sequence[Sequence[float]]], list[Trial]]]:
    """Provide a function that tries points, for the duration of the `with` block."""
    if processes > 1 or ray is not None:
        pool = Processes(task, processes) if ray is None else Cluster(task, processes, ray)
        with closing(pool):
            try:
                yield pool.attempt
            except BaseException:
                pool.stop()
                raise
        return
    trier = Trier(task)
    with closing(trier):
        yield lambda points: [trier.attempt(point) for point in points]
