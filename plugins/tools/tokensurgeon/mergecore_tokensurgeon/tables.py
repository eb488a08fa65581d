"""The transplanted tables as core reads them: rows that are kept are copied, new ones made batch by batch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mergecore.api import TensorInfo, torch_dtype
from mergecore.models.checkpoint import Checkpoint
from mergecore_tokensurgeon.approximations import METHODS
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Ints = NDArray[np.int64]

BATCH = 128
"""New rows that are made at one time by one thread."""
ZERO, MADE = -1, -2
"""Where a row comes from that is no row of the model."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint."""

    checkpoint: Checkpoint
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.checkpoint.tensors[self.name]

    def load(self) -> Tensor:
        """The whole of it, as it is stored."""
        import torch

        flat = torch.empty(self.info.elements, dtype=torch_dtype(self.info.dtype))
        self.checkpoint.read(self.name, 0, flat)
        return flat.view(self.info.shape)


@dataclass
class Table:
    """One tensor of the output with a row for each token.

    Attributes:
        model: the model's.
        donor: the donor's; None where nothing is made of it, as for biases.
        source: for each output row, the model's row, `ZERO` or `MADE`.
        task: makes the task of its new rows from the two loaded tables; it is asked once.
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
        """The rows that are made, ascending."""
        import numpy as np

        return np.flatnonzero(self.source == MADE)

    @cached_property
    def loaded(self) -> Tensor:
        return self.model.load()

    @cached_property
    def prepared(self) -> tuple[Task, Rows]:
        """What is done once before the first new row is made."""
        assert self.donor is not None
        task = self.task(self.loaded, self.donor.load())
        return task, METHODS[task.settings.method](task)

    def batch(self, number: int) -> Tensor:
        """A batch of new rows in the output's dtype, rounded once."""
        import torch

        torch.set_num_threads(1)  # the batches are what goes on at once
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
    """The output's tables, by name; a `mergecore.api.Reader`.

    Tiles are read in order, so batches are made a few ahead of what is asked for and forgotten behind it.
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
            table.prepared  # noqa: B018  before the threads ask for it
            until = min(number + 2 * self.workers, -(-len(table.made) // BATCH))
            for wanted in range(number, until):
                if (name, wanted) not in self._batches:
                    self._batches[name, wanted] = self._pool.submit(table.batch, wanted)
            for old in [key for key in self._batches if key[0] == name and key[1] < number]:
                del self._batches[old]
            found = self._batches[name, number]
        return found.result()

    def close(self) -> None:
        """Make no more rows."""
        self._pool.shutdown(wait=True, cancel_futures=True)
