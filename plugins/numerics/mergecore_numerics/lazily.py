"""Tiles computed lazily from other tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


_NATIVE = ("models", "bits", "look", "nonzeros", "dots", "absolute_sums", "mapped")
"""What functions of this package use instead of tensors."""


class Mapped(Sequence["Sequence[Tensor]"]):
    """Apply `function(tile, offset)` to each tile on every access, so that a pass needs memory for only one tile.

    `offset` is the flat index of the tile's first element. All tiles except the last have the same length. If `tiles`
    has a method `mapped` that can record the function, the native methods of what it returns are those of this object.
    """

    def __init__(
        self, tiles: Sequence[Sequence[Tensor]], function: Callable[[Sequence[Tensor], int], Sequence[Tensor]]
    ) -> None:
        self._tiles, self._function = tiles, function

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: Any) -> Any:
        return self._function(self._tiles[index], index * self._length if index else 0)

    def __getattr__(self, name: str) -> Any:
        if name in _NATIVE and self._native is not None:
            return getattr(self._native, name)
        raise AttributeError(name)

    @cached_property
    def _native(self) -> Any:
        mapped = getattr(self._tiles, "mapped", None)
        return mapped and mapped(self._function)

    @cached_property
    def _length(self) -> int:
        return self._tiles[0][0].numel()
