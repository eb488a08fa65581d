"""Rows as sums of the shared tokens' rows, with the weights that reconstruct the row in the donor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.omp import Dictionary, pursue
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor


def omp(task: Task) -> Rows:
    """x ≈ Σ cᵢ Dᵢ over k shared tokens, picked by orthogonal matching pursuit in the donor; y = Σ cᵢ Mᵢ.

    Goddard & Fernandes Neto 2025, https://arxiv.org/abs/2506.06607.
    """
    import torch

    dictionary, ours = Dictionary(task.theirs), task.ours

    def make(rows: Tensor) -> Tensor:
        picked, weights = pursue(dictionary, task.wanted(rows), task.settings.k)
        return torch.bmm(weights[:, None], ours[picked])[:, 0]

    return make
