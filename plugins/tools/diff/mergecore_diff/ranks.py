"""The effective rank of a matrix that is read a few rows at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 1024
"""Up to this many columns, the Gram matrix of the columns is kept and the rank is exact."""

VECTORS = 32
"""Number of random vectors in each of the two sets that multiply a wider matrix."""


class Rank(NamedTuple):
    """The effective rank of a matrix, and whether it is exact or an estimate."""

    value: float
    exact: bool


class Spectrum:
    """Accumulate the rows of a matrix D and compute its effective rank.

    The effective rank is (sum s^2)^2 / sum s^4 over the singular values s, the participation ratio of their squares:
    n if n of them are equal and the rest are 0. With M = D^T D it is (trace M)^2 / ||M||^2 (Frobenius norm). M is
    computed for up to `WIDEST` columns, or if all rows arrive at once. Otherwise ||M||^2 is estimated from M Z for
    `VECTORS` random vectors Z: exactly for the part of M that they capture (Nystroem: M Z (Z^T M Z)^-1 Z^T M), and by
    Hutchinson's estimator with as many more vectors for the rest, as in Hutch++ (https://arxiv.org/abs/2010.09649).
    A rank up to `VECTORS` is therefore exact.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        self._shape, self._trace = (rows, columns), 0.0
        self._vectors = None
        if columns > WIDEST:
            generator = torch.Generator().manual_seed(0)
            self._vectors = torch.randn(columns, 2 * VECTORS, generator=generator, dtype=dtype)
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add more rows, in float32 or float64."""
        self._trace += rows.double().square().sum().item()
        if rows.shape[0] == self._shape[0]:
            part = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
            self._vectors = None
        elif self._vectors is None:
            part = rows.T @ rows
        else:
            part = rows.T @ (rows @ self._vectors)
        self._sum = part if self._sum is None else self._sum.add_(part)

    def rank(self) -> Rank:
        """Return the effective rank of all rows: 0 for a zero matrix, NaN if there are NaNs or infinities."""
        exact = self._vectors is None
        if self._sum is None or not self._trace:
            return Rank(0.0, exact)
        if not math.isfinite(self._trace):
            return Rank(math.nan, exact)
        square = self._sum.double().square().sum().item() if exact else self._estimate()
        return Rank(self._trace**2 / square, exact)

    def _estimate(self) -> float:
        """Estimate ||M||^2 from M Z."""
        assert self._sum is not None and self._vectors is not None
        caught, rest = self._sum.double().split(VECTORS, 1)
        basis, probes = self._vectors.double().split(VECTORS, 1)
        # M is close to F F^T with F = M Z (Z^T M Z)^(-1/2). The root ignores eigenvalues below float32 noise.
        values, axes = torch.linalg.eigh(basis.T @ caught)
        kept = values > values[-1] * 1e-6
        factor = caught @ (axes[:, kept] / values[kept].sqrt())
        seen = factor @ (factor.T @ probes)
        tail = (rest.square().sum() - seen.square().sum()).item() / VECTORS
        whole = (factor.T @ factor).square().sum().item()
        return max(whole + tail, whole)
