"""Agreement passes the checks for methods and matches its formula."""

import torch
from acme_agreement import Agreement
from mergecore_testing.conformance import conformance

from mergecore.api import Context

test_conformance = conformance("agreement", symmetric=True)


def test_what_the_models_disagree_on_stays_as_it_is():
    deltas = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])]
    assert torch.equal(Agreement(weight=(1.0, 1.0)).merge(deltas, Context()), torch.tensor([2.0, 0.0]))
