"""Read the tiles that methods measure, and draw their random numbers, in native code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mergecore.api import Context, Job, Kernels, Piece, Tiles
from mergecore.api.random import WRAP, stream_keys
from mergecore.tracing.nodes import Value
from mergecore.tracing.program import Program, program_of

if TYPE_CHECKING:
    from torch import Tensor


class NativeTiles(Tiles):
    """The tiles of a job as passed to `measure`: weights or task vectors in float32, with the bits of torch.

    Args:
        job: the job.
        pieces: its pieces.
        stored: returns a piece of an input as stored.
        kernels: native code that knows the dtypes of the inputs.
    """

    def __init__(
        self, job: Job, pieces: Sequence[Piece], stored: Callable[[Job, int, Piece], Tensor], kernels: Kernels
    ) -> None:
        super().__init__(job, pieces, self._read)
        self._stored, self._kernels = stored, kernels
        unknown: Sequence[Any] = [0.0] * len(job.inputs)

        def program(model: int) -> Program:
            return program_of(lambda tensors: job.models(tensors)[model], len(unknown), kernels)

        self._programs = [program(model) for model in range(len(job.models(unknown)))]

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._job, self._pieces[index])

    def look(self, numbers: Any, edges: Sequence[int], inner: int) -> tuple[list[int], Any]:
        """Count the magnitudes of float32 numbers above edges, and return those between two of them.

        Args:
            numbers: NumPy array of the bits as int32.
            edges: up to 8 increasing integers, compared with the bits without the sign.
            inner: index of the edge above which to pick, up to and including the next edge. -1: pick nothing.
        """
        import numpy as np

        picked = np.empty(numbers.size if inner >= 0 else 0, np.int32)
        above, kept = self._kernels.look(numbers.ctypes.data, numbers.size, edges, inner, picked.ctypes.data)
        return above, picked[:kept]

    def _read(self, job: Job, piece: Piece) -> Sequence[Tensor]:
        import torch

        stored = [self._stored(job, slot, piece) for slot in range(len(job.inputs))]
        inputs = [(tensor.data_ptr(), item.info.dtype) for tensor, item in zip(stored, job.inputs)]
        made = []
        for program in self._programs:
            out = torch.empty(piece.shape)
            to = (out.data_ptr(), "F32")
            self._kernels.run(program.code, program.result, inputs, to, piece.elements, piece.start)
            made.append(out)
        return made


@dataclass(frozen=True)
class NativeContext(Context):
    """A context that draws random numbers in native code, with the bits of `Context.random`."""

    kernels: Kernels | None = field(default=None)

    def random(self, model: int, like: Tensor) -> Tensor:
        """See `mergecore.api.Context.random`."""
        recorded = self.kernels is None or isinstance(like, Value)
        if recorded or like.device.type != "cpu" or self.offset + like.numel() > WRAP:
            return super().random(model, like)
        import torch

        assert self.kernels is not None
        out = torch.empty(like.shape)
        code = self.kernels.encode("random", 0, (), (), stream_keys(self.key(model)), 0)
        self.kernels.run(code, 0, (), (out.data_ptr(), "F32"), out.numel(), self.offset)
        return out
