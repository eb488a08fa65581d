"""Thinned task vectors keep their L1 norm in any tiling. A density of 1 drops nothing and draws no masks."""

from __future__ import annotations

import pytest
import torch
from mergecore_numerics import BLOCK, thin, thinned
from torch import Tensor

SIZE = 3 * BLOCK + 5
DENSITIES = [0.3, 1.0, 0.8]


class Drawn:
    """Mask function that records which tiles it was called for."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.masks = [(torch.rand(SIZE, generator=draw) < density).float() for density in DENSITIES]
        self.asked: list[tuple[int, int]] = []

    def __call__(self, model: int, delta: Tensor, offset: int) -> Tensor:
        self.asked.append((model, offset))
        return self.masks[model][offset : offset + delta.numel()].clone()


@pytest.fixture
def deltas() -> list[Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(SIZE, generator=draw) for _ in DENSITIES]


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_norm_of_the_whole_comes_back(deltas: list[Tensor], blocks: int) -> None:
    draw, starts = Drawn(), range(0, SIZE, blocks * BLOCK)
    tiles = [[delta[start : start + blocks * BLOCK] for delta in deltas] for start in starts]
    found = thinned(tiles, DENSITIES, draw)
    cut = [thin(tile, DENSITIES, draw, found.masks, start) for tile, start in zip(tiles, starts, strict=True)]
    kept = [torch.cat(parts) for parts in zip(*cut, strict=True)]
    for model, (delta, mask) in enumerate(zip(deltas, draw.masks, strict=True)):
        expected = delta if DENSITIES[model] == 1 else delta * mask
        assert torch.equal(kept[model], expected)
        norm = found.scales[model] * expected.double().abs().sum().item()
        assert norm == pytest.approx(delta.double().abs().sum().item(), rel=1e-6)
    assert sorted(draw.asked) == sorted((model, start) for model in (0, 2) for start in starts), "each drawn once"


def test_nothing_is_drawn_before_it_is_needed(deltas: list[Tensor]) -> None:
    draw = Drawn()
    assert thinned([deltas], DENSITIES, draw, rescale=False).scales == [1.0, 1.0, 1.0]
    whole = thinned([deltas], [1.0, 1.0, 1.0], draw)
    assert whole.scales == [1.0, 1.0, 1.0] and not draw.asked
    assert thin(deltas, [1.0, 1.0, 1.0], draw, whole.masks, 0)[1] is deltas[1]
