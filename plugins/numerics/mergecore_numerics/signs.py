"""The sign that most of the weighted task vectors agree on, and the sum of those that have it (TIES)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergecore_numerics.sums import total


def elect_sign(total: Tensor) -> Tensor:
    """The elected sign of each element: -1 where `total`, the sum over the models, is below zero, else (NaN too) +1.

    Any shape, float32 or float64; the result has the dtype of `total`. TIES-Merging, section 3, step 2
    (https://arxiv.org/abs/2306.01708), with zero counted as positive.
    """
    # A comparison into a float tensor costs a fraction of one into bools and a selection by them.
    negative = torch.lt(total, 0, out=torch.empty_like(total))
    return torch.rsub(negative, 1, alpha=2)


def agreeing_sum(deltas: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Sum of the weighted deltas whose sign is the elected one, element by element; zeros agree with neither sign.

    `deltas` (one a model, at least one; same shape, float32 or float64) have been multiplied by their `weights`; with
    `normalize` the sum is divided by the sum of the weights of those that agree, where that is not zero. Weights may be
    negative. The inputs stay as they are; NaN in any of them gives NaN. Raises ValueError where there are not as many
    weights as deltas. TIES-Merging, section 3, steps 2 and 3 (https://arxiv.org/abs/2306.01708).
    """
    sign = elect_sign(total(deltas))
    merged = share = None
    for delta, weight in zip(deltas, weights, strict=True):
        # What agrees is positive once the sign is multiplied in, which is exact, and so is taking it out again below.
        kept = torch.mul(sign, delta).relu_()
        if normalize:
            agrees = kept.sign()
            share = agrees.mul_(weight) if share is None else share.add_(agrees, alpha=weight)
        merged = kept if merged is None else merged.add_(kept)
    assert merged is not None
    merged.mul_(sign)
    if share is not None:
        merged.div_(share.add_(torch.eq(share, 0, out=sign)))
    return merged
