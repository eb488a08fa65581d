"""Angles between models and weighted sums of models, based on dot products in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from mergecore_numerics.sums import BLOCK, dots, models_in

if TYPE_CHECKING:
    from torch import Tensor

CANCELLED = 1e-3
"""If a sum is shorter than this, relative to the total length of its terms, its direction is lost to rounding."""


def gram(tiles: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """Return the dot products of all pairs of models over the whole tensor, a row for each model.

    Makes one pass over `tiles`, at least one, in the format of `dots`. Accuracy and reproducibility match `dots`.
    """
    if len(tiles) == 1 and not hasattr(tiles, "dots"):
        tiles = [tiles[0]]  # read only once
    models = range(models_in(tiles))
    pairs = list(combinations_with_replacement(models, 2))
    products = dict(zip(pairs, dots(tiles, pairs), strict=True))
    return [[products[min(i, j), max(i, j)] for j in models] for i in models]


def row_gram(models: Sequence[Tensor]) -> Tensor:
    """Return the dot products of all pairs of models along the last dimension, [*rows, models, models] in float64.

    `models` holds one tensor per model, all of the same shape with at least one dimension. Rows are independent.
    """
    import torch

    exact = [model.double() for model in models]
    products = {(i, j): row_sums(exact[i] * exact[j]) for i, j in combinations_with_replacement(range(len(exact)), 2)}
    rows = [torch.stack([products[min(i, j), max(i, j)] for j in range(len(exact))], -1) for i in range(len(exact))]
    return torch.stack(rows, -2)


def row_sums(x: Tensor) -> Tensor:
    """Return sums along the last dimension, bitwise independent of the other rows and the number of threads."""
    # Torch splits long rows across threads if there are few rows, but never pieces as small as BLOCK elements.
    total = x[..., :BLOCK].sum(-1)
    for start in range(BLOCK, x.shape[-1], BLOCK):
        total = total + x[..., start : start + BLOCK].sum(-1)
    return total


def cosines(gram: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the cosines of all pairs of models from the dot products of `gram`, with 0 for zero vectors."""
    squares = [row[place] for place, row in enumerate(gram)]
    return [[_cosine(product, one * other) for product, other in zip(row, squares)]
            for row, one in zip(gram, squares)]  # fmt: skip


def _cosine(product: float, squares: float) -> float:
    # The root of a square is exact, so equal models have a cosine of exactly 1. NaN stays NaN.
    cosine = product / (math.sqrt(squares) or 1.0)
    return min(max(cosine, -1.0), 1.0)


def row_cosines(gram: Tensor) -> Tensor:
    """Return what `cosines` does for each row, from the dot products of `row_gram`, in the same shape."""
    import torch

    squares = gram.diagonal(dim1=-2, dim2=-1)
    lengths = (squares.unsqueeze(-1) * squares.unsqueeze(-2)).sqrt()
    return (gram / torch.where(lengths == 0, 1.0, lengths)).clamp(-1, 1)


def norm_of_sum(factors: Sequence[float], gram: Sequence[Sequence[float]]) -> float:
    """Return the norm of sum(factor * model), given the models' dot products from `gram`."""
    terms = (product * one * other for row, one in zip(gram, factors) for product, other in zip(row, factors))
    return math.sqrt(max(math.fsum(terms), 0.0))


def weighted_sum(models: Sequence[Tensor], factors: Sequence[Tensor | float]) -> Tensor:
    """Return sum(factor * model), accumulated in float64 and rounded once to the models' dtype.

    A factor is a number or a broadcastable float64 tensor. If all models are equal and float32 and the factors add up
    to 1, the result is the same model. The models are not modified.
    """
    total = models[0].double() * factors[0]
    for model, factor in zip(models[1:], factors[1:], strict=True):
        total.add_(model.double() * factor)
    return total.to(models[0].dtype)
