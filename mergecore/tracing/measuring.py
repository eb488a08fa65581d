"""Read the tiles that methods measure, sum over them, and draw their random numbers, in native code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergecore.api import TILE_ELEMENTS, Context, Job, Kernels, Piece, TileMerger, Tiles
from mergecore.api.memory import address, as_bytes
from mergecore.api.random import WRAP, stream_keys
from mergecore.tracing.nodes import Untraceable, Value
from mergecore.tracing.program import LARGEST, Program, program_of
from mergecore.tracing.recording import Offset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

MAGNITUDE = -1
"""In place of the second factor of a product to sum: sum the magnitudes of the first one."""

RESERVED = -2
"""Buffers of the merger with this number or less are for the models of a tile."""


class NativeTiles(Tiles):
    """The tiles of a job as passed to `measure`: weights or task vectors in float32, with the bits of torch.

    Functions of mergecore-numerics use the other methods instead of the tensors, and then need no torch.

    Args:
        job: the job.
        pieces: its pieces.
        merger: reads the pieces of inputs.
        kernels: native code that knows the dtypes of the inputs.
    """

    def __init__(self, job: Job, pieces: Sequence[Piece], merger: TileMerger, kernels: Kernels) -> None:
        super().__init__(job, pieces, self._read)
        self._merger, self._kernels = merger, kernels

    @property
    def models(self) -> int:
        """Number of tensors of a tile."""
        return len(self._job.inputs) - self._job.has_base

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._job, self._pieces[index])

    def bits(self, index: int) -> list[NDArray[np.int32]]:
        """Return a tile as flat arrays: the bits of the float32 numbers of each model. The next call reuses them."""
        import numpy as np

        piece = self._pieces[index]
        room = [self._merger.buffer(RESERVED - model, "F32", piece.elements) for model in range(self.models)]
        self._compute(piece, room)
        return [np.frombuffer(memory, np.int32) for memory in room]

    def look(
        self, index: int, start: int, count: int, looks: Sequence[tuple[int, Sequence[int], int]]
    ) -> list[tuple[list[int], NDArray[np.int32]]]:
        """Count magnitudes in a part of a tile above edges, and return those between two of them, for some models.

        Args:
            index: number of the tile.
            start: first element of the part.
            count: number of elements.
            looks: the model; up to 8 increasing edges, compared with the bits without the sign; and the index of the
                edge above which to pick, up to and including the next one, or -1 to pick nothing.
        """
        import numpy as np

        start += self._pieces[index].start
        stored = self._stored(Piece(start, (count,), count))
        inputs, seen = addresses(self._job, stored), []
        for model, edges, inner in looks:
            program, picked = self._each[model], np.empty(count if inner >= 0 else 0, np.int32)
            above, kept = self._kernels.look(
                program.code, program.results[0], inputs, count, start, edges, inner, picked.ctypes.data
            )
            seen.append((above, picked[:kept]))
        return seen

    def dots(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Return the dot products of pairs of models over the whole tensor."""
        places = self._models.results
        return self._sums(self._models, [(places[left], places[right]) for left, right in pairs])

    def absolute_sums(self, keep: Callable[[Sequence[Any], Any], Sequence[Any]]) -> list[float] | None:
        """Return the sum of magnitudes of each model, and of each tensor that `keep` makes of a tile and its offset.

        Return None if `keep` cannot be recorded.
        """
        if self._job.info.elements >= LARGEST:
            return None

        def both(tensors: Sequence[Any]) -> Sequence[Any]:
            models = self._job.models(tensors)
            unknown: Any = Offset()
            return [*models, *keep(models, unknown)]

        try:
            program = program_of(both, len(self._job.inputs), self._kernels)
        except Untraceable:
            return None
        return self._sums(program, [(place, MAGNITUDE) for place in program.results])

    @cached_property
    def _models(self) -> Program:
        """Computes all models."""
        return program_of(self._job.models, len(self._job.inputs), self._kernels)

    @cached_property
    def _each(self) -> list[Program]:
        """Compute one model each."""
        job, kernels = self._job, self._kernels

        def program(model: int) -> Program:
            return program_of(lambda tensors: [job.models(tensors)[model]], len(job.inputs), kernels)

        return [program(model) for model in range(self.models)]

    def _sums(self, program: Program, terms: Sequence[tuple[int, int]]) -> list[float]:
        sums = [0.0] * len(terms)
        total = self._job.info.elements
        for start in range(0, total, TILE_ELEMENTS):  # tiles of rows do not start at blocks
            count = min(TILE_ELEMENTS, total - start)
            stored = self._stored(Piece(start, (count,), count))
            sums = self._kernels.sums(program.code, terms, addresses(self._job, stored), count, start, sums)
        return sums

    def _stored(self, piece: Piece) -> list[memoryview]:
        return [self._merger.raw(self._job, slot, piece) for slot in range(len(self._job.inputs))]

    def _compute(self, piece: Piece, room: Sequence[memoryview]) -> None:
        """Write the float32 numbers of each model."""
        stored = self._stored(piece)
        inputs = addresses(self._job, stored)
        for program, memory in zip(self._each, room):
            to = (address(memory), "F32")
            self._kernels.run(program.code, program.results[0], inputs, to, piece.elements, piece.start)

    def _read(self, job: Job, piece: Piece) -> Sequence[Tensor]:
        import torch

        # The heap has room for them that was used before, unlike new pages.
        tensors = [torch.empty(piece.shape) for _ in range(self.models)]
        self._compute(piece, [as_bytes(tensor.view(-1)) for tensor in tensors])
        return tensors


def addresses(job: Job, stored: Sequence[memoryview]) -> list[tuple[int, str]]:
    """Return the address and the dtype of each input of a job. They are valid as long as `stored` exists."""
    return [(address(memory), item.info.dtype) for memory, item in zip(stored, job.inputs)]


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
