"""Sign election among weighted task vectors, and the sum of the entries that agree (TIES)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergecore_numerics.sums import total

if TYPE_CHECKING:
    from torch import Tensor


def elect_sign(total: Tensor) -> Tensor:
    """Return the elected sign of each element: -1 if `total`, the sum over models, is negative, else +1 (also for NaN).

    `total` can have any shape and is float32 or float64. The result has its dtype. TIES-Merging, section 3, step 2
    (https://arxiv.org/abs/2306.01708), with zero counted as positive.
    """
    # Comparing into a float tensor is several times faster than a bool mask with `torch.where`.
    return total.clone().lt_(0).mul_(-2).add_(1)


def agreeing_sum(deltas: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Return the elementwise sum of the weighted deltas that have the elected sign. Zeros agree with neither sign.

    `deltas` holds at least one delta, one per model, already multiplied by `weights`. All have the same shape and are
    float32 or float64. With `normalize`, the sum is divided by the sum of the weights that agree, unless that is zero.
    Weights can be negative. The inputs are not modified. NaN in any input results in NaN. Raise ValueError if the
    numbers of weights and deltas differ. TIES-Merging, section 3, steps 2 and 3 (https://arxiv.org/abs/2306.01708).
    """
    sign = elect_sign(total(deltas))
    merged = share = None
    for delta, weight in zip(deltas, weights, strict=True):
        # Entries that agree are positive after multiplying by the sign. This is exact, and so is reverting it below.
        kept = (sign * delta).relu_()
        if normalize:
            agrees = kept.sign()
            share = agrees.mul_(weight) if share is None else share.add_(agrees, alpha=weight)
        merged = kept if merged is None else merged.add_(kept)
    assert merged is not None
    merged.mul_(sign)
    if share is not None:
        merged.div_(share.add_(sign.copy_(share).eq_(0)))
    return merged
