"""Angles between models and weighted sums of models, based on dot products in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from mergecore_numerics.sums import BLOCK, dots, models_in

if TYPE_CHECKING:
    from torch import Tensor

CANCELLED = 1e-3
"""If a sum is shorter than this, relative to the total length of its terms, its direction is lost to rounding."""


def gram(tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the dot products of all pairs of models over the whole tensor, [models, models] in float64.

    Makes one pass over `tiles`, at least one, in the format of `dots`. Accuracy and reproducibility match `dots`.
    """
    import torch

    if len(tiles) == 1 and not hasattr(tiles, "dots"):
        tiles = [tiles[0]]  # read only once
    pairs = list(combinations_with_replacement(range(models_in(tiles)), 2))
    return _matrix(dict(zip(pairs, torch.tensor(dots(tiles, pairs), dtype=torch.float64), strict=True)))


def row_gram(models: Sequence[Tensor]) -> Tensor:
    """Return the dot products of all pairs of models along the last dimension, [*rows, models, models] in float64.

    `models` holds one tensor per model, all of the same shape with at least one dimension. Rows are independent.
    """
    pairs = combinations_with_replacement(range(len(models)), 2)
    exact = [model.double() for model in models]
    return _matrix({(left, right): row_sums(exact[left] * exact[right]) for left, right in pairs})


def row_sums(x: Tensor) -> Tensor:
    """Return sums along the last dimension, bitwise independent of the other rows and the number of threads."""
    # Torch splits long rows across threads if there are few rows, but never pieces as small as BLOCK elements.
    total = x[..., :BLOCK].sum(-1)
    for start in range(BLOCK, x.shape[-1], BLOCK):
        total = total + x[..., start : start + BLOCK].sum(-1)
    return total


def cosines(gram: Tensor) -> Tensor:
    """Return the cosines of all pairs of models from dot products [..., models, models], with 0 for zero vectors."""
    squares = gram.diagonal(dim1=-2, dim2=-1)
    import torch

    # The root of a square is exact, so equal models have a cosine of exactly 1.
    lengths = (squares.unsqueeze(-1) * squares.unsqueeze(-2)).sqrt()
    return (gram / torch.where(lengths == 0, 1.0, lengths)).clamp(-1, 1)


def norm_of_sum(factors: Tensor, gram: Tensor) -> Tensor:
    """Return the norm of sum(factor * model), given the models' dot products [models, models]."""
    # Not `@`: a matrix product can add in a different order depending on the memory layout.
    return (gram * factors.unsqueeze(-1) * factors).sum().clamp(min=0).sqrt()


def weighted_sum(models: Sequence[Tensor], factors: Sequence[Tensor | float]) -> Tensor:
    """Return sum(factor * model), accumulated in float64 and rounded once to the models' dtype.

    A factor is a number or a broadcastable float64 tensor. If all models are equal and float32 and the factors add up
    to 1, the result is the same model. The models are not modified.
    """
    total = models[0].double() * factors[0]
    for model, factor in zip(models[1:], factors[1:], strict=True):
        total.add_(model.double() * factor)
    return total.to(models[0].dtype)


def _matrix(products: dict[tuple[int, int], Tensor]) -> Tensor:
    """Return the symmetric matrix, in the last two dimensions, of the products of pairs (i, j), i <= j."""
    import torch

    models = range(max(left for left, _ in products) + 1)
    rows = [torch.stack([products[min(i, j), max(i, j)] for j in models], -1) for i in models]
    return torch.stack(rows, -2)
