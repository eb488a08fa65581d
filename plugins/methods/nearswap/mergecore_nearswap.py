"""NearSwap: use the other model's values where the two models are close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import Context, DeltaMethod, Tile, param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NearSwap(DeltaMethod):
    """Move each weight toward the other model, by at most t (https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001).

    result = base + min(1, t / |d|) * d, with d = other - base. This adds d clamped to [-t, t] to the base.
    """

    tile = Tile.ELEMENTS
    models = (1, 1)

    t: float = param(doc="Maximum change of a weight. Weights that differ by less are copied.", minimum=0)

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        return deltas[0].clamp(-self.t, self.t)
