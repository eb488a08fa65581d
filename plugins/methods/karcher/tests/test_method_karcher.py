"""Compare the Karcher mean with the same steps on full vectors in NumPy float64, including degenerate cases."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_karcher import Karcher
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore.api import BLOCK

test_conformance = conformance("karcher", identical="exact", symmetric=True)

SHAPES = [(), (1,), (0,), (7,), (5, 3), (2, 3, 4, 5), (1, 1), (70, 1000)]
SETTINGS: list[dict[str, Any]] = [{}, {"max_iter": 0}, {"max_iter": 2, "tol": 0.0}, {"max_iter": 50, "tol": 0.1}]
B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(models: Sequence[Tensor], max_iter: int = 10, tol: float = 1e-5) -> Any:
    x = [model.double().numpy() for model in models]
    norms = [np.sqrt((v * v).sum()) for v in x]
    u = [v / norm for v, norm in zip(x, norms, strict=True)]
    mean = sum(u) / len(u)
    mean = mean / np.sqrt((mean * mean).sum())
    for _ in range(max_iter):
        tangent = 0
        for direction in u:
            angle = math.acos(min(1.0, max(-1.0, float((mean * direction).sum()))))
            if angle >= tol and angle > 0:
                tangent = tangent + angle / math.sin(angle) * (direction - math.cos(angle) * mean) / len(u)
        length = float(np.sqrt(np.square(tangent).sum()))
        if length < tol or length == 0:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
        mean = mean / np.sqrt((mean * mean).sum())
    return mean * sum(norms) / len(norms)


def error(got: Tensor, exact: Any) -> float:
    return float(np.abs(got.double().numpy() - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_formula(setting: dict[str, Any], shape: tuple[int, ...], count: int) -> None:
    models = [(seed + 1) * normal(shape, seed).abs() + 0.2 * normal(shape, seed + 9) for seed in range(count)]
    got = merge_tiled(Karcher(**setting), models, 2**17)
    assert got.shape == shape
    if got.numel():
        assert error(got, formula(models, **setting)) < 2e-6


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([M, N], [[0.577222, -0.074477, 1.397168], [0.103463, 0.740118, -0.845667]]),
        ([B, M, N], [[0.554395, -0.138837, 1.265443], [0.085606, 0.751097, -0.909861]]),
        ([[1.0, 0.0], [0.0, 2.0]], [1.5 * math.sqrt(0.5)] * 2),
    ],
)
def test_known_values(models: list[Any], expected: Any) -> None:
    got = merge_tiled(Karcher(), [torch.tensor(model) for model in models], BLOCK)
    assert got.numpy() == pytest.approx(np.array(expected), abs=2e-6)


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("tol", [0.0, 1e-5])
def test_nearly_parallel_models(distance: float, tol: float) -> None:
    x = normal((50, 400), 1)
    models = [x + distance * normal((50, 400), seed) for seed in (2, 3, 4)]
    assert error(merge_tiled(Karcher(tol=tol), models, BLOCK), formula(models, tol=tol)) < 2e-7


@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-4])
def test_two_opposite_models_have_the_first_ones_direction(distance: float) -> None:
    x = normal((50, 40), 1)
    y = -3 * x + distance * normal((50, 40), 2)
    assert torch.allclose(merge_tiled(Karcher(), [x, y], BLOCK), 2 * x, rtol=1e-4, atol=1e-3)
    assert merge_tiled(Karcher(), [torch.tensor([-1.0]), torch.tensor([3.0])], BLOCK).tolist() == [-2.0]


def test_small_and_zero_models() -> None:
    x, y, zero = normal((5, 3), 1), normal((5, 3), 2), torch.zeros(5, 3)
    small = [1e-9 * x, 1e-9 * y]
    assert error(merge_tiled(Karcher(), small, BLOCK), formula(small)) < 2e-6
    assert torch.allclose(merge_tiled(Karcher(), [zero, x, zero, zero], BLOCK), x / 4)
    assert torch.equal(merge_tiled(Karcher(), [zero, zero], BLOCK), zero)
