"""Experimental executor that merges on all GPUs of the machine, fed from one queue. Without a GPU, it uses threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from mergecore.api import Budget, Work, in_threads
from mergecore.tooling import ThreadsExecutor
from mergecore_cuda.copies import Copies
from mergecore_cuda.feeder import Feeder
from mergecore_cuda.supply import Supply

TILE_ELEMENTS = 2**24
"""Elements per flat tile, enough to make kernel launch overhead negligible."""


class CudaExecutor:
    """Read, upload, merge, download, and write different tiles at once (experimental). See `mergecore.api.Executor`.

    `Method.measure` runs on the CPU, ahead of the GPUs, in as many threads as the run has workers. Its results match
    the threads executor bit for bit, and element selection only works on the CPU. It uses half of the memory budget.
    The pinned buffers of all GPUs share the other half.

    Args:
        devices: devices to use. Defaults to all GPUs.
        tile_elements: maximum tile size, if host and device memory allow it.
    """

    def __init__(self, devices: Sequence[torch.device] | None = None, tile_elements: int = TILE_ELEMENTS) -> None:
        self._devices = (
            [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if devices is None else devices
        )
        self._tile = tile_elements

    def run(self, work: Work) -> None:
        """See `mergecore.api.Executor.run`."""
        if not self._devices:
            work.warn("torch finds no GPU, so this run merges on the CPU, like --executor threads")
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
