"""Merges of tensors by one method in tiles of a chosen length, as a run cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mergecore.api import DeltaMethod, Input, Job, Method, Piece, TensorInfo, Tiles, torch_dtype

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
    import torch

    inputs = [tensor for tensor in (base, *tensors) if tensor is not None]
    info = TensorInfo(STORED[str(inputs[0].dtype).removeprefix("torch.")], tuple(inputs[0].shape))
    subtracts = base is not None and isinstance(method, DeltaMethod)
    job = Job("tensor", info, tuple(Input(i, "tensor", info) for i in range(len(inputs))), method, subtracts, seed)

    def read(job: Job, piece: Piece) -> list[Tensor]:
        flat = [tensor.reshape(-1)[piece.start : piece.start + piece.elements] for tensor in inputs]
        return [part.to(torch_dtype(job.compute_dtype), copy=True).view(piece.shape) for part in flat]

    out = torch.empty(info.elements, dtype=inputs[0].dtype)
    pieces = job.pieces(elements)
    if not pieces:
        return out.view(info.shape)
    ctx = job.context(Tiles(job, pieces, read))
    for piece in pieces:
        merged = job.merge(read(job, piece), replace(ctx, offset=piece.start))
        out[piece.start : piece.start + piece.elements] = merged.reshape(-1)
    return out.view(info.shape)
