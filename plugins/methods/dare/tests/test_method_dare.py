"""DARE matches its formula for the drawn masks, in any tiling, and the masks have the right statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_testing.conformance import conformance
from torch import Tensor

from mergecore import merge_tensors
from mergecore.api.random import uniform

test_dare_linear = conformance("dare_linear", symmetric=True)
test_dare_ties = conformance("dare_ties", symmetric=True)

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (0, 3), (301,), (41, 67), (5, 1), (2, 3, 4, 5)]
CASES: dict[str, dict[str, Any]] = {
    "defaults": {"density": 0.4},
    "per model": {"density": [0.7, 1.0, 0.2], "weight": [0.5, -0.3, 1.7], "lambda": 0.8},
    "normalized": {"density": [0.9, 0.5, 0.5], "weight": [0.6, 0.4, 0.7], "normalize": True},
    "not rescaled": {"density": [0.1, 0.0, 0.6], "rescale": False, "lambda": -1.5},
    "opposed": {"density": 0.5, "weight": [1.0, -1.0, 0.0], "normalize": True},
}
SEED = 11


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 1e-2) -> list[Tensor]:
    """Return a base and three models close to it."""
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=draw)
    return [base.to(dtype), *((base + scale * torch.randn(shape, generator=draw)).to(dtype) for _ in range(3))]


def formula(method: str, stack: list[Tensor], given: dict[str, Any]) -> np.ndarray:
    base, *models = (tensor.double().numpy() for tensor in stack)
    weights = np.broadcast_to(np.array(given.get("weight", 1.0)), len(models))
    densities = np.broadcast_to(np.array(given["density"]), len(models))
    parts = []
    for place, (model, density, weight) in enumerate(zip(models, densities, weights, strict=True)):
        drawn = uniform(f"{SEED}\0tensor\0{place}", 0, base.size).numpy().astype(np.float64)
        delta = model - base
        kept = np.where(drawn.reshape(base.shape) < density, delta, 0.0)
        before, after = np.abs(delta).sum(), np.abs(kept).sum()
        factor = before / after if given.get("rescale", True) and min(before, after) >= 1e-7 else 1.0
        parts.append(weight * factor * kept)
    stacked = np.stack(parts)
    counted = np.ones_like(stacked)
    if method == "dare_ties":
        counted = (np.sign(stacked) == np.where(stacked.sum(0) >= 0, 1, -1)).astype(np.float64)
    total, share = (counted * stacked).sum(0), np.tensordot(weights, counted, 1)
    if given.get("normalize", False):
        total = total / np.where(np.abs(share) < 1e-8, 1.0, share)
    return np.asarray(base + given.get("lambda", 1.0) * total)


def merged(method: str, stack: list[Tensor], given: dict[str, Any]) -> Tensor:
    return merge_tensors(stack, method, given, base=0, seed=SEED)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_equals_the_formula(method: str, case: str, shape: tuple[int, ...]) -> None:
    stack, given = tensors(shape, scale=1.0), CASES[case]
    got, expected = merged(method, stack, given), formula(method, stack, given)
    assert got.shape == shape
    rms = math.sqrt(np.mean(expected**2)) if expected.size else 0.0
    assert (np.abs(got.double().numpy() - expected) <= 2e-6 * np.maximum(np.abs(expected), rms)).all()


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_kept_share_is_the_density_and_the_mean_stays(density: float) -> None:
    base, other, *_ = tensors((400, 500), scale=1.0)
    delta = other - base
    kept = merged("dare_linear", [torch.zeros_like(base), delta], {"density": density})
    deviation = math.sqrt(density * (1 - density) / kept.numel())
    assert abs(float((kept != 0).double().mean()) - density) < 5 * deviation
    assert float(kept.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    assert abs(float((kept - delta).mean())) < 5 * deviation / density
    rows = (kept != 0).double().mean(1)
    assert rows.std() == pytest.approx(math.sqrt(density * (1 - density) / 500), rel=0.2)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_ends_of_the_density(method: str) -> None:
    base, model, *_ = tensors((33, 70))
    assert torch.equal(merged(method, [base, model], {"density": 0.0}), base)
    assert torch.equal(merged(method, [base, model], {"density": 1.0}), base + (model - base))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_nan_stays_in_its_place(method: str) -> None:
    stack = tensors((33, 70))
    stack[2][4, 5] = math.nan
    got = merged(method, stack, {"density": 0.3})
    assert got.isnan().nonzero().tolist() == [[4, 5]]
