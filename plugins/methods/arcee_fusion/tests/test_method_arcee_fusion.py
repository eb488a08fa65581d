"""Compare Arcee Fusion with a NumPy float64 reference that sorts all importances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_arcee_fusion import ArceeFusion
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

import mergecore
from mergecore.api import BLOCK, Context

test_conformance = conformance("arcee_fusion", identical="exact")

SHAPES = [
    (),
    (1,),
    (2,),
    (0,),
    (0, 3),
    (4,),
    (7,),
    (5, 3),
    (2, 3, 4, 5),
    (1, 1),
    (6, 1),
    (40000,),
    (70, 1000),
    (3, 40000),
]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(base: Tensor, other: Tensor) -> tuple[Any, Any]:
    """Return the expected result and each importance's relative distance from the threshold."""
    b, x = (np.atleast_1d(tensor.double().numpy()) for tensor in (base, other))
    p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) + 1e-8 for v in (x, b))
    importance = np.abs(x - b) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[math.floor(share * (ordered.size - 1))] for share in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    merged = np.where(importance >= threshold, x, b).reshape(tuple(base.shape))
    return merged, np.abs(importance - threshold) / threshold if threshold else np.zeros(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("scale", "distance"), [(1.0, 1.0), (0.02, 0.001), (3.0, 0.1), (0.02, 1e-5)])
def test_formula(shape: tuple[int, ...], scale: float, distance: float) -> None:
    base = scale * normal(shape, 1)
    other = base + distance * normal(shape, 2) ** 3
    got = merge_tiled(ArceeFusion(), [other], 2**17, base=base)
    assert got.shape == shape
    if got.numel():
        merged, margin = formula(base, other)
        # Every element comes from one of the two models. Only elements that round across the threshold may differ.
        wrong = np.flatnonzero(got.double().numpy() != merged)
        assert wrong.size <= 2 and (margin.ravel()[wrong] < 1e-5).all()


def test_known_values() -> None:
    base, other = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]], [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]
    got = merge_tiled(ArceeFusion(), [torch.tensor(other)], BLOCK, base=torch.tensor(base))
    assert torch.equal(got, torch.tensor([[0.71, -0.36, 1.5], [-0.22, 0.72, -0.55]]))
    few = torch.tensor([1.0, 2.0, 4.0])  # quartiles 1, 2, 2: outliers start at 3.5
    assert merge_tiled(ArceeFusion(), [few], BLOCK, base=torch.zeros(3)).tolist() == [0, 0, 4]


def test_rounding_makes_no_divergence_negative() -> None:
    base = 0.02 * normal((500, 64), 1)
    divergences, _ = ArceeFusion().measure([[base, base * (1 + 1e-7 * normal((500, 64), 2))]], Context(shape=(500, 64)))
    assert (divergences >= 0).all() and (divergences > 0).any()


def test_what_is_not_important_is_the_base_bit_for_bit_in_its_dtype() -> None:
    base = normal((60, 80), 1).bfloat16()
    other = base.clone()
    other[3, 5] += 1
    got = mergecore.merge_tensors([other, base], "arcee_fusion", base=1)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, other)  # all quartiles are 0, so every element passes
    other = (base.float() + 0.01 * normal((60, 80), 2) ** 3).bfloat16()
    got = mergecore.merge_tensors([other, base], "arcee_fusion", base=1)
    assert ((got == base) | (got == other)).all() and torch.equal(got.double(), torch.tensor(formula(base, other)[0]))


def test_no_information_no_choice() -> None:
    base, other = torch.zeros(6, 1), normal((6, 1), 1)  # the softmax of a single value is always 1
    assert torch.equal(merge_tiled(ArceeFusion(), [other], BLOCK, base=base), other)


def test_nan_stays_where_it_is() -> None:
    base, other = normal((8, 6), 1), normal((8, 6), 2)
    other[2, 3] = math.nan
    assert merge_tiled(ArceeFusion(), [other], BLOCK, base=base).isnan().nonzero().tolist() == [[2, 3]]
