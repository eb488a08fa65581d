"""Rows as weighted means of the nearest shared tokens in the donor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.settings import Weights
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-6
"""Lower bound of distances and sums of weights."""


def common_interpolation(task: Task) -> Rows:
    """y = Σ ωᵢ Mᵢ over the k shared tokens whose donor rows are nearest to the token's, by distance or angle."""
    import torch

    chosen, theirs, ours = task.settings, task.theirs, task.ours
    if chosen.cosine:
        theirs = torch.nn.functional.normalize(theirs)
    squares = theirs.square().sum(1)

    def make(rows: Tensor) -> Tensor:
        vectors = task.wanted(rows)
        like = torch.nn.functional.normalize(vectors) if chosen.cosine else vectors
        distances = 1 - like @ theirs.T if chosen.cosine else squares - 2 * like @ theirs.T
        near = distances.topk(min(chosen.k, len(theirs)), largest=False).indices
        points = task.theirs[near]
        weights = _weights(points, vectors, chosen.weights, chosen.cosine)
        return torch.bmm(weights[:, None], ours[near])[:, 0]

    return make


def _weights(points: Tensor, vectors: Tensor, how: Weights, cosine: bool) -> Tensor:
    """Return the weights of each vector's neighbors, of shape (vectors, k).

    distance_proportional: 1/d (or the cosine, when comparing angles), divided by the sum. least_squares: the ω that
    bring Σ ωᵢ Pᵢ closest to the vector. barycentric: the same, but with a sum of 1.
    """
    import torch

    if how is Weights.distance_proportional:
        if cosine:
            weights = torch.cosine_similarity(points, vectors[:, None], dim=2)
        else:
            weights = 1 / (points - vectors[:, None]).norm(dim=2).clamp(min=LEAST)
        total = weights.sum(1, keepdim=True)
        return weights / total.clamp(min=LEAST)
    # In float64. With more neighbors than dimensions, this is the minimum-norm solution.
    wide, target = points.double().transpose(1, 2), vectors.double()[..., None]
    if how is Weights.least_squares:
        return (torch.linalg.pinv(wide) @ target)[..., 0].float()
    count = points.shape[1]
    system = torch.ones(len(points), count + 1, count + 1, dtype=torch.float64)
    system[:, :count, :count] = wide.transpose(1, 2) @ wide
    system[:, count, count] = 0
    right = torch.cat([wide.transpose(1, 2) @ target, torch.ones_like(target[:, :1])], dim=1)
    return (torch.linalg.pinv(system, hermitian=True) @ right)[:, :count, 0].float()
