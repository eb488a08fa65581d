"""Convert uniform random numbers to normal ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def gaussian(first: Tensor, second: Tensor) -> Tensor:
    """Return standard normal float32 numbers, each from two independent uniform ones in [0, 1).

    Box and Muller (1958, https://doi.org/10.1214/aoms/1177706645): sqrt(-2 ln(1 - u)) cos(2 pi v).
    """
    return (-2.0 * (1.0 - first).log()).sqrt() * (2.0 * math.pi * second).cos()
