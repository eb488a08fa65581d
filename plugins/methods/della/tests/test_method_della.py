"""DELLA matches its formula for the drawn masks in any tiling and row shape. Keep probabilities follow the ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_della import chances
from mergecore_testing.conformance import conformance
from torch import Tensor

from mergecore import merge_tensors
from mergecore.api import InputError
from mergecore.api.random import uniform

test_della = conformance("della", identical="rounded", symmetric=True)
test_della_linear = conformance("della_linear", symmetric=True)

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (301,), (41, 67), (7, 1), (1, 9), (2, 3, 4, 5)]
CASES: dict[str, dict[str, Any]] = {
    "defaults": {"density": 0.4},
    "per model": {"density": [0.7, 1.0, 0.3], "epsilon": [0.1, 0.4, 0.29], "weight": [0.5, -0.3, 1.7], "lambda": 0.8},
    "unlike its default": {"density": [0.8, 0.5, 0.0], "weight": [0.6, 0.4, 0.7], "normalize": None, "epsilon": 0.19},
    "not rescaled": {"density": 0.6, "rescale": False, "epsilon": 0.0, "lambda": -1.5},
}
NORMALIZE = {"della": True, "della_linear": False}
SEED = 11


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
    """Return a base and three models close to it."""
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=draw)
    return [base.to(dtype), *((base + scale * torch.randn(shape, generator=draw)).to(dtype) for _ in range(3))]


def case(method: str, name: str) -> dict[str, Any]:
    given = dict(CASES[name])
    if "normalize" in given:
        given["normalize"] = not NORMALIZE[method]
    return given


def thinned(delta: np.ndarray, density: float, epsilon: float, place: int) -> np.ndarray:
    if density >= 1:
        return delta
    drawn = uniform(f"{SEED}\0tensor\0{place}", 0, delta.size).numpy().astype(np.float64)
    kept = np.zeros(delta.size)
    width = max(delta.shape[-1] if delta.ndim else 1, 1)
    for start in range(0, delta.size if density > 0 else 0, width):
        row = delta.reshape(-1)[start : start + width]
        for rank, column in enumerate(sorted(range(width), key=lambda column: abs(row[column]))):
            share = rank / (width - 1) if width > 1 else 0.5
            if drawn[start + column] < density - epsilon + 2 * epsilon * share:
                kept[start + column] = row[column]
    return kept.reshape(delta.shape)


def formula(method: str, stack: list[Tensor], given: dict[str, Any]) -> np.ndarray:
    base, *models = (tensor.double().numpy() for tensor in stack)
    each = {"weight": 1.0, "epsilon": 0.15} | given
    weights, densities, epsilons = (
        np.broadcast_to(np.array(each[key]), len(models)) for key in ("weight", "density", "epsilon")
    )
    parts = []
    for place, model in enumerate(models):
        kept = thinned(model - base, densities[place], epsilons[place], place)
        before, after = np.abs(model - base).sum(), np.abs(kept).sum()
        factor = before / after if given.get("rescale", True) and min(before, after) >= 1e-7 else 1.0
        parts.append(weights[place] * factor * kept)
    stacked = np.stack(parts)
    counted = np.ones_like(stacked)
    if method == "della":
        counted = (np.sign(stacked) == np.where(stacked.sum(0) >= 0, 1, -1)).astype(np.float64)
    total, share = (counted * stacked).sum(0), np.tensordot(weights, counted, 1)
    if given.get("normalize", NORMALIZE[method]):
        total = total / np.where(np.abs(share) < 1e-8, 1.0, share)
    return np.asarray(base + given.get("lambda", 1.0) * total)


def merged(method: str, stack: list[Tensor], given: dict[str, Any]) -> Tensor:
    return merge_tensors(stack, method, given, base=0, seed=SEED)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", NORMALIZE)
def test_equals_the_formula(method: str, name: str, shape: tuple[int, ...]) -> None:
    stack, given = tensors(shape), case(method, name)
    got, expected = merged(method, stack, given), formula(method, stack, given)
    assert got.shape == shape
    rms = math.sqrt(np.mean(expected**2)) if expected.size else 0.0
    assert (np.abs(got.double().numpy() - expected) <= 2e-6 * np.maximum(np.abs(expected), rms)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chances_go_evenly_from_the_smallest_to_the_largest_of_a_row(dtype: torch.dtype) -> None:
    rows = torch.tensor([[3.0, -1.0, 2.0], [0.0, -4.0, 1e-40], [-0.0, 0.0, math.nan]], dtype=dtype)
    expected = torch.tensor([[0.6, 0.4, 0.5], [0.4, 0.6, 0.5], [0.4, 0.5, 0.6]])
    assert torch.allclose(chances(rows, 0.5, 0.1), expected)
    assert torch.allclose(chances(rows.view(3, 1, 3), 0.5, 0.1), expected.view(3, 1, 3))
    assert torch.equal(chances(rows.view(9, 1), 0.5, 0.1), torch.full((9, 1), 0.5))
    wide = torch.randn(2, 70_001, generator=torch.Generator().manual_seed(1)).to(dtype)
    ranks = wide.abs().argsort(stable=True).argsort().double()
    assert torch.allclose(chances(wide, 0.5, 0.4).double(), 0.1 + 0.8 * ranks / 70_000, atol=1e-7)


def test_the_kept_share_of_each_rank_is_its_chance() -> None:
    delta = torch.randn(20_000, 9, generator=torch.Generator().manual_seed(1))
    kept = merged("della_linear", [torch.zeros_like(delta), delta], {"density": 0.6, "epsilon": 0.3, "rescale": False})
    order = delta.abs().argsort(1)
    share = (kept != 0).double().gather(1, order).mean(0)
    assert torch.allclose(share, torch.linspace(0.3, 0.9, 9).double(), atol=5 * 0.5 / 20_000**0.5)
    scaled = merged("della_linear", [torch.zeros_like(delta), delta], {"density": 0.6, "epsilon": 0.3})
    assert float(scaled.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


@pytest.mark.parametrize("method", NORMALIZE)
def test_ends_of_the_density(method: str) -> None:
    base, model, *_ = tensors((33, 70))
    assert torch.equal(merged(method, [base, model], {"density": 0.0}), base)
    assert torch.equal(merged(method, [base, model], {"density": 1.0, "epsilon": 0.5}), base + (model - base))


@pytest.mark.parametrize("method", NORMALIZE)
def test_nan_stays_in_its_place(method: str) -> None:
    stack = tensors((33, 70))
    stack[2][4, 5] = math.nan
    assert merged(method, stack, {"density": 0.3}).isnan().nonzero().tolist() == [[4, 5]]


@pytest.mark.parametrize("method", NORMALIZE)
@pytest.mark.parametrize(("density", "epsilon"), [(0.85, 0.15), (0.15, 0.15), (0.9, 0.2), (0.1, 0.3)])
def test_chances_outside_0_to_1_are_refused(method: str, density: float, epsilon: float) -> None:
    with pytest.raises(InputError, match=f"density {density} with epsilon {epsilon} .* epsilon below 0.1"):
        merged(method, tensors((2, 3)), {"density": density, "epsilon": epsilon})
