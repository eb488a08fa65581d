"""Compare exact selection by magnitude with a stable sort, at full scale and at a small scale that takes every path."""

import math
import subprocess
import sys
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergecore_numerics import BLOCK, Cut, _cuts, _search, keep_largest, largest, nonzeros
from torch import Tensor

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-40, 3.4e38, math.inf, -math.inf, math.nan, 0.5, 0.25]


class Tiles(Sequence[list[Tensor]]):
    """Tiles sliced on access, with a count of the accesses."""

    def __init__(self, models: Sequence[Tensor], length: int) -> None:
        self.models, self.length, self.reads = models, length, 0

    def __len__(self) -> int:
        return max(1, -(-self.models[0].numel() // self.length))

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.reads += 1
        return [model[index * self.length : (index + 1) * self.length] for model in self.models]


def kept(x: Tensor, count: int) -> np.ndarray:
    """Select by sorting: NaN first, then by magnitude, then by index."""
    values = x.double().numpy()
    nan = np.isnan(values)
    order = np.lexsort((np.arange(len(values)), -np.abs(np.where(nan, 0, values)), ~nan))
    mask = np.zeros(len(values), bool)
    mask[order[: max(count, 0)]] = True
    return mask


def check(models: Sequence[Tensor], counts: Sequence[int], length: int) -> Tiles:
    tiles = Tiles(models, length)
    cuts = largest(tiles, counts)
    reads = tiles.reads
    for place, (x, count, cut) in enumerate(zip(models, counts, cuts, strict=True)):
        mask, nan = kept(x, count), x.isnan().numpy()
        size, index = x.double().abs().numpy(), np.arange(len(mask))
        by_cut = (size > cut.threshold) | (size == cut.threshold) & (index <= cut.last)
        np.testing.assert_array_equal(by_cut, mask & ~nan)
        expected = torch.where(torch.from_numpy(mask | nan), x, 0)
        tile_outputs = [keep_largest(tiles[i][place], cut, i * length) for i in range(len(tiles))]
        torch.testing.assert_close(torch.cat(tile_outputs), expected, rtol=0, atol=0, equal_nan=True)
    tiles.reads = reads
    return tiles


def data(kind: str, count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count)
    if kind == "bf16 deltas":
        base = torch.from_numpy(rng.standard_normal(count) * 0.02).bfloat16().float()
        return (base + torch.from_numpy(x * 1e-3).float()).bfloat16().float() - base
    with np.errstate(over="ignore"):
        values = {
            "normal": x,
            "equal": np.full(count, -0.1),
            "all zero": np.zeros(count),
            "half zero": np.where(rng.random(count) < 0.5, 0, x),
            "two values": np.where(rng.random(count) < 0.5, 1, -2),
            "integers": np.round(x * 3),
            "denormal": x * 1e-43,
            "wide": np.exp(40 * x) * np.sign(x),
            "special": rng.choice(SPECIAL, count),
            "rising": np.linspace(0, 1, count),
            "blocks": x * np.exp(np.arange(count) // (BLOCK // 2) % 7),
            "columns": x * (1 + 100 * (np.arange(count) % 64 == 0)),
        }[kind].astype(np.float32)
    return torch.from_numpy(values)


KINDS = ["normal", "bf16 deltas", "equal", "all zero", "half zero", "two values", "integers", "denormal", "wide"]
KINDS += ["special", "rising", "blocks", "columns"]


@pytest.mark.parametrize("kind", KINDS)
def test_largest_at_full_scale(kind: str) -> None:
    count = 400_003
    x = data(kind, count)
    models = [x, x.double() / 3, x, x]
    counts = [count // 5, count // 2, count - 7, 11]
    tiles = check(models, counts, BLOCK)
    assert tiles.reads <= 4 * len(tiles)
    assert largest([models], counts) == largest(Tiles(models, 9 * BLOCK), counts) == largest(tiles, counts)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_largest_where_hardly_anything_fits_in_memory(draw: st.DataObject) -> None:
    """With samples, pieces, and memory of only a few elements, thinning, misses, and bisection are frequent."""
    count = draw.draw(st.integers(0, 700))
    length = draw.draw(st.sampled_from([1, 7, 40, 64, 1000]))
    kinds = draw.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    dtype = draw.draw(st.sampled_from([torch.float32, torch.float64]))
    models = [data(kind, count, seed).to(dtype) for seed, kind in enumerate(kinds)]
    counts = [draw.draw(st.integers(-1, count + 1)) for _ in kinds]
    see = _search.Search.see

    def watched(search: _search.Search, piece: _search.Bits) -> None:
        see(search, piece)
        assert search.fill <= search.picked.size <= 96
        assert search.passes <= _search._PATIENCE + 66

    patience = draw.draw(st.sampled_from([0, 1, 6]))
    with (
        mock.patch.multiple(_search, SAMPLE=32, _PATIENCE=patience),
        mock.patch.multiple(_cuts, SAMPLE=32, _CHUNK=16, _HELD=3 * 32 * 4),
        mock.patch.object(_search.Search, "see", watched),
    ):
        check(models, counts, length)


@given(values=st.lists(st.floats(width=32) | st.sampled_from(SPECIAL), max_size=30), count=st.integers(-2, 33))
def test_largest_of_a_few(values: list[float], count: int) -> None:
    check([torch.tensor(values, dtype=torch.float32)], [count], BLOCK)


def test_counts_beyond_the_tensor() -> None:
    x = torch.tensor([1.0, 0.0, -3.0])
    assert largest([[x, x, x]], [0, 3, 9]) == [Cut(math.inf, -1), Cut(0.0, 2), Cut(0.0, 2)]
    assert largest([[torch.empty(0)]], [1]) == largest([], [1]) == [Cut(0.0, -1)]
    assert largest([[x]], [2]) == [Cut(1.0, 2)]
    assert largest([[x, x]], [-1, 0]) == [Cut(math.inf, -1)] * 2


def test_equals_are_kept_from_the_front() -> None:
    x = torch.tensor([2.0, -2.0, 5.0, 2.0, 0.0, 0.0])
    assert largest([[x, x]], [3, 5]) == [Cut(2.0, 1), Cut(0.0, 4)]


def test_nan_uses_up_the_count_and_is_never_dropped() -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf, 2.0, -torch.nan])
    cuts = largest([[x, x, x]], [1, 3, 4])
    outputs = [keep_largest(x, cut, 0).nan_to_num(7, 9).tolist() for cut in cuts]
    assert outputs == [[0, 7, 0, 0, 7], [0, 7, 9, 0, 7], [0, 7, 9, 2, 7]]


def test_keep_largest_at_the_threshold_in_every_lane() -> None:
    for threshold in (0.0, 1e-45, 1.5, math.inf):
        x = torch.full((37,), threshold) * torch.tensor([-1.0, 1.0]).repeat(19)[:37]
        for last in range(-1, 38):
            output = keep_largest(x, Cut(threshold, last + 100), 100)
            assert torch.equal(output, torch.where(torch.arange(37) <= last, x, 0))


def test_a_common_case_takes_one_pass_and_little_memory() -> None:
    count = 2**21
    models = [data("normal", count), data("bf16 deltas", count), data("two values", count)]
    tiles = Tiles(models, 2**15)
    with mock.patch.object(_cuts, "_HELD", 2**20):
        largest(tiles, [count // 5, count // 2, int((models[2] == -2).sum()) - 9])
    assert tiles.reads <= len(tiles) * (1 + 1 / 8) + 3


def test_other_dtypes_are_refused() -> None:
    x = torch.ones(3, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="bfloat16"):
        largest([[x]], [1])
    with pytest.raises(TypeError, match="bfloat16"):
        keep_largest(x, Cut(0.0, -1), 0)


MEMORY = """
import ctypes, resource, sys
import torch
from mergecore_numerics import largest

if sys.platform == "linux":  # same heap settings as a merge: freed pages stay, which makes fragmentation visible
    try:
        ctypes.CDLL(None).mallopt(-3, 2**25), ctypes.CDLL(None).mallopt(-1, 2**30)
    except AttributeError:
        pass
LENGTH, NUMBER = 2**17, 1526  # 2e8 elements
kind, dtype = sys.argv[1], getattr(torch, sys.argv[2])
pattern = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0), dtype=dtype)
pattern = {"normal": pattern, "equal": pattern * 0 + 0.1, "half zero": pattern.relu(),
           "quantized": (pattern * 20).round() / 20, "wide": (pattern * 20).exp()}[kind]

class Tiles:
    def __len__(self):
        return NUMBER
    def __getitem__(self, index):
        shift = 0 if kind in ("equal", "half zero", "quantized") else index * 1e-9
        return [pattern * (1 + shift)] * 3

counts = [NUMBER * LENGTH // 5, NUMBER * LENGTH // 2, NUMBER * LENGTH - 9]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
largest([[pattern] * 3], [9, 99, 999])
before = peak()
largest(Tiles(), counts)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["normal", "equal", "half zero", "quantized", "wide"])
def test_memory_stays_far_below_the_tensor(kind: str, dtype: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, kind, dtype], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 56, "MiB held while selecting from 0.75 or 1.5 GiB per model"


def test_nonzeros_counts_nan_but_no_zero() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -2.0, math.nan, math.inf])
    assert nonzeros([[x, 0 * x[:6]], [x[:2], x[2:4]]]) == [4, 4]
