"""Factor a matrix into two thin ones with a randomized method, or exactly if that is not accurate enough."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXTRA = 10
"""Oversampling of the randomized method beyond the rank (Halko, Martinsson, and Tropp, arXiv 0909.4061)."""

FIRST = 64
"""Initial number of directions if the rank is unknown."""

TURNS = 8
"""Maximum number of power iterations. If they do not converge, use the exact decomposition."""

SETTLED = 1e-5
"""Converged if the captured part grows by at most this share of the squared norm."""

PIECE = 2**22
"""Number of matrix elements to sum up in float64 at a time."""


@dataclass(frozen=True)
class Wanted:
    """Required accuracy: a rank (None: as high as needed) and a share of the squared norm (None: any)."""

    rank: int | None = None
    share: float | None = None

    def rank_for(self, squares: Tensor, total: float) -> int | None:
        """Return the lowest rank whose squared singular values reach the share, or None if even all of them do not."""
        if self.share is None:
            return self.rank
        # Rounding of float32 values can keep the sum slightly below the total.
        reached = torch.cumsum(squares.double(), 0) >= min(self.share, 1 - 1e-12) * total
        if not reached.any():
            return self.rank if self.rank is not None and self.rank <= len(squares) else None
        rank = int(reached.int().argmax()) + 1
        return rank if self.rank is None else min(rank, self.rank)


@dataclass(frozen=True)
class Product:
    """left (rows, rank) @ right (rank, columns). `exact` if it comes from a full singular value decomposition."""

    left: Tensor
    right: Tensor
    exact: bool

    @property
    def rank(self) -> int:
        return self.left.shape[1]


def squared_norm(matrix: Tensor) -> float:
    """Return the sum of squares, computed in float64."""
    return math.fsum(piece.double().square().sum().item() for piece in matrix.reshape(-1).split(PIECE))


def remainder(matrix: Tensor, product: Product) -> float:
    """Return the squared norm of matrix - product, computed in blocks of rows."""
    rows = max(1, PIECE // max(matrix.shape[1], 1))
    left, right = product.left.float(), product.right.float()
    blocks = zip(matrix.split(rows), left.split(rows))
    return math.fsum(squared_norm(block - part @ right) for block, part in blocks)


def decompose(matrix: Tensor, wanted: Wanted, name: str, dtype: torch.dtype = torch.float32) -> tuple[Product, float]:
    """Factor a matrix with the required accuracy into factors of equal norm and of `dtype`.

    Args:
        matrix: The matrix, float32 with two axes.
        wanted: The required accuracy.
        name: Seed of the random numbers.
        dtype: Dtype of the factors.

    Returns:
        The product, and the measured squared norm of the remainder.
    """
    total = squared_norm(matrix)
    found = _randomized(matrix, wanted, total, name)
    if found is not None:
        product = _rounded(found, dtype)
        left = remainder(matrix, product)
        if wanted.share is None or left <= (1 - wanted.share) * total or product.rank == wanted.rank:
            return product, left
    product = _rounded(_exact(matrix, wanted, total), dtype)
    return product, remainder(matrix, product)


def _rounded(product: Product, dtype: torch.dtype) -> Product:
    return Product(product.left.to(dtype), product.right.to(dtype), product.exact)


def _balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int, exact: bool) -> Product:
    root = s[:rank].sqrt()
    return Product((u[:, :rank] * root).contiguous(), (vh[:rank] * root[:, None]).contiguous(), exact)


def _exact(matrix: Tensor, wanted: Wanted, total: float) -> Product:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = wanted.rank_for(s.square(), total)
    limit = min(matrix.shape)
    return _balanced(u, s, vh, limit if rank is None else min(rank, limit), True)


def _randomized(matrix: Tensor, wanted: Wanted, total: float, name: str) -> Product | None:
    """Return a product from a randomized range finder, or None if the exact method is as fast or required."""
    smaller = min(matrix.shape)
    directions = (wanted.rank if wanted.share is None and wanted.rank is not None else FIRST) + EXTRA
    while directions <= smaller // 3:
        caught = _caught(matrix, wanted, directions, total, name)
        if caught is None:
            return None
        u, s, vh = caught
        rank = wanted.rank_for(s.square(), total)
        if rank is not None and rank <= directions - EXTRA:
            return _balanced(u, s, vh, rank, False)
        directions = 2 * (directions - EXTRA) + EXTRA
    return None


def _caught(
    matrix: Tensor, wanted: Wanted, directions: int, total: float, name: str
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the singular values and vectors within the best `directions` that power iterations find."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    random = torch.randn(matrix.shape[1], directions, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(matrix @ random).Q
    before = -math.inf
    for _ in range(TURNS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
        small = basis.T @ matrix
        # The eigenvalues of the small square matrix are the squared singular values.
        values, vectors = torch.linalg.eigh(small.double() @ small.double().T)
        squares = values.flip(0).clamp(min=0)
        caught = squares[: wanted.rank if wanted.share is None else None].sum().item()
        if caught - before <= SETTLED * total:
            inner = vectors.flip(1).float()
            s = squares.sqrt().float()
            vh = (inner.T @ small) / s.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            return basis @ inner, s, vh
        before = caught
    return None
