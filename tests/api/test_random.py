"""Random numbers depend only on seed, weight, model, and element index, and look random."""

from dataclasses import replace

import pytest
import torch

from mergecore.api import Context
from mergecore.api.random import WRAP, uniform

N = 2**18


def test_any_cut_gives_the_same_numbers():
    whole = uniform("key", 5, 1000)
    for cut in (1, 7, 999):
        assert torch.equal(whole, torch.cat([uniform("key", 5, cut), uniform("key", 5 + cut, 1000 - cut)]))


def test_indices_beyond_32_bits_go_on_without_a_seam():
    across = uniform("key", WRAP - 3, 6)
    assert torch.equal(across, torch.cat([uniform("key", WRAP - 3, 3), uniform("key", WRAP, 3)]))
    assert not torch.equal(uniform("key", 0, 6), uniform("key", WRAP, 6))


def test_a_tile_takes_its_shape_and_place():
    ctx = Context(name="w", seed=1)
    tile = replace(ctx, offset=6).random(0, torch.zeros(2, 3))
    assert torch.equal(tile.reshape(-1), ctx.random(0, torch.zeros(12))[6:])


@pytest.mark.parametrize("other", [{"seed": 2}, {"name": "v"}, {"offset": N}])
def test_streams_differ_and_are_unrelated(other):
    ctx, like = Context(name="w", seed=1), torch.zeros(N)
    one, two = ctx.random(0, like), replace(ctx, **other).random(0, like)
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 5 / N**0.5
    assert abs(torch.corrcoef(torch.stack([one, ctx.random(1, like)]))[0, 1]) < 5 / N**0.5


def test_numbers_are_uniform_and_neighbors_unrelated():
    x = uniform("key", 0, N)
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 5 / (12 * N) ** 0.5
    for numbers in (x, x[::2], x[::64]):
        bins = 64
        expected = len(numbers) / bins
        chi = ((torch.histc(numbers, bins, 0, 1) - expected) ** 2 / expected).sum()
        assert chi < bins + 6 * (2 * bins) ** 0.5
    for lag in (1, 2, 64, 4096):
        assert abs(torch.corrcoef(torch.stack([x[:-lag], x[lag:]]))[0, 1]) < 5 / N**0.5


def test_the_bits_are_the_same_everywhere():
    assert (uniform("mergecore", 0, 4) * 2**24).int().tolist() == GOLDEN


GOLDEN = [1233083, 3447315, 6079419, 6175468]
