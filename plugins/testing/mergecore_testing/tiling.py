"""Merges of tensors by one method in tiles of a chosen length, as a run cuts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mergecore.api import Context, DeltaMethod, Input, Job, Method, Piece, TensorInfo, Tiles, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

STORED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Names that files give to dtypes."""


def merge_tiled(
    method: Method, tensors: Sequence[Tensor], elements: int, *, base: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Merge tensors of one shape and float dtype in tiles of about `elements` elements, as far as the method allows.

    Args:
        method: with its parameters.
        tensors: one for each model, without the base.
        elements: from `mergecore.api.BLOCK` on; smaller ones give tiles of one block, or of one row.
        base: of methods that take one.
        seed: of random methods; the weight is called "tensor".

    Returns:
        A new tensor of the inputs' shape and dtype. Whatever `elements` is, it must have the same bits.
    """
    tiled = Tiled.of(method, tensors, elements, base=base, seed=seed)
    return tiled.merge(tiled.pieces, tiled.measured())


@dataclass(frozen=True)
class Tiled:
    """A merge cut into pieces, for those who want to measure and merge them as they choose."""

    job: Job
    inputs: Sequence[Tensor]
    pieces: Sequence[Piece]

    @classmethod
    def of(
        cls, method: Method, tensors: Sequence[Tensor], elements: int, *, base: Tensor | None = None, seed: int = 0
    ) -> Tiled:
        """The pieces that a run would cut; arguments as for `merge_tiled`."""
        inputs = [tensor for tensor in (base, *tensors) if tensor is not None]
        info = TensorInfo(STORED[str(inputs[0].dtype).removeprefix("torch.")], tuple(inputs[0].shape))
        subtracts = base is not None and isinstance(method, DeltaMethod)
        job = Job("tensor", info, tuple(Input(i, "tensor", info) for i in range(len(inputs))), method, subtracts, seed)
        return cls(job, inputs, job.pieces(elements))

    def read(self, job: Job, piece: Piece) -> list[Tensor]:
        """New tensors with a piece of each input."""
        flat = [tensor.reshape(-1)[piece.start : piece.start + piece.elements] for tensor in self.inputs]
        return [part.to(torch_dtype(job.compute_dtype), copy=True).view(piece.shape) for part in flat]

    def seen(self, piece: Piece) -> Sequence[Tensor]:
        """What the method gets of a piece."""
        return self.job.models(self.read(self.job, piece))

    def measured(self) -> Context:
        """What the method measures over all pieces."""
        return self.job.context(Tiles(self.job, self.pieces, self.read)) if self.pieces else Context()

    def merge(self, pieces: Iterable[Piece], ctx: Context) -> Tensor:
        """The whole result, its pieces merged in the order given."""
        import torch

        out = torch.empty(self.job.info.elements, dtype=self.inputs[0].dtype)
        for piece in pieces:
            merged = self.job.merge(self.read(self.job, piece), replace(ctx, offset=piece.start))
            out[piece.start : piece.start + piece.elements] = merged.reshape(-1)
        return out.view(self.job.info.shape)
