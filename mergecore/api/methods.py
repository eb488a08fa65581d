"""What a merge method is: a frozen dataclass of parameters with a `merge`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mergecore.api.random import uniform

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**14
"""Flat tiles begin at multiples of this many elements, so that sums over fixed blocks do not depend on the tiling."""


class Tile(enum.Enum):
    """What a tensor may be cut into before `merge` is called."""

    ELEMENTS = "elements"
    """Flat pieces of any length: the result of an element depends on that element of each input alone."""
    ROWS = "rows"
    """Blocks along the first dimension; a vector or a number is one row."""
    TENSOR = "tensor"
    """Not at all; always right."""


class Base(enum.Enum):
    """What `base_model` is to a method."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    INPUT = "input"
    """An ordinary input like the others."""


@dataclass(frozen=True)
class Context:
    """Where a tile comes from.

    Attributes:
        name: the output tensor's name.
        shape: the whole tensor's shape.
        offset: flat index of the tile's first element in the whole tensor.
        measured: what `measure` returned for this tensor; None for a method without `measure`.
        seed: the recipe's seed.
    """

    name: str = "tensor"
    shape: tuple[int, ...] = ()
    offset: int = 0
    measured: Any = None
    seed: int = 0

    def random(self, model: int, like: Tensor) -> Tensor:
        """Uniform float32 numbers in [0, 1), one for each element of a tile, of its shape and on its device.

        They depend on the recipe's seed, the weight's name, the model and the element's place in the whole tensor,
        and on nothing else: not on tiles, threads, devices or other tensors.

        Args:
            model: position among the tensors that `merge` gets.
            like: the tile, which begins at `offset`.
        """
        key = f"{self.seed}\0{self.name}\0{model}"
        return uniform(key, self.offset, like.numel(), like.device).view(like.shape)


class Method:
    """Common frame of all methods; derive from `WeightMethod` or `DeltaMethod`."""

    tile: ClassVar[Tile] = Tile.TENSOR
    base: ClassVar[Base]
    models: ClassVar[tuple[int, int | None]] = (1, None)
    """Fewest and most tensors that `merge` takes; None: no limit."""
    copies_lone: ClassVar[bool] = False
    """True: an optional weight that one input alone has is copied; False: it is an error."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """Parameters that recipes of other tools carry and that change nothing here; the plan says so."""

    measured_by: ClassVar[tuple[str, ...] | None] = None
    """Parameters that `measure` and `prepare` depend on: a search does both again only when one of them changes; None:
    all."""

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Any:
        """Look at the whole tensor before any tile of it is merged.

        Args:
            tiles: the tensor tile by tile, each a list of what `merge` will get; indexing reads the
                tile, so it may be gone through as often as needed in bounded memory. Flat tiles begin
                at multiples of `BLOCK` elements.
            ctx: as for `merge`, with `offset` 0.

        Returns:
            Anything; `merge` finds it in `ctx.measured`. Where tiles are merged on another device than they were
            measured on, tensors in it come along, alone or in tuples, lists and dicts.
        """
        return None

    def prepare(self, tensors: Sequence[Tensor], ctx: Context) -> Sequence[Tensor]:
        """Make of a tile what `merge` gets in its place, such as task vectors without their small entries.

        It depends on no parameters but `measured_by`, so that a search keeps the result and calls `merge` alone for
        each of its candidates.

        Args:
            tensors: what `merge` would get without it. Not to be changed.
            ctx: as for `merge`.

        Returns:
            Tensors of the same shape and dtype, which may be the same ones.
        """
        return tensors


class WeightMethod(Method):
    """A method over the models' weights. A required base comes first in `weights`."""

    base = Base.INPUT

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        """Merge one tile.

        Args:
            weights: one contiguous float32 (float64 for float64 inputs) tensor for each model, all of one shape: flat
                for `Tile.ELEMENTS`, whole rows for `Tile.ROWS`, else the tensor. Not to be changed.
            ctx: where the tile comes from.

        Returns:
            A tensor of the same shape.
        """
        raise NotImplementedError


class DeltaMethod(Method):
    """A method over task vectors: core subtracts the base from each model and adds it back to the result."""

    base = Base.REQUIRED

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        """Merge one tile of the differences from the base; as `WeightMethod.merge`, without the base itself."""
        raise NotImplementedError
