"""The default executor: one thread per core, each merging one tensor at a time, tile by tile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from mergecore.api import TILE_ELEMENTS, Budget, TileMerger, Work, in_threads, keep_freed_pages
from mergecore.tracing import NativeMerger, one_thread


class ThreadsExecutor:
    """Runs the largest tensors first, so that all threads finish together. Order and tiles do not affect the result.

    Args:
        tile_elements: number of elements of a flat tile.
        merger: the class that runs the jobs of one thread. Defaults to one that uses the kernels if there are any.
    """

    def __init__(self, tile_elements: int = TILE_ELEMENTS, merger: Callable[..., TileMerger] | None = None) -> None:
        self._tile, self._merger = tile_elements, merger

    def run(self, work: Work) -> None:
        """See `mergecore.api.Executor.run`."""
        keep_freed_pages()
        queue = deque(sorted(work.jobs, key=lambda job: -job.info.nbytes))
        budget = Budget(work.memory)
        errors: list[BaseException] = []
        native = partial(NativeMerger, kernels=work.kernels) if work.kernels and not self._merger else None
        make = native or self._merger or TileMerger

        def worker() -> None:
            if not native:
                one_thread()
            merger = make(work, self._tile, errors)
            while not errors:
                try:
                    job = queue.popleft()
                except IndexError:
                    return
                with budget.hold(job.memory(self._tile)):
                    merger.make(job)
                work.done(job)

        in_threads([worker] * work.workers, errors)
        if errors:
            raise errors[0]
