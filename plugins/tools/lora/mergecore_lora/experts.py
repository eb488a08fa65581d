"""Fused experts: one matrix per expert, with factors of equal rank in the layout of PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mergecore_lora.decomposing import Product, Wanted, decompose
from mergecore_lora.pairs import Entry, Kind

INNER, OUTER = "gate_up_proj", "down_proj"
"""A module's two expert tensors. If both are targets, PEFT wraps the first, and then the second around it."""


def laid_out(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the entries, marking those that hold one matrix per expert, and the orientation of these matrices.

    The orientation follows from the shapes of a module's two tensors: (experts, 2 * width, hidden) and
    (experts, hidden, width), or both transposed. Experts without a gate stay unmarked.
    """
    shapes = {entry.name: entry.info.shape for entry in entries if entry.kind is Kind.EXPERTS}
    for entry in entries:
        first, second = (shapes.get(f"{entry.module}.{end}", ()) for end in (INNER, OUTER))
        if entry.name not in shapes or len(first) != 3 or len(second) != 3 or entry.info.shape not in (first, second):
            yield entry
        elif (first[1], first[2]) == (2 * second[2], second[1]):
            yield replace(entry, matrices=True)
        elif (first[2], first[1]) == (2 * second[1], second[2]):
            yield replace(entry, matrices=True, transposed=True)
        else:
            yield entry


def factored(change: Tensor, entry: Entry, wanted: Wanted, dtype: torch.dtype) -> tuple[Tensor, Tensor, Product, float]:
    """Factor a change of all experts, using the highest rank that any expert needs for all.

    Args:
        change: The change, of shape (experts, out, in), or (experts, in, out) if the entry is transposed.
        entry: The entry that changes.
        wanted: Required accuracy for each expert.
        dtype: Dtype of the factors.

    Returns:
        A (experts * rank, in), B (out, rank * experts), a product of that rank, and the squared norm that is lost.
    """
    found = [_product(matrix.T if entry.transposed else matrix, f"{entry.name}.{number}", wanted, dtype)
             for number, matrix in enumerate(change)]  # fmt: skip
    rank = max(product.rank for product, _ in found)
    right = torch.cat([_padded(product.right, (rank, product.right.shape[1])) for product, _ in found])
    left = torch.stack([_padded(product.left, (product.left.shape[0], rank)) for product, _ in found], dim=2)
    exact = all(product.exact for product, _ in found)
    return right, left.flatten(1), Product(left[:, :, 0], right[:rank], exact), sum(lost for _, lost in found)


def _product(matrix: Tensor, name: str, wanted: Wanted, dtype: torch.dtype) -> tuple[Product, float]:
    if not matrix.any():
        empty = torch.zeros(matrix.shape[0], 1, dtype=dtype), torch.zeros(1, matrix.shape[1], dtype=dtype)
        return Product(*empty, exact=True), 0.0
    return decompose(matrix.contiguous(), wanted, name, dtype)


def _padded(factor: Tensor, shape: tuple[int, int]) -> Tensor:
    out = factor.new_zeros(shape)
    out[: factor.shape[0], : factor.shape[1]] = factor
    return out


def nest(names: Sequence[str], rename: Callable[[str, str], None]) -> None:
    """Rename factors in the file from their parameters' names to PEFT's names.

    Args:
        names: Names of the parameters.
        rename: Function that takes a name in the file and its new name.
    """
    for name in names:
        module, _, end = name.rpartition(".")
        inside = ".base_layer" if end == INNER and f"{module}.{OUTER}" in names else ""
        for part in ("lora_A.weight", "lora_B.weight"):
            rename(f"{name}.{part}", f"{module}{inside}.{part}")
