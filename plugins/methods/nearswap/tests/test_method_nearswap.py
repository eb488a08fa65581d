"""Compare NearSwap with its interpolation formula in NumPy float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_nearswap import NearSwap
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

import mergecore
from mergecore.api import BLOCK, InputError

test_conformance = conformance("nearswap")

SHAPES = [(), (1,), (0,), (7,), (5, 3), (2, 3, 4, 5), (70, 1000)]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(base: Tensor, other: Tensor, t: float) -> Any:
    b, x = base.double().numpy(), other.double().numpy()
    share = np.clip(t / np.maximum(np.abs(b - x), 1e-30), 0, 1)
    return share * x + (1 - share) * b


@pytest.mark.parametrize("t", [0.0, 1e-4, 0.3, 2.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(t: float, shape: tuple[int, ...]) -> None:
    base, other = normal(shape, 1), normal(shape, 2)
    got = merge_tiled(NearSwap(t=t), [other], 2**17, base=base)
    assert got.shape == shape
    if got.numel():
        exact = formula(base, other, t)
        assert np.abs(got.double().numpy() - exact).max() < 2e-6 * np.abs(exact).max()


def test_known_values() -> None:
    base, other = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]], [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]
    got = merge_tiled(NearSwap(t=0.1), [torch.tensor(other)], BLOCK, base=torch.tensor(base))
    assert got.numpy() == pytest.approx(np.array([[0.61, -0.26, 1.4], [-0.12, 0.69, -1.05]]), abs=2e-6)
    assert merge_tiled(NearSwap(t=0.1), [torch.tensor(3.0)], BLOCK, base=torch.tensor(1.0)).item() == pytest.approx(1.1)


def test_the_base_stays_bit_for_bit_where_nothing_may_move() -> None:
    base, other = normal((70, 301), 1), normal((70, 301), 2)
    assert torch.equal(merge_tiled(NearSwap(t=0.0), [other], BLOCK, base=base), base)


def test_a_threshold_below_a_millionth_still_swaps_what_is_nearer() -> None:
    base, other = torch.zeros(3), torch.tensor([1e-8, -3e-7, 1.0])
    assert torch.equal(merge_tiled(NearSwap(t=1e-7), [other], BLOCK, base=base), torch.tensor([1e-8, -1e-7, 1e-7]))


def test_nan_stays_where_it_is() -> None:
    base, other = normal((3,), 1), torch.tensor([1.0, math.nan, 2.0])
    assert merge_tiled(NearSwap(t=0.1), [other], BLOCK, base=base).isnan().tolist() == [False, True, False]


def test_a_negative_t_is_refused() -> None:
    with pytest.raises(InputError, match="t: must be at least 0"):
        mergecore.merge_tensors([torch.zeros(2), torch.ones(2)], "nearswap", {"t": -0.1}, base=1)
