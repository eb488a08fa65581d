"""Run jobs with the kernels where their methods can be recorded, and with torch elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mergecore.api import FLOATS, Context, Job, Kernels, Piece, TileMerger, Tiles
from mergecore.api.memory import address
from mergecore.tracing.measuring import NativeContext, SummableTiles, addresses, stored_elements
from mergecore.tracing.nodes import Untraceable
from mergecore.tracing.program import Program, trace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class NativeMerger(TileMerger):
    """Runs jobs one after another in one thread. torch is imported only for jobs that need it.

    A tile with NaN or infinity in its result is computed again with torch, which knows what they look like there.
    """

    kernels: Kernels | None = field(default=None)
    _with_torch: bool = field(default=False, init=False)

    def context(self, job: Job) -> Context:
        """See `mergecore.api.TileMerger.context`."""
        assert self.kernels is not None
        kind = partial(NativeContext, kernels=self.kernels)
        if not job.measures:
            return job.context((), kind)
        pieces = job.pieces(self.tile)
        if job.compute_dtype == "F32" and {item.info.dtype for item in job.inputs} <= self.kernels.dtypes:
            return job.context(SummableTiles(job, pieces, self, self.kernels, job.models), kind)
        return job.context(Tiles(job, pieces, self.read), kind)

    def make(self, job: Job) -> None:
        """See `mergecore.api.TileMerger.make`."""
        if not job.info.elements:
            return
        if job.method is None and job.info.dtype not in FLOATS and job.inputs[0].info.dtype == job.info.dtype:
            for piece in job.pieces(stored_elements(job, self.tile)):
                self._put(job, piece, self.raw(job, 0, piece))
            return
        ctx = self.context(job)
        program = self._program(job, ctx)
        for piece in job.pieces(stored_elements(job, self.tile) if program else self.tile):
            if program is None or not self._ran(program, job, piece):
                self.write(job, piece, self.made(job, piece, ctx))

    def tensor(self, memory: memoryview, dtype: str) -> Tensor:
        """See `mergecore.api.TileMerger.tensor`."""
        if not self._with_torch:
            one_thread()
            self._with_torch = True
        return super().tensor(memory, dtype)

    def _program(self, job: Job, ctx: Context) -> Program | None:
        assert self.kernels is not None
        try:
            return trace(job, ctx, self.kernels)
        except Untraceable:
            return None

    def _ran(self, program: Program, job: Job, piece: Piece) -> bool:
        """Compute and write a piece. Return False, and write nothing, if its result is not finite."""
        assert self.kernels is not None
        count = 1 if job.method is None else len(job.inputs)
        stored = [self.raw(job, slot, piece) for slot in range(count)]
        out = self.buffer(-1, job.info.dtype, piece.elements)
        to = (address(out), job.info.dtype)
        inputs = addresses(job, stored)
        if not self.kernels.run(program.code, program.results[0], inputs, to, piece.elements, piece.start):
            return False
        self._put(job, piece, out)
        return True

    def _put(self, job: Job, piece: Piece, data: memoryview) -> None:
        self.work.write(job.name, piece.start, data)
        self.work.advance(data.nbytes)


def one_thread() -> None:
    """Import torch, and let it compute in the calling thread alone."""
    import torch

    torch.set_num_threads(1)
