"""Compare sign election and the disjoint merge with their formulas in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mergecore_numerics import agreeing_sum, elect_sign
from torch import Tensor

# Small multiples of 1/8 add up exactly in float32, so results can be compared exactly, even for sign ties.
EIGHTHS = st.integers(-40, 40).map(lambda number: number / 8)
STACKS = st.tuples(st.integers(1, 5), st.integers(0, 40)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=EIGHTHS)
)


def formula(deltas: np.ndarray, weights: list[float], normalize: bool) -> np.ndarray:
    """Merge as written in the TIES paper, on a (models, elements) array in float64."""
    sign = np.where(deltas.sum(0) >= 0, 1.0, -1.0)
    agrees = np.sign(deltas) == sign
    merged = np.where(agrees, deltas, 0).sum(0)
    if not normalize:
        return merged
    share = (agrees * np.array(weights)[:, None]).sum(0)
    return merged / np.where(share == 0, 1, share)


def tensors(rows: np.ndarray, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.tensor(row, dtype=dtype) for row in rows]


def test_elect_sign_counts_zero_as_positive() -> None:
    total = torch.tensor([2.0, -1e-45, 0.0, -0.0, -torch.inf, torch.inf, torch.nan])
    assert elect_sign(total).tolist() == [1, -1, 1, 1, -1, 1, 1]
    assert elect_sign(total.double()).dtype == torch.float64


@settings(deadline=None)
@given(STACKS, st.data(), st.booleans())
def test_agreeing_sum_is_the_formula(rows: np.ndarray, data: st.DataObject, normalize: bool) -> None:
    count = len(rows)
    weights = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, -0.5, 0.0]), min_size=count, max_size=count))
    for dtype in (torch.float32, torch.float64):
        merged = agreeing_sum(tensors(rows, dtype), weights, normalize)
        assert merged.dtype == dtype
        expected = torch.tensor(formula(rows, weights, normalize), dtype=torch.float64).to(dtype)
        torch.testing.assert_close(merged, expected, rtol=0 if not normalize else 2e-7, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
def test_agreeing_sum_of_random_deltas(normalize: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 30_001)) * 1e-3
    rows[:, ::7] = 0
    weights = [0.3, 0.5, 0.2, 1.7]
    merged = agreeing_sum(tensors(rows, torch.float64), weights, normalize)
    np.testing.assert_allclose(merged, formula(rows, weights, normalize), rtol=1e-13, atol=0)


def test_what_alone_agrees_is_kept_exactly() -> None:
    one, other = torch.tensor([0.1, -0.3]), torch.tensor([-0.3, 0.1])
    assert torch.equal(agreeing_sum([one, other], [1.0, 1.0], False), torch.tensor([-0.3, -0.3]))
    assert torch.equal(agreeing_sum([one, other], [1.0, 1.0], True), torch.tensor([-0.3, -0.3]))


def test_weights_of_those_that_agree_may_cancel() -> None:
    deltas = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, -0.5])]
    assert agreeing_sum(deltas, [0.5, -0.5], True).tolist() == [3.0, 2.0]


def test_nan_stays_in_every_position() -> None:
    for place in range(37):  # vector lanes and the scalar tail
        deltas = [torch.ones(37), -torch.ones(37), torch.ones(37)]
        deltas[1][place] = torch.nan
        for normalize in (False, True):
            merged = agreeing_sum(deltas, [1.0, 1.0, 1.0], normalize)
            assert merged.isnan().nonzero().flatten().tolist() == [place]


def test_infinity_that_disagrees_leaves_no_trace() -> None:
    deltas = [torch.tensor([1.0]), torch.tensor([-torch.inf]), torch.tensor([2.0])]
    assert agreeing_sum(deltas, [1.0, 1.0, 1.0], True).tolist() == [-torch.inf]
    assert agreeing_sum(deltas[::2], [1.0, 1.0], False).tolist() == [3.0]


def test_inputs_are_not_changed_and_pieces_give_the_same_bits() -> None:
    deltas = tensors(np.random.default_rng(1).standard_normal((3, 50_000)))
    before = [delta.clone() for delta in deltas]
    merged = agreeing_sum(deltas, [0.3, 0.5, 0.2], True)
    assert all(torch.equal(one, other) for one, other in zip(deltas, before, strict=True))
    pieces = [agreeing_sum([d[i : i + 1237] for d in deltas], [0.3, 0.5, 0.2], True) for i in range(0, 50_000, 1237)]
    assert torch.equal(torch.cat(pieces), merged)


def test_any_shape_and_one_model() -> None:
    delta = torch.randn(3, 4, 5)
    assert torch.equal(agreeing_sum([delta], [2.0], False), delta)
    assert agreeing_sum([torch.empty(0)], [2.0], True).shape == (0,)


def test_numbers_of_weights_and_deltas_must_agree() -> None:
    with pytest.raises(ValueError):
        agreeing_sum([torch.ones(2), torch.ones(2)], [1.0], False)
