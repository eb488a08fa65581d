"""The inputs and outputs of a run, in its own process or another: the models' tensors, and the result's files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mergecore.api import ITEM_BYTES, Input, Job, Writer
from mergecore.api.memory import as_bytes, write_from
from mergecore.errors import RunError
from mergecore.models import Checkpoint
from mergecore.planning import release
from mergecore.running.nonfinite import explain, is_finite

if TYPE_CHECKING:
    from torch import Tensor


class FileTensorIO:
    """Reads the models and writes the result. See `mergecore.api.TensorIO`.

    Args:
        checkpoints: the input models.
        jobs: every tensor of the result.
        make_writer: opens the files of the result.
        allow_nonfinite: write tensors with NaN and infinity and record their names, instead of stopping.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        jobs: Sequence[Job],
        make_writer: Callable[[], Writer],
        allow_nonfinite: bool,
    ) -> None:
        self.nonfinite: set[str] = set()
        self._checkpoints, self._allow_nonfinite = checkpoints, allow_nonfinite
        self._jobs = {job.name: job for job in jobs}
        self._turn = threading.Lock()
        self._left = {job.name: job.info.elements for job in jobs if job.scratch_bytes}
        """The number of elements still to be written, for each tensor that is computed from stages."""
        self.writer = make_writer()
        self.wrote: Callable[[str, int, memoryview], None] | None = None
        """Called after each write in this process."""

    def read(self, item: Input, start: int, out: Tensor | memoryview) -> None:
        """See `mergecore.api.Work`."""
        self._checkpoints[item.model].read(item.tensor, start, out)

    def write(self, name: str, start: int, data: Tensor | memoryview) -> None:
        """See `mergecore.api.Work`."""
        dtype = self._jobs[name].info.dtype
        elements = data.nbytes // ITEM_BYTES[dtype]
        if not isinstance(data, memoryview) and not is_finite(data):
            if not self._allow_nonfinite:
                raise RunError(
                    f"{explain(self._jobs[name], self._checkpoints)}; use --allow-nonfinite to write them anyway"
                )
            self.nonfinite.add(name)
        write_from(self.writer, name, start, data, dtype)
        if self.wrote is not None:
            self.wrote(name, start, data if isinstance(data, memoryview) else as_bytes(data))
        if name in self._left:
            self._count(name, elements)

    def _count(self, name: str, elements: int) -> None:
        """Once a tensor is completely written, free the data that was kept to compute its inputs."""
        with self._turn:
            self._left[name] -= elements
            whole = self._left[name] == 0
        if whole:
            release(self._jobs[name], self._checkpoints)

    def sync(self) -> None:
        """See `mergecore.api.Writer.sync`."""
        self.writer.sync()
