"""Rows independent of the token: the mean, zeros, random ones, and draws from the distribution of the model's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor


def mean(task: Task) -> Rows:
    """Use the mean of all rows of the model."""
    return lambda rows: task.mean.repeat(len(rows), 1)


def zero(task: Task) -> Rows:
    """Use zeros."""
    return lambda rows: task.mean.new_zeros(len(rows), len(task.mean))


def random(task: Task) -> Rows:
    """Draw normal numbers with the mean and standard deviation of all of the model's values."""
    middle, spread = float(task.mean.mean()), float(task.model.float().std())
    return lambda rows: middle + spread * task.draw(rows)


def john_hewitt(task: Task) -> Rows:
    """Draw from the normal distribution with the mean and covariance of the model's rows.

    J. Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021. y = μ + V √Λ z, where V Λ Vᵀ is
    the covariance, decomposed in float64 because it might not be positive definite.
    """
    import torch

    centred = task.model.double() - task.mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    root = (vectors * values.clamp(min=0).sqrt()).float()

    def draw(rows: Tensor) -> Tensor:
        return task.mean + task.draw(rows) @ root.T

    return draw
