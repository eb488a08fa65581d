"""Compare Model Stock with its formula in NumPy float64, over whole tensors and by rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_model_stock import ModelStock
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore.api import BLOCK, Tile

test_conformance = conformance("model_stock", identical="rounded", symmetric=True)

SHAPES = [(), (1,), (0,), (0, 3), (7,), (5, 3), (2, 3, 4, 5), (1, 1), (6, 1), (40000,), (70, 1000), (3, 40000)]
B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(models: Sequence[Tensor], base: Tensor, filter_wise: bool) -> Any:
    shape, count = tuple(base.shape), len(models)
    rows = shape if filter_wise and len(shape) > 1 else (1, base.numel())
    start = base.double().numpy().reshape(rows)
    deltas = [model.double().numpy().reshape(rows) - start for model in models]
    cosines = []
    for i in range(count):
        for j in range(i):
            norms = np.linalg.norm(deltas[i], axis=-1) * np.linalg.norm(deltas[j], axis=-1)
            cosines.append((deltas[i] * deltas[j]).sum(-1) / np.where(norms == 0, 1, norms))
    cosine = sum(cosines)[..., None] / len(cosines)
    t = count * cosine / (1 + (count - 1) * cosine)
    return (t * sum(deltas) / count + start).reshape(shape)


def error(got: Tensor, exact: Any) -> float:
    return float(np.abs(got.double().numpy() - exact).max() / np.abs(exact).max()) if got.numel() else 0.0


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_formula(filter_wise: bool, shape: tuple[int, ...], count: int) -> None:
    base, common = normal(shape, 1), normal(shape, 2).abs()
    models = [base + common + 0.3 * normal(shape, seed).abs() for seed in range(3, 3 + count)]
    got = merge_tiled(ModelStock(filter_wise=filter_wise), models, 2**17, base=base)
    assert got.shape == shape
    assert error(got, formula(models, base, filter_wise)) < 2e-6


@pytest.mark.parametrize(
    ("filter_wise", "expected"),
    [
        (False, [[0.459435, -0.331129, 0.797177], [0.047103, 0.776077, -1.086924]]),
        (True, [[0.520611, -0.208778, 1.103054], [-0.008337, 1.275029, -2.750101]]),
    ],
)
def test_known_values(filter_wise: bool, expected: Any) -> None:
    base, *models = (torch.tensor(values) for values in (B, M, N))
    got = merge_tiled(ModelStock(filter_wise=filter_wise), models, BLOCK, base=base)
    assert got.numpy() == pytest.approx(np.array(expected), abs=2e-6)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_equal_models_give_that_model_by_rows_too(filter_wise: bool) -> None:
    x, base = normal((70, 301), 1), normal((70, 301), 2)
    assert torch.allclose(merge_tiled(ModelStock(filter_wise=filter_wise), [x, x], BLOCK, base=base), x, atol=1e-6)


def test_no_mode_needs_the_whole_tensor() -> None:
    assert [ModelStock(filter_wise=mode).tile for mode in (False, True)] == [Tile.ELEMENTS, Tile.ROWS]


def test_angles_beyond_a_right_one_lead_away_and_opposite_ones_nowhere() -> None:
    base = torch.zeros(2)
    at_120 = [torch.tensor([1.0, 0.0]), torch.tensor([-0.5, math.sqrt(0.75)])]  # t = -2
    assert merge_tiled(ModelStock(), at_120, BLOCK, base=base).tolist() == pytest.approx([-0.5, -math.sqrt(0.75)])
    opposite = [torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 0.0])]
    assert merge_tiled(ModelStock(), opposite, BLOCK, base=base).tolist() == [0, 0]


def test_zero_and_small_task_vectors() -> None:
    base, zero, x = torch.zeros(2, 3), torch.zeros(2, 3), normal((2, 3), 1).abs()
    assert torch.equal(merge_tiled(ModelStock(), [zero, x], BLOCK, base=base), zero)
    small = [1e-8 * x, 1e-8 * (x + normal((2, 3), 2).abs())]
    assert error(merge_tiled(ModelStock(), small, BLOCK, base=base), formula(small, base, False)) < 2e-6


def test_nan_gives_nan_and_rows_keep_it_to_themselves() -> None:
    base, *models = (normal((4, 5), seed) for seed in range(4))
    models[1][2, 3] = math.nan
    assert merge_tiled(ModelStock(), models, BLOCK, base=base).isnan().all()
    by_rows = merge_tiled(ModelStock(filter_wise=True), models, BLOCK, base=base)
    assert by_rows.isnan().nonzero()[:, 0].unique().tolist() == [2]
