"""Compare MultiSLERP with its full formula in NumPy float64, including directions that cancel out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_multislerp import MultiSlerp
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore.api import BLOCK, InputError

test_conformance = conformance("multislerp", identical="exact", symmetric=True)

SHAPES = [(), (1,), (0,), (7,), (5, 3), (2, 3, 4, 5), (1, 1), (70, 1000)]
SETTINGS: list[dict[str, Any]] = [
    {"weight": (1.0, 1.0, 1.0)},
    {"weight": (0.7, 0.4, 0.1), "normalize_weights": False},
    {"weight": (2.0, -0.3, 0.4), "eps": 0.3},
    {"weight": (0.6, 0.4)},
]
B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(
    models: Sequence[Tensor],
    base: Tensor | None,
    weight: Sequence[float],
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Any:
    start = 0 if base is None else base.double().numpy()
    y = [model.double().numpy() - start for model in models]
    w = np.array(weight) / (sum(weight) if normalize_weights else 1)
    norms = [np.sqrt((v * v).sum()) for v in y]
    u = [v / (norm + eps) for v, norm in zip(y, norms, strict=True)]
    mean = sum(wi * ui for wi, ui in zip(w, u, strict=True))
    mean = mean / np.sqrt((mean * mean).sum())
    tangent = sum(wi * (ui - (ui * mean).sum() * mean) for wi, ui in zip(w, u, strict=True))
    length = np.sqrt((tangent * tangent).sum()) + eps
    direction = mean * np.cos(length) + tangent * np.sin(length) / length
    return start + direction * (w * norms).sum()


def error(got: Tensor, exact: Any) -> float:
    return float(np.abs(got.double().numpy() - exact).max() / np.abs(exact).max()) if got.numel() else 0.0


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("based", [False, True])
def test_formula(setting: dict[str, Any], shape: tuple[int, ...], based: bool) -> None:
    models = [normal(shape, seed).abs() + 0.1 * normal(shape, seed + 9) for seed in range(len(setting["weight"]))]
    base = 0.02 * normal(shape, 7) if based else None
    got = merge_tiled(MultiSlerp(**setting), models, 2**17, base=base)
    assert got.shape == shape
    if got.numel():
        assert error(got, formula(models, base, **setting)) < 2e-6


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, [[0.605651, -0.127243, 1.425997], [0.045032, 0.741744, -0.907403]]),
        (B, [[0.66225, -0.126164, 1.603013], [-0.046315, 0.685451, -0.879488]]),
    ],
)
def test_known_values(base: Any, expected: Any) -> None:
    start = None if base is None else torch.tensor(base)
    got = merge_tiled(MultiSlerp(weight=(0.6, 0.4)), [torch.tensor(M), torch.tensor(N)], BLOCK, base=start)
    assert got.numpy() == pytest.approx(np.array(expected), abs=2e-6)


@pytest.mark.parametrize("weight", [(2.0,), (1.0, 2.0), (1.0, 1.0, 1.0), (0.1, 0.2, 0.3, 0.4, 0.7)])
def test_equal_models_give_that_model(weight: tuple[float, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = normal((70, 301), 1).to(dtype)
        models = [x] * len(weight)
        assert torch.equal(merge_tiled(MultiSlerp(weight=weight), models, BLOCK), x)
        assert torch.equal(merge_tiled(MultiSlerp(weight=weight), models, BLOCK, base=x), x)


def test_a_lone_model_is_the_result() -> None:
    x, base = normal((5, 3), 1), normal((5, 3), 2)
    assert torch.equal(merge_tiled(MultiSlerp(weight=(0.0,)), [x], BLOCK), x)
    assert torch.allclose(merge_tiled(MultiSlerp(weight=(0.3,)), [x], BLOCK, base=base), x, atol=1e-6)


@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-4])
def test_directions_that_cancel_give_the_weighted_sum(distance: float) -> None:
    x = normal((50, 40), 1)
    y = -2 * x + distance * normal((50, 40), 2)
    got = merge_tiled(MultiSlerp(weight=(1.0, 1.0)), [x, y], BLOCK)
    assert torch.allclose(got, (x + y) / 2, atol=1e-6)
    got = merge_tiled(MultiSlerp(weight=(2.0, 1.0, 1.0)), [x, y, y], BLOCK)
    assert torch.allclose(got, (2 * x + 2 * y) / 4, atol=1e-6)


def test_nearly_parallel_directions() -> None:
    x = normal((50, 40), 1)
    models = [x + 1e-4 * normal((50, 40), seed) for seed in (2, 3, 4)]
    assert (
        error(merge_tiled(MultiSlerp(weight=(1.0, 2.0, 1.0)), models, BLOCK), formula(models, None, (1, 2, 1))) < 2e-7
    )


def test_zero_vectors_and_norms_of_different_size() -> None:
    x, y, zero = normal((5, 3), 1), 1e-6 * normal((5, 3), 2), torch.zeros(5, 3)
    for eps in (0.0, 1e-8):
        got = merge_tiled(MultiSlerp(weight=(1.0, 2.0), eps=eps), [x, y], BLOCK)
        assert error(got, formula([x, y], None, (1, 2), eps=eps)) < 2e-6
        third = merge_tiled(MultiSlerp(weight=(1.0, 2.0), eps=eps), [x, zero], BLOCK)
        assert torch.allclose(third, x / 3)
        assert torch.equal(merge_tiled(MultiSlerp(weight=(1.0, 2.0), eps=eps), [zero, zero], BLOCK), zero)


def test_weights_that_cancel_are_refused_before_any_tensor_is_seen() -> None:
    with pytest.raises(InputError, match=r"0\.1, 0\.2, -0\.3 add up to 0"):
        MultiSlerp(weight=(0.1, 0.2, -0.3))
    got = merge_tiled(MultiSlerp(weight=(1.0, -1.0), normalize_weights=False), [torch.tensor([3.0, 0.0])] * 2, BLOCK)
    assert got.tolist() == [0, 0]
