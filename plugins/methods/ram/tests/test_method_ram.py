"""RAM and RAM+ match their formulas in any tiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_ram import Ram, RamPlusTl
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore import merge_tensors
from mergecore.api import BLOCK

test_ram = conformance("ram", identical="rounded", symmetric=True)
test_ramplus_tl = conformance("ramplus_tl", identical="rounded", symmetric=True)

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (301,), (41, 67), (7, 1), (2, 3, 4, 5)]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ram", {}),
    ("ram", {"epsilon": 0.5}),
    ("ram", {"epsilon": 0.0}),
    ("ramplus_tl", {}),
    ("ramplus_tl", {"epsilon": 0.3, "r": 0.7, "alpha": 5.0}),
    ("ramplus_tl", {"epsilon": 1.5, "r": -0.4, "alpha": 0.9}),
    ("ramplus_tl", {"epsilon": 0.0, "r": 2.0, "alpha": 0.0}),
]


def tensors(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, models: int = 3) -> list[Tensor]:
    """Return a base and models that each change part of it."""
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=draw)
    stack = [base]
    for _ in range(models):
        changed = torch.rand(shape, generator=draw) < 0.4
        stack.append(base + torch.where(changed, torch.randn(shape, generator=draw), 0))
    return [tensor.to(dtype) for tensor in stack]


def formula(method: str, stack: list[Tensor], given: dict[str, Any]) -> np.ndarray:
    base, *models = (tensor.double().numpy() for tensor in stack)
    epsilon = given.get("epsilon", 1e-5)
    deltas = np.stack([model - base for model in models])
    acts = np.abs(deltas) > epsilon
    count = acts.sum(0)
    result = base.copy()
    for delta, act in zip(deltas, acts, strict=True):
        factor = 1.0
        if method == "ramplus_tl":
            shared, own = (act & (count > 1)).sum(), (act & (count == 1)).sum()
            ratio = shared / max(own, epsilon) if max(own, epsilon) > 0 else math.inf
            factor = 1 + given.get("r", 0.1) * min(max(ratio, 0), given.get("alpha", 0.2))
        result = result + act * delta * np.where(count > 1, 1 / np.maximum(count, 1), factor)
    return np.asarray(result)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "given"), CASES, ids=str)
@pytest.mark.parametrize("models", [1, 2, 5])
def test_equals_the_formula(method: str, given: dict[str, Any], shape: tuple[int, ...], models: int) -> None:
    stack = tensors(shape, models=models)
    got, expected = merge_tensors(stack, method, given, base=0), formula(method, stack, given)
    assert got.shape == shape
    rms = math.sqrt(np.mean(expected**2)) if expected.size else 0.0
    assert (np.abs(got.double().numpy() - expected) <= 2e-6 * np.maximum(np.abs(expected), rms)).all()


B = [[0.5, -0.25, 1], [0.05, 0.75, -1]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]
SAME_SECOND = [[0.43, -0.25, 1.2], [0.33, 0.69, -0.55]]


@pytest.mark.parametrize(
    ("method", "other", "given", "expected"),
    [
        ("ram", N, {}, [[0.57, -0.11, 1.35], [0.055, 0.705, -0.85]]),
        ("ramplus_tl", SAME_SECOND, {"r": 0.5, "alpha": 1}, [[0.57, -0.415, 1.35], [0.055, 0.705, -0.85]]),
        ("ramplus_tl", N, {"epsilon": 0.07}, [[0.7142, -0.11, 1.35], [0.055, 0.75, -0.85]]),
    ],
)
def test_known_values(
    method: str, other: list[list[float]], given: dict[str, Any], expected: list[list[float]]
) -> None:
    got = merge_tensors([torch.tensor(values) for values in (B, M, other)], method, given, base=0)
    assert torch.allclose(got, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("method", [Ram(epsilon=0.1), RamPlusTl(epsilon=0.1, r=0.5, alpha=9.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tiles_change_no_bit(method: Ram | RamPlusTl, dtype: torch.dtype) -> None:
    base, *models = tensors((5, 9001), dtype)
    models[1].view(-1)[: 2 * BLOCK] = base.view(-1)[: 2 * BLOCK]  # so that the share of changes differs between tiles
    whole = merge_tiled(method, models, 10**9, base=base)
    for elements in (BLOCK, 2 * BLOCK):
        assert torch.equal(merge_tiled(method, models, elements, base=base), whole)


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_nan_stays_in_its_place(method: str) -> None:
    stack = tensors((33, 70))
    stack[2][4, 5] = math.nan
    assert merge_tensors(stack, method, base=0).isnan().nonzero().tolist() == [[4, 5]]
