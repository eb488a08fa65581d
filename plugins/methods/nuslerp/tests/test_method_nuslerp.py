"""Compare NuSLERP with its formula in NumPy float64, including degenerate angles."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_nuslerp import NuSlerp
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore.api import BLOCK, Tile

test_conformance = conformance("nuslerp", identical="exact", symmetric=True)

MODES = [{}, {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}]
SHAPES = [(), (1,), (0,), (0, 3), (7,), (5, 3), (2, 3, 4, 5), (1, 1), (6, 1), (40000,), (70, 1000), (3, 40000)]
B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arc(x: Any, y: Any, t: float, axis: int | None) -> Any:
    """Interpolate from x to y along `axis` (None: one vector), linearly if they are equal or opposite."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = np.sqrt((x * x).sum(axis, keepdims=True) * (y * y).sum(axis, keepdims=True))
    cosine = np.clip((x * y).sum(axis, keepdims=True) / np.where(norms == 0, 1, norms), -1, 1)
    straight = (cosine > 1 - 1e-14) | (cosine < -0.9995)
    angle = np.where(straight, 1, np.arccos(cosine))
    curved = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    return np.where(straight, (1 - t) * x + t * y, curved)


def formula(x: Tensor, y: Tensor, base: Tensor | None, t: float, mode: dict[str, bool]) -> Any:
    axis = None
    if mode and x.dim() > 1:
        axis = 0 if len(mode) == 2 else -1
    start = 0 if base is None else base.double().numpy()
    return start + arc(x.double().numpy() - start, y.double().numpy() - start, t, axis)


def error(got: Tensor, exact: Any) -> float:
    return float(np.abs(got.double().numpy() - exact).max() / np.abs(exact).max()) if got.numel() else 0.0


@pytest.mark.parametrize("mode", MODES, ids=["flat", "rows", "columns"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weight", [(1.0, 1.0), (0.3, 0.5), (0.5, -0.2)])
@pytest.mark.parametrize("based", [False, True])
def test_formula(mode: dict[str, bool], shape: tuple[int, ...], weight: tuple[float, float], based: bool) -> None:
    x, y, base = normal(shape, 1), normal(shape, 2) + 0.3, normal(shape, 3) if based else None
    got = merge_tiled(NuSlerp(weight=weight, **mode), [x, y], 2**17, base=base)
    assert got.shape == shape
    assert error(got, formula(x, y, base, weight[1] / sum(weight), mode)) < 2e-6


@pytest.mark.parametrize(
    ("base", "mode", "expected"),
    [
        (None, MODES[0], [[0.613183, -0.163314, 1.415649], [0.000969, 0.726508, -0.932799]]),
        (None, MODES[1], [[0.606007, -0.161749, 1.398797], [0.001764, 0.741486, -0.951239]]),
        (None, MODES[2], [[0.667918, -0.166987, 1.388255], [0.004585, 0.747111, -0.91528]]),
        (B, MODES[0], [[0.642599, -0.085886, 1.587342], [-0.004925, 0.682318, -0.831507]]),
    ],
)
def test_known_values(base: Any, mode: dict[str, bool], expected: Any) -> None:
    models = [torch.tensor(M), torch.tensor(N)]
    got = merge_tiled(
        NuSlerp(weight=(0.6, 0.4), **mode), models, BLOCK, base=None if base is None else torch.tensor(base)
    )
    assert got.numpy() == pytest.approx(np.array(expected), abs=2e-6)


@pytest.mark.parametrize("mode", MODES, ids=["flat", "rows", "columns"])
def test_equal_models_give_that_model(mode: dict[str, bool]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = normal((70, 301), 1).to(dtype)
        method = NuSlerp(weight=(0.3, 0.5), **mode)
        assert torch.equal(merge_tiled(method, [x, x], BLOCK), x)
        assert torch.equal(merge_tiled(method, [x, x], BLOCK, base=x), x)


@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2])
def test_nearly_parallel_vectors(distance: float) -> None:
    x = normal((30, 50), 1)
    y = x + distance * normal((30, 50), 2)
    for mode in MODES:
        assert (
            error(merge_tiled(NuSlerp(weight=(0.3, 0.5), **mode), [x, y], BLOCK), formula(x, y, None, 0.625, mode))
            < 2e-7
        )


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 0.02, 0.05, 0.5])
def test_nearly_opposite_vectors(distance: float) -> None:
    x = normal((100_000,), 1)
    y = -x + distance * normal((100_000,), 2)
    got = merge_tiled(NuSlerp(weight=(0.3, 0.5)), [x, y], BLOCK)
    assert error(got, formula(x, y, None, 0.625, {})) < 2e-6


def test_single_values() -> None:
    one = torch.ones(1)
    assert merge_tiled(NuSlerp(weight=(0.25, 0.75)), [-one, one], BLOCK).item() == 0.5
    assert merge_tiled(NuSlerp(weight=(1.0, 1.0)), [0 * one, one], BLOCK).item() == pytest.approx(math.sqrt(0.5))
    assert merge_tiled(NuSlerp(weight=(1.0, -1.0)), [one, 3 * one], BLOCK).item() == 2  # the weights cancel: t = 0.5
    assert merge_tiled(NuSlerp(weight=(1.0, 1.0)), [0 * one, 0 * one], BLOCK).item() == 0
    tiny = torch.tensor([1e-30, 0.0]), torch.tensor([0.0, 1e-30])
    assert merge_tiled(NuSlerp(weight=(1.0, 1.0)), tiny, BLOCK).tolist() == pytest.approx([math.sqrt(0.5) * 1e-30] * 2)


def test_zero_and_nan_rows_keep_to_themselves() -> None:
    x, y = normal((4, 5), 1), normal((4, 5), 2)
    x[1], y[2, 3] = 0, math.nan
    got = merge_tiled(NuSlerp(weight=(1.0, 1.0), nuslerp_flatten=False), [x, y], BLOCK)
    assert got.isnan().nonzero()[:, 0].unique().tolist() == [2]
    assert torch.allclose(got[1], math.sqrt(0.5) * y[1])
    for mode in MODES:
        assert merge_tiled(NuSlerp(weight=(1.0, 1.0), **mode), [x, y], BLOCK)[2, 3].isnan()


def test_no_mode_needs_the_whole_tensor() -> None:
    tiles = [NuSlerp(weight=(1.0, 1.0), **mode).tile for mode in MODES]
    assert tiles == [Tile.ELEMENTS, Tile.ROWS, Tile.ROWS]
