"""Rows mapped through a basis that both sides share, whose directions are built from a few shared tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.omp import Dictionary, pursue
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor

CUTOFF = 1e-5
"""Singular values of the donor's basis below this share of the largest count as 0."""


def stb(task: Task) -> Rows:
    """Sparse token basis: y = a B_m + μ_m, where a is the least-squares solution of a B_d = x - μ_d.

    The directions are the principal directions of the narrower side's shared rows, each written as a sum of k centered
    shared rows by orthogonal matching pursuit. The same sums of the rows of each side are B_d and B_m.
    """
    import torch

    sides = [side - side.mean(0) for side in (task.theirs, task.ours)]
    narrow = min(sides, key=lambda side: side.shape[1])
    directions = torch.linalg.eigh(narrow.double().T @ narrow.double()).eigenvectors.flip(1).T.float().contiguous()
    picked, weights = pursue(Dictionary(narrow), directions, task.settings.k)
    theirs, ours = (torch.einsum("dk,dkw->dw", weights, side[picked]).double() for side in sides)
    through = torch.linalg.pinv(theirs, rtol=CUTOFF) @ ours
    to, origin = task.theirs.double().mean(0), task.ours.double().mean(0)

    def make(rows: Tensor) -> Tensor:
        return ((task.wanted(rows).double() - to) @ through + origin).float()

    return make
