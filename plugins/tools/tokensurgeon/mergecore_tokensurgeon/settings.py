"""What the user chose for a transplant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from mergecore.errors import InputError


class Where(str, Enum):
    """The tables that a way of matching is used for."""

    no = "no"
    yes = "yes"
    embed = "embed"
    lm_head = "lm_head"

    def covers(self, head: bool) -> bool:
        """Whether it is used for the head, or else for the embedding."""
        return self is Where.yes or self is (Where.lm_head if head else Where.embed)


class Weights(str, Enum):
    """How `common_interpolation` weighs the neighbours."""

    distance_proportional = "distance_proportional"
    barycentric = "barycentric"
    least_squares = "least_squares"


class Pieces(str, Enum):
    """How `subword` makes one row of a token's pieces."""

    mean = "mean"
    sum = "sum"
    weighted_mean = "weighted_mean"
    first_last = "first_last"


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        method: how rows are made for tokens that the model lacks; a key of `approximations.METHODS`.
        k: shared tokens that a row is made of.
        cosine: whether neighbours are near by angle, not by distance.
        weights: of the neighbours.
        pieces: of a token's text in the model's own tokenizer.
        prefix_match, byte_match: tables in which tokens may take the row of a prefix, or of a byte.
        magikarp: whether rows that look untrained are left out.
        shrink: part of the way that each made row goes to the mean of the model's rows.
        noise: standard deviation of what is added to each made row.
        scale: what each made row is multiplied by.
        seed: of random numbers.
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
