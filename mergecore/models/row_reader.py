"""Tensors whose rows are gathered from tensors of several models on read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mergecore.api import BytesReader, Reader, TensorInfo, as_tensor, torch_dtype
from mergecore.api.files import common_dtype
from mergecore.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Ints = NDArray[np.int64]

ZERO, MEAN = -1, -2
"""Markers for rows that are not copied from a part: padding rows of zeros, and means of rows."""


@dataclass(frozen=True)
class Rows:
    """A tensor that consists of rows from other tensors.

    Attributes:
        parts: the source tensors, each as a checkpoint and a tensor name.
        origin: for each row, the index of the part that it is copied from, `ZERO`, or `MEAN`.
        row: for each row, the row number in that part.
        means: array of shape (parts, rows) with the rows to average for each `MEAN` row, or -1 for none.
    """

    parts: Sequence[tuple[Checkpoint, str]]
    origin: Ints
    row: Ints
    means: Ints

    @cached_property
    def infos(self) -> list[TensorInfo]:
        return [checkpoint.tensors[name] for checkpoint, name in self.parts]

    @cached_property
    def info(self) -> TensorInfo:
        """Dtype and shape. Copied rows keep their dtype. Means and rows of mixed dtypes are float32 or float64."""
        averaged = self.means[:, self.origin == MEAN] >= 0
        used = [part for part in range(len(self.parts)) if averaged[part].any() or (self.origin == part).any()]
        dtypes = {self.infos[part].dtype for part in used or [0]}
        dtype = common_dtype(dtypes if not averaged.size else dtypes | {"F32"})
        return TensorInfo(dtype, (len(self.origin), *self.infos[0].shape[1:]))

    def read(self, start: int, out: Tensor) -> None:
        """Fill `out` with the elements starting at `start`. Consecutive rows of a part are read together."""
        width = math.prod(self.info.shape[1:])
        position, end = start, start + len(out)
        for first, last in self._runs(start // width, -(-end // width)):
            until = min(last * width, end)
            self._fill(first, position - first * width, out[position - start : until - start])
            position = until

    def counts(self) -> list[tuple[Reader, str, int]]:
        """Return the reader, tensor name, and number of elements for each part that rows are taken from."""
        width = math.prod(self.info.shape[1:])
        rows = [
            int((self.origin == part).sum() + (self.means[part, self.origin == MEAN] >= 0).sum())
            for part in range(len(self.parts))
        ]
        return [(item.readers[name], name, count * width) for (item, name), count in zip(self.parts, rows) if count]

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Split the rows from first to last into runs of consecutive source rows."""
        import numpy as np

        origin, row = self.origin[first:last], self.row[first:last]
        steps = np.where(origin[1:] >= 0, np.diff(row) != 1, origin[1:] == MEAN)
        cuts = (first + 1 + np.flatnonzero((np.diff(origin) != 0) | steps)).tolist()
        return zip([first, *cuts], [*cuts, last])

    def _fill(self, first: int, offset: int, out: Tensor) -> None:
        """Fill `out` with elements of one run, starting at `offset` in its first row."""
        origin = int(self.origin[first])
        if origin == ZERO:
            out.zero_()
        elif origin >= 0:
            self._copy(origin, int(self.row[first]), offset, out)
        else:
            rows = [(part, int(row)) for part, row in enumerate(self.means[:, first]) if row >= 0]
            out.zero_()
            for part, row in rows:
                one = out.new_empty(len(out))
                self._copy(part, row, offset, one)
                out += one
            out /= len(rows)

    def _copy(self, part: int, row: int, offset: int, out: Tensor) -> None:
        import torch

        (checkpoint, name), info = self.parts[part], self.infos[part]
        at = row * math.prod(info.shape[1:]) + offset
        if info.dtype == self.info.dtype:
            checkpoint.read(name, at, out)
            return
        stored = torch.empty(len(out), dtype=torch_dtype(info.dtype))
        checkpoint.read(name, at, stored)
        out.copy_(stored)


class RowReader(BytesReader):
    """A `mergecore.api.Reader` for a checkpoint in which some tensors are gathered."""

    def __init__(self, checkpoint: Checkpoint, gathered: Mapping[str, Rows]) -> None:
        shown = {name: item.info for name, item in gathered.items()}
        self.tensors: Mapping[str, TensorInfo] = {**checkpoint.tensors, **shown}
        self._checkpoint, self._gathered = checkpoint, gathered

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """See `mergecore.api.BytesReader.read_bytes`."""
        if name in self._gathered:
            self._gathered[name].read(start, as_tensor(out, self.tensors[name].dtype))
        else:
            self._checkpoint.read(name, start, out)

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers, tensors, and numbers of elements that a tensor is read from. See `shards.shards_of`."""
        if name in self._gathered:
            return self._gathered[name].counts()
        return [(self._checkpoint.readers[name], name, self.tensors[name].elements)]

    def close(self) -> None:
        """Close the files of the checkpoint."""
        self._checkpoint.close()


def with_rows(checkpoint: Checkpoint, gathered: Mapping[str, Rows]) -> Checkpoint:
    """Return a checkpoint in which gathered tensors replace or extend the stored ones."""
    reader = RowReader(checkpoint, gathered)
    return replace(checkpoint, tensors=reader.tensors, readers=dict.fromkeys(reader.tensors, reader))
