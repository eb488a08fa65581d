"""The user's choices for a transplant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from mergecore.api import InputError


class Where(str, Enum):
    """The tables that a kind of matching applies to."""

    no = "no"
    yes = "yes"
    embed = "embed"
    lm_head = "lm_head"

    def covers(self, head: bool) -> bool:
        """Return whether it applies to the head if `head` is true, or else to the embedding."""
        return self is Where.yes or self is (Where.lm_head if head else Where.embed)


class Weights(str, Enum):
    """How `common_interpolation` weights the neighbors."""

    distance_proportional = "distance_proportional"
    barycentric = "barycentric"
    least_squares = "least_squares"


class Pieces(str, Enum):
    """How `subword` combines the rows of a token's pieces."""

    mean = "mean"
    sum = "sum"
    weighted_mean = "weighted_mean"
    first_last = "first_last"


@dataclass(frozen=True)
class Settings:
    """The user's choices.

    Attributes:
        method: How to create rows for tokens that the model does not have. A key of `approximations.METHODS`.
        k: Number of shared tokens to build a row from.
        cosine: Whether to find neighbors by angle instead of distance.
        weights: How to weight the neighbors.
        pieces: How to combine the rows of a token's pieces in the model's tokenizer.
        prefix_match, byte_match: Tables in which tokens can use the row of a prefix, or of a byte.
        magikarp: Whether to ignore rows that look untrained.
        shrink: How far to move each new row toward the mean of the model's rows, from 0 to 1.
        noise: Standard deviation of the noise added to each new row.
        scale: Factor of each new row.
        seed: Seed of the random numbers.
    """

    method: str = "omp"
    k: int = 64
    cosine: bool = False
    weights: Weights = Weights.distance_proportional
    pieces: Pieces = Pieces.mean
    prefix_match: Where = Where.no
    byte_match: Where = Where.no
    magikarp: bool = False
    shrink: float = 0.0
    noise: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("noise", "scale"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"--{name}: must be a finite number, not {getattr(self, name)}")
