"""EvenNorms passes the checks for methods and matches its formula."""

import torch
from acme_even_norms import EvenNorms
from mergecore_testing.conformance import conformance
from mergecore_testing.tiling import merge_tiled

test_conformance = conformance("even_norms")


def test_both_models_add_the_same_length():
    base, long = torch.zeros(40_000), torch.zeros(40_000)
    short = long.clone()
    long[0], short[1] = 9.0, 1.0
    merged = merge_tiled(EvenNorms(weight=(1.0, 1.0)), [long, short], 1, base=base)
    assert torch.allclose(merged[:3], torch.tensor([5.0, 5.0, 0.0]))
