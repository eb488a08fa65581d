"""Mean of task vectors, damped where the models disagree: a merge method in three lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class Agreement(DeltaMethod):
    """Average the task vectors and damp each element by how much the models agree on its sign.

    result = base + mean(weight * delta) * |mean(sign(delta))|
    """

    tile = Tile.ELEMENTS

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        mean = sum(weight * delta for weight, delta in zip(self.weight, deltas)) / len(deltas)
        agreement = sum(delta.sign() for delta in deltas) / len(deltas)
        return mean * agreement.abs()
