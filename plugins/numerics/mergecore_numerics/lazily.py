"""Tiles computed lazily from other tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Mapped(Sequence["Sequence[Tensor]"]):
    """Apply `function(tile, offset)` to each tile on every access, so that a pass needs memory for only one tile.

    `offset` is the flat index of the tile's first element. All tiles except the last have the same length.
    """

    def __init__(
        self, tiles: Sequence[Sequence[Tensor]], function: Callable[[Sequence[Tensor], int], Sequence[Tensor]]
    ) -> None:
        self._tiles, self._function = tiles, function

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: Any) -> Any:
        return self._function(self._tiles[index], index * self._length if index else 0)

    @cached_property
    def _length(self) -> int:
        return self._tiles[0][0].numel()
