"""Jobs of a run for all devices, with their measurements, which the CPU computes in advance."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Executor, Future

from mergecore.api import TILE_ELEMENTS, Budget, Context, Job, TileMerger, Work


class Supply:
    """Hand out jobs, the largest first.

    Args:
        work: the work of the run.
        pool: thread pool for measuring.
        budget: memory budget for measuring and for jobs done on the CPU.
        errors: errors of all threads. After the first one, no more jobs are handed out.
        ahead: maximum number of jobs measured in advance.
    """

    def __init__(self, work: Work, pool: Executor, budget: Budget, errors: list[BaseException], ahead: int) -> None:
        self._work, self._pool, self._budget, self._errors, self._ahead = work, pool, budget, errors, ahead
        self._jobs = deque(sorted(work.jobs, key=lambda job: -job.info.nbytes))
        self._measured: deque[tuple[Job, Future[Context]]] = deque()
        self._turn = threading.Lock()

    def take(self) -> tuple[Job, Future[Context]] | None:
        """Return the next job and its context, or None if there are no more."""
        with self._turn:
            while self._jobs and len(self._measured) < self._ahead:
                job = self._jobs.popleft()
                self._measured.append((job, self._pool.submit(self._context, job)))
            return self._measured.popleft() if self._measured and not self._errors else None

    def check(self) -> None:
        """Raise the first error of any thread."""
        if self._errors:
            raise self._errors[0]

    def make_here(self, job: Job) -> None:
        """Do a job on the CPU, like the threads executor."""
        with self._budget.hold(job.memory(TILE_ELEMENTS)):
            self._merger().make(job)

    def _context(self, job: Job) -> Context:
        if not (job.measures and job.info.elements):
            return job.context([])
        with self._budget.hold(job.memory(TILE_ELEMENTS)):
            return self._merger().context(job)

    def _merger(self) -> TileMerger:
        return TileMerger(self._work, TILE_ELEMENTS, self._errors)
