"""LowRank passes the checks for methods and matches its formula."""

import torch
from acme_low_rank import LowRank
from mergecore_testing.conformance import conformance

from mergecore.api import Context

test_conformance = conformance("low_rank")


def test_a_change_of_that_rank_stays_whole_and_another_loses_its_rest():
    delta = torch.outer(torch.arange(8.0), torch.ones(8))
    method = LowRank(weight=(1.0,), keep=1 / 8)
    assert torch.allclose(method.merge([delta], Context()), delta, atol=1e-5)
    noisy = method.merge([delta + 0.01 * torch.eye(8)], Context())
    assert torch.linalg.matrix_rank(noisy, rtol=1e-4) == 1
