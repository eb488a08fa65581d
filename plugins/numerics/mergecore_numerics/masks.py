"""Masks that one pass over a tensor draws and the next one needs again."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

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
        self._kept: dict[Hashable, tuple[NDArray[np.uint8], torch.Size, torch.device]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the masks that are kept."""
        return sum(bits.nbytes for bits, _, _ in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The mask of `key`, a new float32 tensor of zeros and ones; `make` makes it, always the same one for a key."""
        if key in self._kept:
            bits, shape, device = self._kept[key]
            values = np.unpackbits(bits, count=shape.numel())
            return torch.from_numpy(values).to(device, torch.float32).view(shape)
        mask = make()
        if mask.numel() <= 8 * self._free:
            bits = np.packbits(mask.numpy(force=True).reshape(-1) > 0)
            self._free -= bits.nbytes
            self._kept[key] = bits, mask.shape, mask.device
        return mask


class Thinned(NamedTuple):
    """What scales each thinned task vector back to its size, and the masks that were drawn to find out."""

    scales: list[float]
    masks: Masks
