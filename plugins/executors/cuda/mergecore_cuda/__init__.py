"""Merges on every GPU of the machine, all fed from one queue; where there is none, in threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from mergecore.api import Work
from mergecore.builtin.threads import Budget, ThreadsExecutor, in_threads
from mergecore_cuda.copies import Copies
from mergecore_cuda.feeder import Feeder
from mergecore_cuda.supply import Supply

TILE_ELEMENTS = 2**24
"""Elements of a flat tile: so many that starting a kernel costs nothing beside what it does."""


class CudaExecutor:
    """Reads, uploads, merges, downloads and writes different tiles at once; see `mergecore.api.Executor`.

    What methods measure is measured on the CPU in as many threads as the run has, ahead of the GPUs: its bits are those
    of the threads executor, and what selects elements works there only. Half of the budget of memory is for that, the
    other half for the pinned buffers of all GPUs.

    Args:
        devices: default: every GPU.
        tile_elements: largest tile, where the memories have room for it.
    """

    def __init__(self, devices: Sequence[torch.device] | None = None, tile_elements: int = TILE_ELEMENTS) -> None:
        self._devices = (
            [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if devices is None else devices
        )
        self._tile = tile_elements

    def run(self, work: Work) -> None:
        """See `mergecore.api.Executor.run`."""
        if not self._devices:
            work.warn("torch sees no GPU, so this run merges on the CPU as with --executor threads")
            ThreadsExecutor().run(work)
            return
        errors: list[BaseException] = []
        with (
            ThreadPoolExecutor(work.workers, "measure", torch.set_num_threads, (1,)) as measuring,
            ThreadPoolExecutor(work.workers, "move") as moving,
        ):
            supply = Supply(work, measuring, Budget(work.memory // 2), errors, len(self._devices) + work.workers)
            room = work.memory // 2 // len(self._devices)
            feeders = [Feeder(work, supply, moving, Copies(item), room, self._tile) for item in self._devices]
            in_threads([feeder.run for feeder in feeders], errors)
            measuring.shutdown(cancel_futures=True)
        if errors:
            raise errors[0]
