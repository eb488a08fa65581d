"""Compare plain sums and L1 scales with their formulas. Results are bitwise equal for every tiling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from mergecore_numerics import BLOCK, Mapped, l1_scales, plain_sum
from torch import Tensor


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(models: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    return [[model[i : i + count] for model in models] for i in range(0, len(models[0]), count)]


def positive(deltas: Sequence[Tensor], offset: int) -> list[Tensor]:
    """Keep positive values, except among the first five elements."""
    places = torch.arange(offset, offset + deltas[0].numel()).view(deltas[0].shape)
    return [delta.clamp(min=0) * (places >= 5) for delta in deltas]


MODELS = [normal(70, 701, seed=1), normal(70, 701, seed=2) * 1e-5]


@pytest.mark.parametrize("count", [1, 3, 23, 24, 69, 70])
def test_l1_scales_have_the_same_bits_however_rows_are_cut(count: int) -> None:
    assert l1_scales(rows(MODELS, count), positive) == l1_scales([MODELS], positive)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_l1_scales_of_flat_tiles_are_those_of_rows(blocks: int) -> None:
    flat = [model.flatten() for model in MODELS]
    assert l1_scales(rows(flat, blocks * BLOCK), positive) == l1_scales([MODELS], positive)


def test_l1_scales_equal_the_formula() -> None:
    for scale, model in zip(l1_scales([MODELS], positive), MODELS, strict=True):
        values = model.double().numpy().ravel()
        assert scale == pytest.approx(np.abs(values).sum() / values[5:].clip(min=0).sum(), rel=1e-7)


@pytest.mark.parametrize(
    ("value", "kept"), [(1.0, 0.0), (1e-8, 1e-8), (1.0, 1e-8), (math.nan, 1.0), (math.inf, 1.0), (math.nan, math.nan)]
)
def test_what_has_no_ratio_is_not_scaled(value: float, kept: float) -> None:
    assert l1_scales([[torch.tensor([value])]], lambda deltas, offset: [torch.tensor([kept])]) == [1.0]
    assert l1_scales([], positive) == []


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(0.7, -0.2, 1.5), (1.0, -1.0, 0.0), (0.0, 0.0, 0.0)])
def test_plain_sum_equals_the_formula(weights: tuple[float, ...], normalize: bool) -> None:
    deltas = [weight * normal(3, 40, seed=seed).double() for seed, weight in enumerate(weights)]
    before = [delta.clone() for delta in deltas]
    expected = np.sum([delta.numpy() for delta in deltas], axis=0)
    if normalize and abs(sum(weights)) > 1e-8:
        expected /= sum(weights)
    np.testing.assert_allclose(plain_sum(deltas, weights, normalize).numpy(), expected, rtol=1e-14)
    assert all(torch.equal(delta, old) for delta, old in zip(deltas, before, strict=True))


def test_mapped_tiles_are_made_at_each_access_with_their_offset() -> None:
    tiles = [[torch.arange(start, min(start + 4, 10))] for start in range(0, 10, 4)]
    calls = []

    def doubled(tile: Sequence[Tensor], offset: int) -> list[Tensor]:
        calls.append(offset)
        return [tile[0] * 2]

    mapped = Mapped(tiles, doubled)
    assert len(mapped) == 3 and calls == []
    assert torch.cat([tile[0] for tile in mapped]).tolist() == list(range(0, 20, 2))
    assert mapped[2][0].tolist() == [16, 18] and calls == [0, 4, 8, 8]
