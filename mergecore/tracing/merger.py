"""Run jobs with the kernels where their methods can be recorded, and with torch elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from mergecore.api import Context, Job, Kernels, Piece, TileMerger, Tiles
from mergecore.tracing.measuring import NativeContext, NativeTiles
from mergecore.tracing.nodes import Untraceable
from mergecore.tracing.program import Program, trace


@dataclass
class NativeMerger(TileMerger):
    """Runs jobs one after another in one thread.

    A tile with NaN or infinity in its result is computed again with torch, which knows what they look like there.
    """

    kernels: Kernels | None = field(default=None)

    def context(self, job: Job) -> Context:
        """See `mergecore.api.TileMerger.context`."""
        assert self.kernels is not None
        kind = partial(NativeContext, kernels=self.kernels)
        if not job.measures:
            return job.context((), kind)
        pieces = job.pieces(self.tile)
        if {item.info.dtype for item in job.inputs} <= self.kernels.dtypes:
            return job.context(NativeTiles(job, pieces, self.stored, self.kernels), kind)
        return job.context(Tiles(job, pieces, self.read), kind)

    def make(self, job: Job) -> None:
        """See `mergecore.api.TileMerger.make`."""
        pieces = job.pieces(self.tile)
        if not pieces:
            return
        ctx = self.context(job)
        program = self._program(job, ctx)
        for piece in pieces:
            if program is None or not self._ran(program, job, piece):
                self.write(job, piece, self.made(job, piece, ctx))

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
        stored = [self.stored(job, slot, piece) for slot in range(count)]
        inputs = [(tensor.data_ptr(), item.info.dtype) for tensor, item in zip(stored, job.inputs)]
        out = self.buffer(-1, job.info.dtype, piece.elements)
        to = (out.data_ptr(), job.info.dtype)
        if not self.kernels.run(program.code, program.result, inputs, to, piece.elements, piece.start):
            return False
        self.work.write(job.name, piece.start, out)
        self.work.advance(piece.elements * out.element_size())
        return True
