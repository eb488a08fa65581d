"""Task vectors brought to one length before they are added: a method that measures the whole tensor first."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergecore.api import BLOCK, Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class EvenNorms(DeltaMethod):
    """Scale each change to the mean length of all, so that no model outweighs the others, and add them up.

    result = base + sum(weight * delta * mean(norms) / |delta|)
    """

    tile = Tile.ELEMENTS

    weight: PerModel[float] = param(0.5, "Scale of this model's change.")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> list[float]:
        """The factor of each model. Sums go block by block, so that they do not depend on how the tensor is cut."""
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
