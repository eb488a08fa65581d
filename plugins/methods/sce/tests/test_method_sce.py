"""SCE matches its formula for deltas of any size and selects exactly the same elements in any tiling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mergecore_testing.conformance import conformance
from torch import Tensor

from mergecore import merge_tensors

test_conformance = conformance("sce", identical="rounded", symmetric=True)

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (301,), (41, 67), (7, 1), (2, 3, 4, 5)]


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, models: int = 3) -> list[Tensor]:
    """Return a base and models at different distances from it, with some elements equal to it or to each other."""
    draw = torch.Generator().manual_seed(3)
    base, other = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    stack = [base]
    for place in range(models):
        noise = torch.randn(shape, generator=draw) / (place + 1)
        stack.append(base + torch.where(other > 1, 0, torch.where(other < -1, other, noise)))
    return [tensor.to(dtype) for tensor in stack]


def formula(stack: list[Tensor], topk: float) -> np.ndarray:
    base, *models = (tensor.double().numpy() for tensor in stack)
    deltas = np.stack([(model - base).ravel() for model in models])
    if topk < 1:
        variance = deltas.var(axis=0)
        variance[(deltas == deltas[0]).all(0)] = 0
        chosen = np.argsort(-variance, kind="stable")[: int(topk * np.count_nonzero(variance))]
        mask = np.zeros(deltas.shape[1])
        mask[chosen] = 1
        deltas = deltas * mask
    energy = (deltas**2).sum(1)
    weights = energy / energy.sum() if energy.sum() > 0 else np.full(len(energy), 1 / len(energy))
    agrees = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    share = weights @ agrees
    merged = weights @ (agrees * deltas) / np.where(share > 0, share, 1)
    return np.asarray(base + merged.reshape(base.shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("topk", [1.0, 0.6, 0.1, 0.0])
@pytest.mark.parametrize("models", [1, 2, 3, 5])
def test_equals_the_formula(shape: tuple[int, ...], topk: float, models: int) -> None:
    stack = tensors(shape, models=models)
    got, expected = merge_tensors(stack, "sce", {"select_topk": topk}, base=0), formula(stack, topk)
    assert got.shape == shape
    rms = math.sqrt(np.mean(expected**2)) if expected.size else 0.0
    assert (np.abs(got.double().numpy() - expected) <= 2e-6 * np.maximum(np.abs(expected), rms)).all()


B = [[0.5, -0.25, 1], [0.05, 0.75, -1]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


@pytest.mark.parametrize(
    ("topk", "expected"),
    [
        (1.0, [[0.71, 0.14, 1.336595], [0.33, 0.70366, -0.55]]),
        (0.5, [[0.5, 0.14, 1.0], [0.33, 0.75, -0.55]]),
    ],
)
def test_known_values(topk: float, expected: list[list[float]]) -> None:
    got = merge_tensors([torch.tensor(values) for values in (B, M, N)], "sce", {"select_topk": topk}, base=0)
    assert torch.allclose(got, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-12, 1e-18, 1e12])
@pytest.mark.parametrize("topk", [1.0, 0.5])
def test_the_size_of_the_deltas_changes_nothing_but_the_size(scale: float, topk: float) -> None:
    base, *models = tensors((41, 67), torch.float64)
    deltas = [(model - base).float() for model in models]
    small = [(delta.double() * scale).float() for delta in deltas]
    zero = torch.zeros(41, 67)
    got = merge_tensors([zero, *small], "sce", {"select_topk": topk}, base=0).double() / scale
    expected = merge_tensors([zero, *deltas], "sce", {"select_topk": topk}, base=0).double()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert expected.abs().max() > 1


def test_a_model_that_hardly_moved_is_not_drowned() -> None:
    base, far, near = torch.zeros(1000), torch.zeros(1000), torch.zeros(1000)
    far[:500], near[500:] = 1.0, 1e-4
    assert torch.allclose(merge_tensors([base, far, near], "sce", base=0), far + near, rtol=1e-6)


def test_of_equal_variances_the_first_are_selected() -> None:
    models = [torch.tensor([1.0, 0, 3, 3, 1, 3]), torch.tensor([1.0, 2, 1, 1, -1, 1])]
    got = merge_tensors([torch.zeros(6), *models], "sce", {"select_topk": 0.6}, base=0)
    assert (got != 0).tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("topk", [1.0, 0.5, 0.0])
def test_nan_shows(topk: float) -> None:
    stack = tensors((33, 70))
    stack[2][4, 5] = math.nan
    assert merge_tensors(stack, "sce", {"select_topk": topk}, base=0)[4, 5].isnan()
