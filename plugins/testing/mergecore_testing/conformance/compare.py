"""How checks compare results, and what they raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6
"""Float32 rounding of a few operations, relative to an element or, if larger, its tensor's root mean square."""


def expect(kept: object, otherwise: str) -> None:
    """Raise AssertionError with the sentence `otherwise` unless a promise is kept."""
    if not kept:
        raise AssertionError(otherwise)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether dtype, shape and every bit agree."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def near(result: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by float32 rounding at most."""
    limit = ROUNDING * expected.abs().clamp(min=float(expected.square().mean().sqrt()))
    return bool(((result - expected).abs() <= limit).all())
