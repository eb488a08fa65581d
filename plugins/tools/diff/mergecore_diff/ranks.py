"""The effective rank of a matrix that is seen a few rows at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 1024
"""Columns up to which the matrix of their dot products is kept, and the rank is exact."""

VECTORS = 32
"""Random vectors of each of the two sets that a wider matrix is multiplied with."""


class Rank(NamedTuple):
    """The effective rank of a matrix, and whether it is exact or an estimate."""

    value: float
    exact: bool


class Spectrum:
    """Adds up rows of a matrix D, then gives its effective rank (sum s^2)^2 / sum s^4 over its singular values s.

    It is the participation ratio of the squared singular values: n where n of them are equal and the rest 0. With
    M = D^T D it is (trace M)^2 / ||M||^2, Frobenius norm. Up to `WIDEST` columns, and where all rows come at once, M is
    computed. Else ||M||^2 is estimated from M Z for `VECTORS` random vectors Z: the part of M that they catch
    (Nystroem: M Z (Z^T M Z)^-1 Z^T M) is counted exactly, the rest by Hutchinson's estimator with as many further
    vectors, as in Hutch++ (https://arxiv.org/abs/2010.09649). So a rank up to `VECTORS` comes out as it is.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        self._shape, self._trace = (rows, columns), 0.0
        self._vectors = None
        if columns > WIDEST:
            generator = torch.Generator().manual_seed(0)
            self._vectors = torch.randn(columns, 2 * VECTORS, generator=generator, dtype=dtype)
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Some more rows, float32 or float64."""
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
        """The effective rank of all rows; 0 of a zero matrix, NaN where there is NaN or infinity."""
        exact = self._vectors is None
        if self._sum is None or not self._trace:
            return Rank(0.0, exact)
        if not math.isfinite(self._trace):
            return Rank(math.nan, exact)
        square = self._sum.double().square().sum().item() if exact else self._estimate()
        return Rank(self._trace**2 / square, exact)

    def _estimate(self) -> float:
        """||M||^2 from M Z."""
        assert self._sum is not None and self._vectors is not None
        caught, rest = self._sum.double().split(VECTORS, 1)
        basis, probes = self._vectors.double().split(VECTORS, 1)
        # M is nearly F F^T, with F = M Z (Z^T M Z)^(-1/2); what is beneath float32's noise is left out of the root.
        values, axes = torch.linalg.eigh(basis.T @ caught)
        kept = values > values[-1] * 1e-6
        factor = caught @ (axes[:, kept] / values[kept].sqrt())
        seen = factor @ (factor.T @ probes)
        tail = (rest.square().sum() - seen.square().sum()).item() / VECTORS
        whole = (factor.T @ factor).square().sum().item()
        return max(whole + tail, whole)
