"""Read the tiles that methods measure, sum over them, and draw their random numbers, in native code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergecore.api import ITEM_BYTES, TILE_ELEMENTS, Context, Job, Kernels, Piece, TileMerger, Tiles
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


Function = Callable[[Sequence[Any], Any], Sequence[Any]]
"""Makes tensors of those of a tile and the flat index of its first element."""


class NativeTiles(Tiles):
    """The tiles of a job as passed to `measure`: weights or task vectors in float32, with the bits of torch.

    Functions of mergecore-numerics use the other methods instead of the tensors, and then need no torch.

    Args:
        job: the job.
        pieces: its pieces.
        merger: reads the pieces of inputs.
        kernels: native code that knows the dtypes of the inputs.
        tensors: makes the tensors of a tile of the inputs' tensors, which are stand-ins. They can be float64.
    """

    def __init__(
        self,
        job: Job,
        pieces: Sequence[Piece],
        merger: TileMerger,
        kernels: Kernels,
        tensors: Callable[[Sequence[Any]], Sequence[Any]],
    ) -> None:
        super().__init__(job, pieces, self._read)
        self._merger, self._kernels, self._tensors = merger, kernels, tensors

    @property
    def models(self) -> int:
        """Number of tensors of a tile."""
        return len(self._models.results)

    def mapped(self, function: Function) -> NativeTiles | None:
        """Return the tiles that a function makes of these, or None if it cannot be recorded."""
        if self._job.info.elements >= LARGEST:
            return None
        unknown: Any = Offset()

        def tensors(stored: Sequence[Any]) -> Sequence[Any]:
            return function(self._tensors(stored), unknown)

        try:
            program = program_of(tensors, len(self._job.inputs), self._kernels, wide=True)
        except Untraceable:
            return None
        kind = NativeTiles if any(program.wide) else SummableTiles
        return kind(self._job, self._pieces, self._merger, self._kernels, tensors)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._job, self._pieces[index])

    def bits(self, index: int) -> list[NDArray[np.signedinteger[Any]]]:
        """Return a tile as flat arrays: the bits of the numbers of each model. The next call reuses them."""
        import numpy as np

        piece = self._pieces[index]
        room = [self._merger.buffer(RESERVED - model, "F64" if wide else "F32", piece.elements)
                for model, wide in enumerate(self._models.wide)]  # fmt: skip
        self._compute(piece, room)
        return [np.frombuffer(memory, f"i{memory.nbytes // piece.elements}") for memory in room]

    def look(
        self, index: int, start: int, count: int, looks: Sequence[tuple[int, Sequence[int], int]]
    ) -> list[tuple[list[int], NDArray[np.signedinteger[Any]]]]:
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
            program = self._each[model]
            picked = np.empty(count if inner >= 0 else 0, "i8" if program.wide[0] else "i4")
            above, kept = self._kernels.look(
                program.code,
                program.results[0],
                inputs,
                count,
                start,
                edges,
                inner,
                picked.ctypes.data,
                program.wide[0],
            )
            seen.append((above, picked[:kept]))
        return seen

    def nonzeros(self) -> list[int]:
        """Return the number of elements of each tensor that are not 0."""
        looks = [(model, (0,), -1) for model in range(self.models)]
        seen = [self.look(index, 0, piece.elements, looks) for index, piece in enumerate(self._pieces)]
        return [sum(tile[model][0][0] for tile in seen) for model in range(self.models)]

    @cached_property
    def _models(self) -> Program:
        """Computes all models."""
        return program_of(self._tensors, len(self._job.inputs), self._kernels, wide=True)

    @cached_property
    def _each(self) -> list[Program]:
        """Compute one model each."""

        def program(model: int) -> Program:
            inputs = len(self._job.inputs)
            return program_of(lambda stored: [self._tensors(stored)[model]], inputs, self._kernels, wide=True)

        return [program(model) for model in range(self.models)]

    def _stored(self, piece: Piece) -> list[memoryview]:
        return [self._merger.raw(self._job, slot, piece) for slot in range(len(self._job.inputs))]

    def _compute(self, piece: Piece, room: Sequence[memoryview]) -> None:
        """Write the numbers of each model."""
        stored = self._stored(piece)
        inputs = addresses(self._job, stored)
        for program, memory in zip(self._each, room):
            to = (address(memory), "F64" if program.wide[0] else "F32")
            self._kernels.run(program.code, program.results[0], inputs, to, piece.elements, piece.start)

    def _read(self, job: Job, piece: Piece) -> Sequence[Tensor]:
        import torch

        # The heap has room for them that was used before, unlike new pages.
        tensors = [torch.empty(piece.shape) for _ in range(self.models)]
        self._compute(piece, [as_bytes(tensor.view(-1)) for tensor in tensors])
        return tensors


class SummableTiles(NativeTiles):
    """Tiles of float32 tensors, which can be summed."""

    def dots(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Return the dot products of pairs of models over the whole tensor."""
        places = self._models.results
        return self._sums(self._models, [(places[left], places[right]) for left, right in pairs])

    def absolute_sums(self, keep: Function) -> list[float] | None:
        """Return the sum of magnitudes of each model, and of each tensor that `keep` makes of a tile and its offset.

        Return None if `keep` cannot be recorded.
        """
        both = self.mapped(lambda models, offset: [*models, *keep(models, offset)])
        if both is None or any(both._models.wide):
            return None
        return self._sums(both._models, [(place, MAGNITUDE) for place in both._models.results])

    def _sums(self, program: Program, terms: Sequence[tuple[int, int]]) -> list[float]:
        sums = [0.0] * len(terms)
        total = self._job.info.elements
        step = stored_elements(self._job, TILE_ELEMENTS)
        for start in range(0, total, step):  # tiles of rows do not start at blocks
            count = min(step, total - start)
            stored = self._stored(Piece(start, (count,), count))
            sums = self._kernels.sums(program.code, terms, addresses(self._job, stored), count, start, sums)
        return sums


def stored_elements(job: Job, tile: int) -> int:
    """Return how many elements of a job to process at once, so that they take the memory of a tile in float32."""
    largest = max(ITEM_BYTES[info.dtype] for info in (job.info, *(item.info for item in job.inputs)))
    return tile * ITEM_BYTES["F32"] // largest


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
