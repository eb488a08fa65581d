"""The interface of optimizers, which propose points and receive their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Optimizer(Protocol):
    """Minimizes losses over the unit cube. The constructor is called as ``Kind(dimensions, seed, population)``.

    `population` is the number of points per call to `ask`, or 0 to let the optimizer choose. The same seed and losses
    must produce the same points, because a resumed search replays all calls with the losses it already has.
    """

    def ask(self) -> Sequence[Sequence[float]]:
        """Return the next points, each with one number from 0 to 1 per dimension."""

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """Receive the losses of the latest points: one row per point, one loss per objective, infinite on failure."""
