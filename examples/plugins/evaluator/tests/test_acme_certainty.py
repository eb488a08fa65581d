"""Certainty passes the checks for evaluators and is a probability."""

import math
from types import SimpleNamespace

import pytest
import torch
from acme_certainty import Certainty
from mergecore_testing.conformance import conformance

test_conformance = conformance("certainty", "evaluators")


class Echo(torch.nn.Module):
    """Model that favors the token it just read."""

    config = SimpleNamespace(vocab_size=10)
    device = torch.device("cpu")

    def forward(self, input_ids):
        return SimpleNamespace(logits=3.0 * torch.nn.functional.one_hot(input_ids, 10))


def test_it_is_the_mean_of_the_highest_probabilities():
    [score] = Certainty(sequences=5).evaluate(SimpleNamespace(model=Echo()))
    assert score.value == pytest.approx(math.exp(3) / (math.exp(3) + 9))
    assert (score.error, score.count, score.higher_is_better) == (pytest.approx(0.0), 5, False)
