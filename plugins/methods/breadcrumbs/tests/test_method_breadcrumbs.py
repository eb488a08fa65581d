"""Breadcrumbs keeps exactly the band of magnitudes in its formula for any tiling, ties, and signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_breadcrumbs import Breadcrumbs, BreadcrumbsTies
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore import merge_tensors
from mergecore.api import BLOCK

test_breadcrumbs = conformance("breadcrumbs", symmetric=True)
test_breadcrumbs_ties = conformance("breadcrumbs_ties", symmetric=True)

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (301,), (41, 67), (7, 1), (2, 3, 4, 5)]
CASES: dict[str, dict[str, Any]] = {
    "defaults": {"density": 0.4},
    "per model": {"density": [0.7, 1.0, 0.3], "gamma": [0.1, 0.4, 0.0], "weight": [0.5, -0.3, 1.7], "lambda": 0.8},
    "normalized": {"density": [0.8, 0.5, 0.0], "weight": [0.6, 0.4, 0.7], "normalize": True, "gamma": 0.2},
    "rescaled": {"density": [0.3, 0.6, 0.9], "gamma": [0.9, 0.4, 1.0], "rescale": True, "lambda": -1.5},
}
METHODS = ["breadcrumbs", "breadcrumbs_ties"]


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return a base and three models close to it."""
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=draw)
    return [base.to(dtype), *((base + torch.randn(shape, generator=draw)).to(dtype) for _ in range(3))]


def band(delta: np.ndarray, density: float, gamma: float) -> np.ndarray:
    """Keep the k magnitudes after the `top` largest, or the k smallest if fewer are left."""
    if density >= 1:
        return delta
    flat, k, top = delta.ravel(), int(density * delta.size), int(gamma * delta.size)
    bottom = max(0, flat.size - k - top)
    descending = np.argsort(-np.abs(flat), kind="stable")
    kept = np.zeros_like(flat)
    places = descending[flat.size - bottom - k : flat.size - bottom]
    kept[places] = flat[places]
    return kept.reshape(delta.shape)


def formula(method: str, stack: list[Tensor], given: dict[str, Any]) -> np.ndarray:
    base, *models = (tensor.double().numpy() for tensor in stack)
    each = {"weight": 1.0, "gamma": 0.01} | given
    weights, densities, gammas = (
        np.broadcast_to(np.array(each[key]), len(models)) for key in ("weight", "density", "gamma")
    )
    parts = []
    for model, weight, density, gamma in zip(models, weights, densities, gammas, strict=True):
        kept = band(model - base, density, gamma)
        before, after = np.abs(model - base).sum(), np.abs(kept).sum()
        factor = before / after if given.get("rescale", False) and min(before, after) >= 1e-7 else 1.0
        parts.append(weight * factor * kept)
    stacked = np.stack(parts)
    counted = np.ones_like(stacked)
    if method == "breadcrumbs_ties":
        counted = (np.sign(stacked) == np.where(stacked.sum(0) >= 0, 1, -1)).astype(np.float64)
    total, share = (counted * stacked).sum(0), np.tensordot(weights, counted, 1)
    if given.get("normalize", False):
        total = total / np.where(np.abs(share) < 1e-8, 1.0, share)
    return np.asarray(base + given.get("lambda", 1.0) * total)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_formula(method: str, case: str, shape: tuple[int, ...]) -> None:
    stack, given = tensors(shape), CASES[case]
    got, expected = merge_tensors(stack, method, given, base=0), formula(method, stack, given)
    assert got.shape == shape
    rms = math.sqrt(np.mean(expected**2)) if expected.size else 0.0
    assert (np.abs(got.double().numpy() - expected) <= 2e-6 * np.maximum(np.abs(expected), rms)).all()


B = [[0.5, -0.25, 1], [0.05, 0.75, -1]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("breadcrumbs", [[0.626, -0.094, 1.08], [0.0, 0.75, -1.09]]),
        ("breadcrumbs_ties", [[0.626, -0.094, 1.08], [-0.112, 0.75, -1.09]]),
    ],
)
def test_known_values(method: str, expected: list[list[float]]) -> None:
    given = {"density": 0.5, "gamma": 0.2, "weight": [0.6, 0.4]}
    got = merge_tensors([torch.tensor(values) for values in (B, M, N)], method, given, base=0)
    assert torch.allclose(got, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [(0.5, 0.2, [4, 5, 6, 7, 8]), (0.5, 0.0, [6, 7, 8, 9, 10]), (0.5, 0.8, [1, 2, 3, 4, 5]), (0.05, 0.0, [])],
)
def test_the_band_of_ten_steps(density: float, gamma: float, kept: list[int]) -> None:
    delta = torch.tensor([3.0, -10, 1, 8, -5, 2, 9, 4, -7, 6])
    got = merge_tensors([torch.zeros(10), delta], "breadcrumbs", {"density": density, "gamma": gamma}, base=0)
    assert sorted(got[got != 0].abs().tolist()) == kept and set(got.tolist()) <= {*delta.tolist(), 0}


@pytest.mark.parametrize("cls", [Breadcrumbs, BreadcrumbsTies])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_band_is_exact_over_tiles_and_among_equals(
    cls: type[Breadcrumbs], dtype: torch.dtype, coarse: bool
) -> None:
    stack = tensors((5, 9001), dtype)
    base, *models = ((tensor * 16).round() / 16 for tensor in stack) if coarse else stack  # many ties
    kept = merge_tiled(cls(weight=(1.0,), density=(0.3,), gamma=(0.1,)), models[:1], BLOCK, base=base)
    exact = band(models[0].double().numpy() - base.double().numpy(), 0.3, 0.1)
    assert torch.equal(kept != base, torch.from_numpy(exact) != 0)


@pytest.mark.parametrize("method", METHODS)
def test_ends_of_the_ranges(method: str) -> None:
    def merged(*stack: Tensor, **given: Any) -> Tensor:
        return merge_tensors(stack, method, given, base=0)

    base, model, *_ = tensors((33, 70))
    assert torch.equal(merged(base, model, density=0.0), base)
    assert int((merged(base, model, density=0.3, gamma=1.0) != base).sum()) == int(0.3 * base.numel())
    assert torch.equal(merged(base, model, density=1.0, gamma=1.0), base + (model - base))


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_in_its_place(method: str) -> None:
    stack = tensors((33, 70))
    stack[2][4, 5] = math.nan
    got = merge_tensors(stack, method, {"density": 0.3, "rescale": True}, base=0)
    assert got.isnan().nonzero().tolist() == [[4, 5]]
