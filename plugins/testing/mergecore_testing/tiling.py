"""Merge tensors with a method in tiles of a chosen size, as a run does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mergecore.api import Context, DeltaMethod, Input, Job, Method, Piece, TensorInfo, Tiles, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

STORED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Names of dtypes in files."""


def merge_tiled(
    method: Method, tensors: Sequence[Tensor], elements: int, *, base: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Merge tensors of one shape and float dtype in tiles of about `elements` elements, as far as the method allows.

    Args:
        method: method instance with its parameters.
        tensors: one tensor per model, without the base.
        elements: tile size. Values below `mergecore.api.BLOCK` give tiles of one block or one row.
        base: tensor of the base model, for methods that take one.
        seed: seed for methods that draw random numbers. The tensor is named "tensor".

    Returns:
        A new tensor with the inputs' shape and dtype. It must be bitwise the same for any value of `elements`.
    """
    tiled = Tiled.of(method, tensors, elements, base=base, seed=seed)
    return tiled.merge(tiled.pieces, tiled.measured())


@dataclass(frozen=True)
class Tiled:
    """A merge split into pieces that can be measured and merged separately."""

    job: Job
    inputs: Sequence[Tensor]
    pieces: Sequence[Piece]

    @classmethod
    def of(
        cls, method: Method, tensors: Sequence[Tensor], elements: int, *, base: Tensor | None = None, seed: int = 0
    ) -> Tiled:
        """Split a merge as a run does. The arguments match `merge_tiled`."""
        inputs = [tensor for tensor in (base, *tensors) if tensor is not None]
        info = TensorInfo(STORED[str(inputs[0].dtype).removeprefix("torch.")], tuple(inputs[0].shape))
        subtracts = base is not None and isinstance(method, DeltaMethod)
        job = Job("tensor", info, tuple(Input(i, "tensor", info) for i in range(len(inputs))), method, subtracts, seed)
        return cls(job, inputs, job.pieces(elements))

    def read(self, job: Job, piece: Piece) -> list[Tensor]:
        """Return new tensors with a piece of each input."""
        flat = [tensor.reshape(-1)[piece.start : piece.start + piece.elements] for tensor in self.inputs]
        return [part.to(torch_dtype(job.compute_dtype), copy=True).view(piece.shape) for part in flat]

    def seen(self, piece: Piece) -> Sequence[Tensor]:
        """Return the method's inputs for a piece."""
        return self.job.models(self.read(self.job, piece))

    def measured(self) -> Context:
        """Return the method's measurement over all pieces."""
        return self.job.context(Tiles(self.job, self.pieces, self.read)) if self.pieces else Context()

    def merge(self, pieces: Iterable[Piece], ctx: Context) -> Tensor:
        """Merge the pieces in the given order and return the whole result."""
        import torch

        out = torch.empty(self.job.info.elements, dtype=self.inputs[0].dtype)
        for piece in pieces:
            merged = self.job.merge(self.read(self.job, piece), replace(ctx, offset=piece.start))
            out[piece.start : piece.start + piece.elements] = merged.reshape(-1)
        return out.view(self.job.info.shape)
