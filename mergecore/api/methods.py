"""Base classes for merge methods, which are frozen dataclasses with parameters as fields and a `merge` method."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mergecore.api.random import uniform

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**14
"""Flat tiles start at multiples of this many elements, so that sums over fixed blocks do not depend on the tiling."""


class Tile(enum.Enum):
    """How a tensor can be cut into tiles before `merge` is called."""

    ELEMENTS = "elements"
    """Flat pieces of any length. Each output element depends only on the same element of each input."""
    ROWS = "rows"
    """Blocks of rows along the first dimension. A vector or scalar is one row."""
    TENSOR = "tensor"
    """The whole tensor. This is always safe."""


class Base(enum.Enum):
    """How a method uses `base_model`."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    INPUT = "input"
    """Treated as an ordinary input."""


@dataclass(frozen=True)
class Context:
    """The position of a tile, with data for the whole tensor.

    Attributes:
        name: name of the output tensor.
        shape: shape of the whole tensor.
        offset: flat index of the first element of the tile in the whole tensor.
        measured: return value of `measure` for this tensor. None for a method without `measure`.
        seed: the recipe's seed.
    """

    name: str = "tensor"
    shape: tuple[int, ...] = ()
    offset: int = 0
    measured: Any = None
    seed: int = 0

    def random(self, model: int, like: Tensor) -> Tensor:
        """Return uniform float32 numbers in [0, 1), with the shape and device of a tile.

        They depend only on the recipe's seed, the tensor name, the model, and the position of each element in the whole
        tensor. They do not depend on tiles, threads, devices, or other tensors.

        Args:
            model: index into the tensors passed to `merge`.
            like: the tile, which starts at `offset`.
        """
        key = self.key(model)
        if recorded := getattr(like, "uniform", None):  # a stand-in that records what a method does
            return cast("Tensor", recorded(key, self.offset))
        return uniform(key, self.offset, like.numel(), like.device).view(like.shape)

    def key(self, model: int) -> str:
        """Return the key of the random numbers of a model."""
        return f"{self.seed}\0{self.name}\0{model}"


class Method:
    """Common base class for all methods. Subclass `WeightMethod` or `DeltaMethod` instead."""

    tile: ClassVar[Tile] = Tile.TENSOR
    base: ClassVar[Base]
    models: ClassVar[tuple[int, int | None]] = (1, None)
    """Minimum and maximum number of tensors that `merge` takes. None means no limit."""
    copies_lone: ClassVar[bool] = False
    """If True, copy an optional weight that only one input has. If False, raise an error."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """Parameters of other tools that are accepted but have no effect. The plan notes each use."""

    measured_by: ClassVar[tuple[str, ...] | None] = None
    """Parameters that `measure` and `prepare` depend on. A search repeats both only when one of them changes. None
    means all parameters."""

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Any:
        """Compute statistics over the whole tensor before any of its tiles is merged.

        Args:
            tiles: the tiles of the tensor, each a list of the tensors that `merge` will get. Indexing
                reads the tile, so you can iterate as often as needed in bounded memory. Flat tiles start
                at multiples of `BLOCK` elements.
            ctx: same as for `merge`, but with `offset` 0.

        Returns:
            Any value. It is available to `merge` as `ctx.measured`. If tiles are merged on a different device than
            they were measured on, tensors are moved there, including those in tuples, lists, and dicts.
        """
        return None

    def prepare(self, tensors: Sequence[Tensor], ctx: Context) -> Sequence[Tensor]:
        """Transform a tile before it is passed to `merge`, for example by zeroing small entries of task vectors.

        It must depend only on the parameters in `measured_by`, so that a search can keep the result and call only
        `merge` for each candidate.

        Args:
            tensors: the tensors that `merge` would get otherwise. Do not modify them.
            ctx: same as for `merge`.

        Returns:
            Tensors of the same shape and dtype. You can return the same tensors.
        """
        return tensors


class WeightMethod(Method):
    """A method that merges the models' weights. A required base comes first in `weights`."""

    base = Base.INPUT

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        """Merge one tile.

        Args:
            weights: one contiguous float32 tensor (float64 for float64 inputs) per model, all of the same shape: flat
                for `Tile.ELEMENTS`, whole rows for `Tile.ROWS`, otherwise the tensor. Do not modify them.
            ctx: the position of the tile.

        Returns:
            A tensor of the same shape.
        """
        raise NotImplementedError


class DeltaMethod(Method):
    """A method that merges task vectors. Core subtracts the base from each model and adds it back to the result."""

    base = Base.REQUIRED

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        """Merge one tile of the task vectors. Same as `WeightMethod.merge`, but without the base."""
        raise NotImplementedError
