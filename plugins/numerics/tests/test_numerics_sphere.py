"""Compare dot products with float64. Results are bitwise equal for every tiling, row count, and thread count."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergecore_numerics import BLOCK, cosines, gram, norm_of_sum, row_cosines, row_gram, row_sums, weighted_sum
from torch import Tensor


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


MODELS = [normal((3 * BLOCK + 77,), seed) for seed in range(3)]
ROWS = [normal((7, 3 * BLOCK + 40), seed) for seed in range(2)]
WHOLE, BY_ROWS = gram([MODELS]), row_gram(ROWS)


def test_dot_products_of_all_pairs() -> None:
    exact = np.stack([model.double().numpy() for model in MODELS])
    sizes = np.sqrt(np.outer(np.square(exact).sum(1), np.square(exact).sum(1)))
    assert (np.abs(np.array(WHOLE) - exact @ exact.T) <= 1e-7 * sizes).all()
    rows = np.stack([model.double().numpy() for model in ROWS])
    assert BY_ROWS.numpy() == pytest.approx(np.einsum("irk,jrk->rij", rows, rows), rel=1e-12, abs=1e-9)
    assert row_gram([normal((2, 3, 4), 1)] * 5).shape == (2, 3, 5, 5)
    assert gram([[torch.empty(0)] * 2]) == [[0, 0], [0, 0]]


@given(blocks=st.integers(1, 4), start=st.integers(0, 6), count=st.integers(1, 7), threads=st.integers(1, 2))
@settings(deadline=None, max_examples=30)
def test_same_bits_for_every_tiling_row_and_thread_count(blocks: int, start: int, count: int, threads: int) -> None:
    length = blocks * BLOCK
    tiles = [[model[i : i + length] for model in MODELS] for i in range(0, len(MODELS[0]), length)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert gram(tiles) == WHOLE
        some = [model[start : start + count] for model in ROWS]
        assert torch.equal(row_gram(some), BY_ROWS[start : start + count])
    finally:
        torch.set_num_threads(before)


def test_a_lone_tile_is_read_once() -> None:
    class Tiles(list[list[Tensor]]):
        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.reads += 1
            return super().__getitem__(index)

    tiles = Tiles([MODELS])
    assert gram(tiles) == WHOLE
    assert tiles.reads == 1


def test_rows_as_long_as_one_likes_and_none() -> None:
    ones = torch.ones(2, 3 * BLOCK + 1, dtype=torch.float64)
    assert row_sums(ones).tolist() == [3 * BLOCK + 1] * 2
    assert row_sums(torch.empty(2, 0)).tolist() == [0, 0]


def test_cosines_are_exact_for_equal_opposite_and_zero_vectors() -> None:
    for seed in range(20):
        x = normal((50,), seed) * 10.0 ** (seed - 20)
        assert cosines(gram([[x, x, x]])) == [[1, 1, 1]] * 3
    models = [x, x, -x, 0 * x]
    wanted = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 0]]
    assert cosines(gram([models])) == row_cosines(row_gram(models)).tolist() == wanted
    assert cosines([[4.0, 3.0], [3.0, 9.0]])[0][1] == 0.5
    assert row_cosines(torch.tensor([[4.0, 3.0], [3.0, 9.0]]).expand(5, 2, 2))[3, 0, 1] == 0.5
    models = [x, torch.full_like(x, math.nan)]
    assert np.isnan(cosines(gram([models]))).tolist() == [[False, True], [True, True]]
    assert row_cosines(row_gram(models)).isnan().tolist() == [[False, True], [True, True]]


def test_norm_of_sum() -> None:
    factors = [0.3, -2.0, 0.7]
    exact = sum(factor * model.double() for factor, model in zip(factors, MODELS, strict=True))
    assert norm_of_sum(factors, WHOLE) == pytest.approx(float(torch.linalg.vector_norm(exact)), rel=1e-7)
    assert norm_of_sum([1.0, -1.0], [[1, 1.1], [1.1, 1]]) == 0


@given(factors=st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_equal_models_come_out_as_they_went_in(factors: list[float]) -> None:
    shares = [factor / sum(factors) for factor in factors]
    assert torch.equal(weighted_sum([MODELS[0]] * len(shares), shares), MODELS[0])


def test_weighted_sum_rounds_once_and_takes_a_factor_for_each_row() -> None:
    one, other = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[7.0, 8.0], [5.0, 6.0]])
    factors = [torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.tensor([[-1.0], [0.5]], dtype=torch.float64)]
    got = weighted_sum([one, other], factors)
    assert got.dtype == torch.float32
    assert got.tolist() == [[-6, -6], [8.5, 11]] and one[0, 0] == 1
    assert weighted_sum([torch.tensor(x) for x in (1.0, 1e-10, -1.0)], [1.0, 1.0, 1.0]).item() == pytest.approx(
        1e-10, rel=1e-6
    )
    exact = [one.double(), other.double()]
    assert weighted_sum(exact, factors).dtype == torch.float64
    assert torch.equal(exact[0], one.double()) and torch.equal(exact[1], other.double())
