"""Each approximation follows its formula, compared with plain float64 or a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mergecore_tokensurgeon.approximations import METHODS
from mergecore_tokensurgeon.settings import Pieces, Settings, Weights
from mergecore_tokensurgeon.task import Task

NEW = torch.arange(60, 64)


def task(model: torch.Tensor, donor: torch.Tensor, head: bool = False, **settings: object) -> Task:
    """Return tables with 60 shared tokens, and 4 new ones in the donor."""
    torch.manual_seed(1)
    here = torch.randperm(len(model))[:60]
    config = {"num_attention_heads": 2, "rope_theta": 10000.0}
    return Task(
        model, donor, here, torch.arange(60), head, Settings(**settings), lambda row: [3, 5, 8], (config, config)
    )


@pytest.fixture
def tables() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(70, 8), torch.randn(64, 12) + 0.3


def turned(model: torch.Tensor, matrix: torch.Tensor, shift: float) -> tuple[Task, torch.Tensor]:
    """Return a task whose donor is the model's space transformed by a matrix, and the expected rows."""
    torch.manual_seed(2)
    new = torch.randn(4, 8)
    plain = task(model, torch.zeros(64, matrix.shape[1]), k=8)
    return replace(plain, donor=torch.cat([plain.ours, new]) @ matrix + shift), new


@pytest.mark.parametrize("how", list(Weights))
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("k", [5, 20])
def test_common_interpolation(tables, how, cosine, k):
    given = task(*tables, method="common_interpolation", k=k, weights=how, cosine=cosine)
    found = METHODS["common_interpolation"](given)(NEW)
    theirs, ours = given.theirs.double().numpy(), given.ours.double().numpy()
    for row, x in zip(found.numpy(), given.wanted(NEW).double().numpy()):
        cosines = theirs @ x / np.linalg.norm(theirs, axis=1) / np.linalg.norm(x)
        distances = 1 - cosines if cosine else np.linalg.norm(theirs - x, axis=1)
        near = np.argsort(distances)[:k]
        if how is Weights.distance_proportional:
            weights = cosines[near] if cosine else 1 / distances[near]
            weights /= weights.sum()
        elif how is Weights.least_squares:
            weights = np.linalg.lstsq(theirs[near].T, x, rcond=None)[0]
        else:  # least squares with weights that sum to 1, choosing the minimum-norm solution
            origin, free = np.full(k, 1 / k), np.eye(k) - 1 / k
            weights = origin + free @ np.linalg.lstsq(theirs[near].T @ free, x - origin @ theirs[near], rcond=1e-12)[0]
        assert np.allclose(row, weights @ ours[near], rtol=1e-4, atol=1e-5)


def test_omp_and_mp_rope_find_a_row_that_all_dimensions_make(tables):
    model = torch.randn(70, 12)
    given = task(model, torch.zeros(64, 12), k=12)
    torch.manual_seed(3)
    new = torch.randn(4, 12)
    given = replace(given, donor=torch.cat([given.ours, new]))
    for method in ("omp", "mp_rope"):
        assert torch.allclose(METHODS[method](given)(NEW), new, atol=1e-3), method


def test_landmark_pca_undoes_a_rotation(tables):
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    given, new = turned(tables[0], rotation, shift=0.7)
    assert torch.allclose(METHODS["landmark_pca"](given)(NEW), new, atol=1e-4)


def test_stb_undoes_any_linear_map(tables):
    given, new = turned(tables[0], torch.randn(8, 12), shift=-2.0)
    assert torch.allclose(METHODS["stb"](given)(NEW), new, atol=1e-3)


@pytest.mark.parametrize(
    ("pieces", "head", "weights"),
    [(Pieces.mean, False, (1 / 3, 1 / 3, 1 / 3)), (Pieces.sum, True, (1, 1, 1)), (Pieces.first_last, False, (0, 0, 1)),
     (Pieces.first_last, True, (1, 0, 0)), (Pieces.weighted_mean, False, (1 / 6, 2 / 6, 3 / 6)),
     (Pieces.weighted_mean, True, (3 / 6, 2 / 6, 1 / 6))],
)  # fmt: skip
def test_subword(tables, pieces, head, weights):
    found = METHODS["subword"](task(*tables, head=head, method="subword", pieces=pieces))(NEW)
    assert torch.allclose(
        found, (torch.tensor(weights, dtype=torch.float32) @ tables[0][[3, 5, 8]]).repeat(4, 1), atol=1e-6
    )


def test_ways_that_look_at_no_token(tables):
    model, donor = tables
    assert torch.allclose(METHODS["mean"](task(model, donor))(NEW), model.double().mean(0).float().repeat(4, 1))
    assert not METHODS["zero"](task(model, donor))(NEW).any()
    many = torch.arange(40000) % 64
    drawn = METHODS["john_hewitt"](task(model, donor))(many).double()
    covariance = torch.cov(model.double().T, correction=0)
    assert torch.allclose(drawn.mean(0), model.double().mean(0), atol=0.03)
    assert torch.allclose(torch.cov(drawn.T), covariance, atol=0.05)
    random = METHODS["random"](task(model, donor))(many)
    assert abs(random.std() - model.std()) < 0.01 and abs(random.mean() - model.mean()) < 0.01


def test_seeds_decide_what_is_drawn(tables):
    draws = [METHODS["random"](task(*tables, seed=seed))(NEW) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("method", ["omp", "common_interpolation", "landmark_pca", "stb", "mp_rope"])
def test_a_donor_row_of_zeros_says_nothing_and_gives_the_mean(tables, method):
    model, donor = tables
    donor[61] = 0
    given = task(model, donor, k=4)
    found = METHODS[method](given)(NEW)
    assert torch.equal(found[1], given.mean) and found.isfinite().all() and not torch.equal(found[0], given.mean)
