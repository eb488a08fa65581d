"""Cache for masks that one pass over a tensor draws and the next pass reuses."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

CAPACITY = 3 * 2**23
"""Maximum bytes to keep per tensor, for all models together: masks of 200 million elements."""


class Masks:
    """Cache of masks, stored as bits up to a capacity. Masks that do not fit are recomputed on each access."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """`capacity` is in bytes. 0 disables the cache."""
        self._free = capacity
        self._kept: dict[Hashable, NDArray[np.uint8]] = {}

    @property
    def nbytes(self) -> int:
        """Total size of the cached masks in bytes."""
        return sum(bits.nbytes for bits in self._kept.values())

    def get(self, model: int, offset: int, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return the mask of a tile: a new float32 tensor of zeros and ones with its shape and device.

        Args:
            model: index of the model, or any fixed number if all models share the mask.
            offset: flat index of the tile's first element in the whole tensor.
            like: the tile.
            make: computes the mask. It must be deterministic for each tile.
        """
        import numpy as np
        import torch

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
