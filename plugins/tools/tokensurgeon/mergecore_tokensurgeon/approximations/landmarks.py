"""Rows rotated from the donor's space into the model's, with the rotation that best aligns the shared tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor


def landmark_pca(task: Task) -> Rows:
    """y = (x - μ_d) V_d R V_mᵀ + μ_m.

    V are the principal directions of the shared rows, as many as the narrower side has. R is the rotation that best
    aligns the donor's coordinates with the model's (Schönemann 1966): U Wᵀ, where A_dᵀ A_m = U S Wᵀ.
    """
    import torch

    ours, theirs = task.ours.double(), task.theirs.double()
    (to, turned), (origin, mine) = _principal(theirs), _principal(ours)
    count = min(turned.shape[1], mine.shape[1])
    turned, mine = turned[:, :count], mine[:, :count]
    left, _, right = torch.linalg.svd(((theirs - to) @ turned).T @ ((ours - origin) @ mine))
    through = turned @ left @ right @ mine.T

    def make(rows: Tensor) -> Tensor:
        return ((task.wanted(rows).double() - to) @ through + origin).float()

    return make


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (width, width) principal directions, largest first. Signs do not matter here."""
    import torch

    mean = rows.mean(0)
    centred = rows - mean
    return mean, torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
