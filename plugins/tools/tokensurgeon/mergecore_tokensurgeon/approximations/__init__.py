"""Approximations of rows for tokens that a model does not have, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mergecore_tokensurgeon.approximations import landmarks, neighbors, plain, pursuit, rotated, sparse, subword
from mergecore_tokensurgeon.task import Approximation, Rows, Task

if TYPE_CHECKING:
    from torch import Tensor


def _of_donor(approximation: Approximation) -> Approximation:
    """Wrap an approximation to use the mean row for tokens whose donor row is all zeros and so uninformative."""

    def prepare(task: Task) -> Rows:
        make = approximation(task)

        def rows_of(rows: Tensor) -> Tensor:
            result = task.mean.repeat(len(rows), 1)
            known = task.donor[rows].bool().any(1)
            if known.any():
                result[known] = make(rows[known])
            return result

        return rows_of

    return prepare


METHODS: Mapping[str, Approximation] = {
    "omp": _of_donor(pursuit.omp),
    "common_interpolation": _of_donor(neighbors.common_interpolation),
    "subword": subword.subword,
    "mean": plain.mean,
    "zero": plain.zero,
    "random": plain.random,
    "john_hewitt": plain.john_hewitt,
    "landmark_pca": _of_donor(landmarks.landmark_pca),
    "stb": _of_donor(sparse.stb),
    "mp_rope": _of_donor(rotated.mp_rope),
}
