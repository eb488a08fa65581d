"""Comparison and assertion helpers for checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6
"""Float32 rounding of a few operations, relative to an element or its tensor's RMS, whichever is larger."""


def expect(kept: object, otherwise: str) -> None:
    """Raise AssertionError with the message `otherwise` if a condition is false."""
    if not kept:
        raise AssertionError(otherwise)


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether dtype, shape, and every bit match."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def near(result: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors differ by at most float32 rounding."""
    limit = ROUNDING * expected.abs().clamp(min=float(expected.square().mean().sqrt()))
    return bool(((result - expected).abs() <= limit).all())
