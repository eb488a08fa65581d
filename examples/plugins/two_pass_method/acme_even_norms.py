"""Sum of task vectors scaled to equal norms: a merge method that measures the whole tensor first."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergecore.api import BLOCK, Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class EvenNorms(DeltaMethod):
    """Scale all task vectors to their mean norm, so that no model outweighs the others, and add them up.

    result = base + sum(weight * delta * mean(norms) / |delta|)
    """

    tile = Tile.ELEMENTS

    weight: PerModel[float] = param(0.5, "Scale of this model's task vector.")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """Return the factor of each model. Summing block by block makes it independent of the tiling."""
        squares = [0.0] * len(self.weight)
        for tile in tiles:
            for model, delta in enumerate(tile):
                for block in delta.split(BLOCK):
                    squares[model] += float(block.double().square().sum())
        norms = [square**0.5 for square in squares]
        mean = sum(norms) / len(norms)
        return [mean / norm if norm else 1.0 for norm in norms]

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        total = deltas[0] * (self.weight[0] * ctx.measured[0])
        for weight, factor, delta in zip(self.weight[1:], ctx.measured[1:], deltas[1:]):
            total = total + delta * (weight * factor)
        return total
