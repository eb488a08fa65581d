"""A reader of the transplanted tables, which copies kept rows and computes new ones batch by batch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mergecore.api import TensorInfo, torch_dtype
from mergecore.tooling import Checkpoint
from mergecore_tokensurgeon.approximations import METHODS
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Ints = NDArray[np.int64]

BATCH = 128
"""Number of new rows that a thread computes at a time."""
ZERO, MADE = -1, -2
"""Sources of rows that do not come from the model."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint."""

    checkpoint: Checkpoint
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.checkpoint.tensors[self.name]

    def load(self) -> Tensor:
        """Return the whole tensor in its stored dtype."""
        import torch

        flat = torch.empty(self.info.elements, dtype=torch_dtype(self.info.dtype))
        self.checkpoint.read(self.name, 0, flat)
        return flat.view(self.info.shape)


@dataclass
class Table:
    """One tensor of the output with one row per token.

    Attributes:
        model: The model's table.
        donor: The donor's table. None if it is not needed, as for biases.
        source: The model's row, `ZERO`, or `MADE` for each output row.
        task: Function that creates the task for new rows from the two loaded tables. Called once.
    """

    model: Stored
    donor: Stored | None
    source: Ints
    task: Callable[[Tensor, Tensor], Task]

    @cached_property
    def info(self) -> TensorInfo:
        return replace(self.model.info, shape=(len(self.source), *self.model.info.shape[1:]))

    @cached_property
    def made(self) -> Ints:
        """Indices of the new rows, in ascending order."""
        import numpy as np

        return np.flatnonzero(self.source == MADE)

    @cached_property
    def loaded(self) -> Tensor:
        return self.model.load()

    @cached_property
    def prepared(self) -> tuple[Task, Rows]:
        """The task and the function for new rows, prepared once before the first one."""
        assert self.donor is not None
        task = self.task(self.loaded, self.donor.load())
        return task, METHODS[task.settings.method](task)

    def batch(self, number: int) -> Tensor:
        """Compute a batch of new rows in the output's dtype, rounding only once."""
        import torch

        torch.set_num_threads(1)  # the batches already run in parallel
        task, make = self.prepared
        rows = torch.from_numpy(self.made[number * BATCH : (number + 1) * BATCH])
        result = make(rows)
        if task.settings.shrink:
            result = torch.lerp(result, task.mean, task.settings.shrink)
        if task.settings.noise:
            result = result + task.settings.noise * task.draw(rows)
        return (result * task.settings.scale).to(self.loaded.dtype)


@dataclass
class Tables:
    """A `mergecore.api.Reader` of the output's tables, by name.

    Tiles are read in order, so a few batches are computed ahead of the requested one, and earlier ones are dropped.
    """

    tables: Mapping[str, Table]
    workers: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _batches: dict[tuple[str, int], Future[Tensor]] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: table.info for name, table in self.tables.items()}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="rows")

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        width = math.prod(self.tensors[name].shape[1:])
        first, last = start // width, -(-(start + len(out)) // width)
        rows = self._rows(name, first, last).reshape(-1)
        out.copy_(rows[start - first * width :][: len(out)])

    def _rows(self, name: str, first: int, last: int) -> Tensor:
        import numpy as np
        import torch

        table = self.tables[name]
        with self._lock:
            stored = table.loaded
        source = torch.from_numpy(table.source[first:last])
        result = stored.new_zeros(last - first, *stored.shape[1:])
        result[source >= 0] = stored[source[source >= 0]]
        begin, end = np.searchsorted(table.made, (first, last)).tolist()
        if begin < end:
            numbers = range(begin // BATCH, -(-end // BATCH))
            batches = torch.cat([self._batch(name, number) for number in numbers])
            result[source == MADE] = batches[begin - numbers.start * BATCH :][: end - begin]
        return result

    def _batch(self, name: str, number: int) -> Tensor:
        table = self.tables[name]
        with self._lock:
            table.prepared  # noqa: B018  prepare before the threads need it
            until = min(number + 2 * self.workers, -(-len(table.made) // BATCH))
            for wanted in range(number, until):
                if (name, wanted) not in self._batches:
                    self._batches[name, wanted] = self._pool.submit(table.batch, wanted)
            for old in [key for key in self._batches if key[0] == name and key[1] < number]:
                del self._batches[old]
            found = self._batches[name, number]
        return found.result()

    def close(self) -> None:
        """Stop computing rows."""
        self._pool.shutdown(wait=True, cancel_futures=True)
