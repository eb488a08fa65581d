"""Masks that one pass over a tensor draws and the next one needs again."""

from collections.abc import Callable, Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CAPACITY = 3 * 2**23
"""Bytes that are kept for one tensor, all models together: the masks of 200 million elements."""


class Masks:
    """Keeps masks as bits while there is room for them; those that it has no room for are made anew each time."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """`capacity` is in bytes; 0 keeps nothing."""
        self._free = capacity
        self._kept: dict[Hashable, NDArray[np.uint8]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the masks that are kept."""
        return sum(bits.nbytes for bits in self._kept.values())

    def get(self, model: int, offset: int, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """The mask of a tile: a new float32 tensor of zeros and ones, of its shape and on its device.

        Args:
            model: whose mask it is; any number where one is for all.
            offset: flat index of the tile's first element in the whole tensor.
            like: the tile.
            make: makes the mask, always the same one for a tile.
        """
        key = model, offset, like.numel(), like.device
        if key in self._kept:
            values = np.unpackbits(self._kept[key], count=like.numel())
            return torch.from_numpy(values).to(like.device, torch.float32).view(like.shape)
        mask = make()
        if mask.numel() <= 8 * self._free:
            bits = np.packbits(mask.numpy(force=True).reshape(-1) > 0)
            self._free -= bits.nbytes
            self._kept[key] = bits
        return mask
