"""Cached masks equal the computed ones for any shape, and the cache stays within its capacity."""

from __future__ import annotations

import pytest
import torch
from mergecore_numerics import Masks
from torch import Tensor


class Made:
    """Mask function that counts its calls."""

    def __init__(self, *shape: int) -> None:
        self.mask = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()
        self.times = 0

    def __call__(self) -> Tensor:
        self.times += 1
        return self.mask.clone()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (3, 5), (2, 1, 9)])
def test_a_kept_mask_is_the_one_that_was_made(shape: tuple[int, ...]) -> None:
    masks, made = Masks(), Made(*shape)
    for _ in range(3):
        got = masks.get(3, 7, made.mask, made)
        assert got.dtype == torch.float32 and got.shape == made.mask.shape and torch.equal(got, made.mask)
        got.fill_(5)  # a new tensor, so the cached mask does not change
    assert made.times == 1


def test_what_has_no_room_is_made_anew() -> None:
    masks, small, large = Masks(10), Made(64), Made(17)
    for _ in range(2):
        assert torch.equal(masks.get(1, 0, small.mask, small), small.mask)
        assert torch.equal(masks.get(2, 0, large.mask, large), large.mask)
    assert (small.times, large.times) == (1, 2)
    none, made = Masks(0), Made(1)
    assert none.get(0, 0, made.mask, made).shape == none.get(0, 0, made.mask, made).shape and made.times == 2
