"""Math shared by merge methods, for torch tensors processed whole or tile by tile."""

from mergecore_numerics.deltas import l1_scales, plain_sum, weighted
from mergecore_numerics.lazily import Mapped
from mergecore_numerics.masks import Masks
from mergecore_numerics.selection import Cut, keep_largest, largest, nonzeros
from mergecore_numerics.signs import agreeing_sum, elect_sign
from mergecore_numerics.sphere import (
    CANCELLED,
    cosines,
    gram,
    norm_of_sum,
    row_cosines,
    row_gram,
    row_sums,
    weighted_sum,
)
from mergecore_numerics.sums import BLOCK, absolute_sums, dots, models_in, total
from mergecore_numerics.thinning import Thinned, thin, thinned

__all__ = [
    "BLOCK",
    "CANCELLED",
    "Cut",
    "Mapped",
    "Masks",
    "Thinned",
    "absolute_sums",
    "agreeing_sum",
    "cosines",
    "dots",
    "elect_sign",
    "gram",
    "keep_largest",
    "l1_scales",
    "largest",
    "models_in",
    "nonzeros",
    "norm_of_sum",
    "plain_sum",
    "row_cosines",
    "row_gram",
    "row_sums",
    "thin",
    "thinned",
    "total",
    "weighted",
    "weighted_sum",
]
