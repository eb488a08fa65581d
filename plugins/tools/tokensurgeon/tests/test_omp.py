"""Orthogonal matching pursuit picks the same atoms and coefficients as a plain float64 version with least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mergecore_tokensurgeon import omp
from mergecore_tokensurgeon.omp import Dictionary, pursue


def plain(atoms: np.ndarray, vector: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    """The textbook algorithm, which recomputes all correlations and least-squares coefficients in each step."""
    residual, picked, weights = vector, [], np.zeros(0)
    for _ in range(count):
        scores = np.abs(atoms @ residual)
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        weights = np.linalg.lstsq(atoms[picked].T, vector, rcond=None)[0]
        residual = vector - weights @ atoms[picked]
    return picked, weights


@pytest.mark.parametrize("screening", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("atoms", "width", "count"), [(3000, 48, 20), (40, 16, 16), (5, 8, 64)])
def test_pursuit_is_the_plain_one(atoms, width, count, screening, monkeypatch):
    monkeypatch.setattr(omp, "screening_dtype", lambda: screening)
    torch.manual_seed(0)
    common = torch.randn(width)  # like real embeddings: all rows have much in common, and norms differ
    rows = (torch.randn(atoms + 12, width) + common) * torch.rand(atoms + 12, 1).add(0.5)
    picked, weights = pursue(Dictionary(rows[:atoms]), rows[atoms:], count)
    for number in range(12):
        expected, values = plain(rows[:atoms].double().numpy(), rows[atoms + number].double().numpy(), len(picked[0]))
        assert picked[number].tolist() == expected
        assert np.allclose(weights[number].numpy(), values, rtol=1e-3, atol=1e-4)


def test_what_needs_fewer_atoms_gets_fewer():
    torch.manual_seed(0)
    atoms = torch.randn(300, 16)
    atoms[7] = atoms[8]  # the same row twice
    vectors = torch.stack([atoms[5], torch.zeros(16), 2 * atoms[8] - 3 * atoms[200], 1e-20 * atoms[3]])
    picked, weights = pursue(Dictionary(atoms), vectors, 16)
    assert weights.isfinite().all()
    made = torch.einsum("vk,vkw->vw", weights, atoms[picked])
    assert torch.allclose(made, vectors, atol=1e-4)
    assert picked[0, 0] == 5 and weights[0].count_nonzero() == 1 and not weights[1].any()
    assert weights[3].count_nonzero() == 1


def test_all_dimensions_give_the_vector_itself():
    torch.manual_seed(1)
    atoms, vectors = torch.randn(500, 24), torch.randn(6, 24)
    picked, weights = pursue(Dictionary(atoms), vectors, 24)
    assert torch.allclose(torch.einsum("vk,vkw->vw", weights, atoms[picked]), vectors, atol=1e-4)
