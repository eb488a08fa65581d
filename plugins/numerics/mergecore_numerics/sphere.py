"""Angles between models and sums of models, by their dot products in float64."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from mergecore_numerics.sums import BLOCK, dots

CANCELLED = 1e-3
"""A sum this short beside the sum of its terms' lengths is lost in the rounding of `dots`: its direction is unknown."""


def gram(tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    """The dot products of all pairs of models over the whole tensor, [models, models] in float64.

    One pass over the tiles, which are as for `dots`, at least one; accuracy and reproducibility are those of `dots`.
    """
    if len(tiles) == 1:
        tiles = [tiles[0]]  # so that it is read once
    pairs = list(combinations_with_replacement(range(len(tiles[0])), 2))
    return _matrix(dict(zip(pairs, torch.tensor(dots(tiles, pairs), dtype=torch.float64), strict=True)))


def row_gram(models: Sequence[Tensor]) -> Tensor:
    """The dot products of all pairs of models along the last dimension, [*rows, models, models] in float64.

    `models` are one tensor a model, of one shape with at least one dimension; a row's results depend on it alone.
    """
    pairs = combinations_with_replacement(range(len(models)), 2)
    exact = [model.double() for model in models]
    return _matrix({(left, right): row_sums(exact[left] * exact[right]) for left, right in pairs})


def row_sums(x: Tensor) -> Tensor:
    """Sums along the last dimension, whose bits depend on neither the other rows nor the number of threads."""
    # Torch shares long rows out among threads when they are few, but never as little as BLOCK elements.
    total = x[..., :BLOCK].sum(-1)
    for start in range(BLOCK, x.shape[-1], BLOCK):
        total = total + x[..., start : start + BLOCK].sum(-1)
    return total


def cosines(gram: Tensor) -> Tensor:
    """The cosines of all pairs of models, of their dot products [..., models, models]; a zero vector's are 0."""
    squares = gram.diagonal(dim1=-2, dim2=-1)
    # The root of a square is exact, so that equal models have the cosine 1.
    lengths = (squares.unsqueeze(-1) * squares.unsqueeze(-2)).sqrt()
    return (gram / torch.where(lengths == 0, 1.0, lengths)).clamp(-1, 1)


def norm_of_sum(factors: Tensor, gram: Tensor) -> Tensor:
    """The norm of sum(factor * model), of the models' dot products [models, models]."""
    # Not `@`: what multiplies matrices may add up in another order where the memory lies otherwise.
    return (gram * factors.unsqueeze(-1) * factors).sum().clamp(min=0).sqrt()


def weighted_sum(models: Sequence[Tensor], factors: Sequence[Tensor | float]) -> Tensor:
    """sum(factor * model), added up in float64 and rounded once to the models' dtype.

    A factor is a number or a float64 tensor that broadcasts. Equal float32 models give the very same model back where
    the factors add up to 1. The models stay as they are.
    """
    total = models[0].double() * factors[0]
    for model, factor in zip(models[1:], factors[1:], strict=True):
        total.add_(model.to(torch.float64, copy=True).mul_(factor))
    return total.to(models[0].dtype)


def _matrix(products: dict[tuple[int, int], Tensor]) -> Tensor:
    """The symmetric matrix, in the last two dimensions, of the products of pairs (i, j), i <= j."""
    models = range(max(left for left, _ in products) + 1)
    rows = [torch.stack([products[min(i, j), max(i, j)] for j in models], -1) for i in models]
    return torch.stack(rows, -2)
