"""SLERP: spherical interpolation between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore_numerics import dots

from mergecore.api import Base, Context, Tile, WeightMethod, param

if TYPE_CHECKING:
    from torch import Tensor

PARALLEL = 0.9995
"""Above this absolute cosine, interpolate linearly."""
ZERO_NORM = 1e-8
"""A tensor with a norm of at most this has no direction. Its cosine with any tensor is 0."""


@dataclass(frozen=True, kw_only=True)
class Slerp(WeightMethod):
    """Interpolate along the arc from the base model to the other (Shoemake 1985, https://doi.org/10.1145/325165.325242).

    result = (sin((1-t) angle) * base + sin(t angle) * other) / sin(angle), with the angle between the whole tensors.
    Nearly parallel and nearly opposite tensors are interpolated linearly.
    """

    tile = Tile.ELEMENTS
    base = Base.REQUIRED
    models = (2, 2)
    copies_lone = True
    ignored = ("embed_slerp",)

    t: float = param(doc="Interpolation factor: 0 is the base model, 1 the other model.")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> tuple[float, float]:
        """Return the factors of the base and of the other model."""
        base_square, other_square, product = dots(tiles, [(0, 0), (1, 1), (0, 1)])
        norms = [norm if norm > ZERO_NORM else 1.0 for norm in (math.sqrt(base_square), math.sqrt(other_square))]
        cosine = max(-1.0, min(1.0, product / (norms[0] * norms[1])))
        if abs(cosine) > PARALLEL:
            return 1 - self.t, self.t
        angle = math.acos(cosine)
        return math.sin((1 - self.t) * angle) / math.sin(angle), math.sin(self.t * angle) / math.sin(angle)

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        base_factor, other_factor = ctx.measured
        return (weights[0] * base_factor).add_(weights[1], alpha=other_factor)
