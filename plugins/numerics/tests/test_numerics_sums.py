"""Compare streaming dot products with extended precision. Results are bitwise equal for every tiling."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergecore_numerics import BLOCK, absolute_sums, dots
from torch import Tensor

PAIRS = [(0, 0), (0, 1), (1, 1)]


def tiled(models: Sequence[Tensor], length: int) -> list[list[Tensor]]:
    return [[model[i : i + length] for model in models] for i in range(0, models[0].numel(), length)]


def normal(count: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


MODELS = (normal(9 * BLOCK + 77, 1), normal(9 * BLOCK + 77, 2))
WHOLE = dots([MODELS], PAIRS)


@given(blocks=st.integers(1, 11), shift=st.integers(0, 16), threads=st.integers(1, 2))
@settings(deadline=None, max_examples=40)
def test_same_bits_for_every_tiling_alignment_and_thread_count(blocks: int, shift: int, threads: int) -> None:
    moved = [torch.cat([torch.zeros(shift), model])[shift:] for model in MODELS]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert dots(tiled(moved, blocks * BLOCK), PAIRS) == WHOLE
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (normal(1_000_003, 3), normal(1_000_003, 4)),
        (normal(1_000_003, 3, 0.02).bfloat16().float(), normal(1_000_003, 4, 1e-3).bfloat16().float()),
        (torch.full((1_000_003,), 1 / 3), torch.full((1_000_003,), 0.7)),
        (torch.exp(3 * normal(1_000_003, 5)), -torch.exp(3 * normal(1_000_003, 6))),
        (normal(1_000_003, 3, 1e-30), normal(1_000_003, 4, 1e-42)),
        (normal(1_000_003, 3, 1e25), normal(1_000_003, 4, 1e30)),
        (torch.zeros(1_000_003), normal(1_000_003, 4)),
    ],
    ids=["normal", "bf16", "constant", "lognormal", "tiny", "huge", "zero"],
)
def test_error_is_below_1e_7_of_the_norms(one: Tensor, other: Tensor) -> None:
    exact = [np.asarray(model, np.longdouble) for model in (one, other)]
    for pair, value in zip(PAIRS, dots(tiled([one, other], 4 * BLOCK), PAIRS), strict=True):
        size = math.prod(np.sqrt(np.square(exact[model]).sum()) for model in pair)
        assert abs(value - (exact[pair[0]] * exact[pair[1]]).sum()) <= 1e-7 * size


def test_float64_is_summed_in_float64() -> None:
    one = normal(3 * BLOCK + 5, 7).double() / 3
    assert dots(tiled([one], BLOCK), [(0, 0)])[0] == pytest.approx(math.fsum((one * one).tolist()), rel=1e-14)


def test_small_and_empty_tensors() -> None:
    assert dots([[torch.tensor([3.0]), torch.tensor([-2.0])]], PAIRS) == [9.0, -6.0, 4.0]
    assert dots([[torch.empty(0), torch.empty(0)]], PAIRS) == dots([], PAIRS) == [0.0, 0.0, 0.0]
    assert dots([[torch.ones(5)]], []) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, BLOCK + 3, 2 * BLOCK + 1])
def test_nan_and_infinity_propagate(value: float, place: int) -> None:
    one = torch.ones(2 * BLOCK + 9)
    one[place] = value
    assert str(dots(tiled([one], BLOCK), [(0, 0)])[0]) == str(value)


def test_each_tile_is_read_once() -> None:
    class Tiles(list[list[Tensor]]):
        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.reads += 1
            return super().__getitem__(index)

    tiles = Tiles(tiled(MODELS, 2 * BLOCK))
    assert dots(tiles, PAIRS) == WHOLE
    assert tiles.reads == len(tiles)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absolute_sums_are_l1_norms_for_every_tiling(dtype: torch.dtype) -> None:
    tensors = [torch.randn(5 * BLOCK + 77, dtype=dtype), torch.zeros(5 * BLOCK + 77, dtype=dtype)]
    whole = absolute_sums([tensors])
    assert whole == pytest.approx([float(tensor.double().abs().sum()) for tensor in tensors], rel=1e-7)
    tiles = [[tensor[start : start + 2 * BLOCK] for tensor in tensors] for start in range(0, 5 * BLOCK + 77, 2 * BLOCK)]
    assert absolute_sums(iter(tiles)) == whole
