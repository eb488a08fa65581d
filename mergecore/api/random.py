"""Random numbers that depend only on a key and the element's index, with the same bits on every device."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WRAP = 2**32
"""Indices are hashed in 32 bits, so each range of this many elements has its own keys."""


def uniform(key: str, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return uniform float32 numbers in [0, 1), multiples of 2^-24, from position `start` of the stream `key`.

    This is a counter-based generator as in Salmon et al. 2011 (https://doi.org/10.1145/2063384.2063405). It multiplies
    the index by a keyed odd number and applies the 32-bit finalizer "lowbias32" from C. Wellons' hash prospector.
    """
    import torch

    runs = []
    while count:
        run, low = divmod(start, WRAP)
        length = min(count, WRAP - low)
        runs.append(_hash(stream_keys(key, run), low, length, device))
        start, count = start + length, count - length
    return runs[0] if len(runs) == 1 else torch.cat(runs or [torch.empty(0, device=device)])


def stream_keys(key: str, run: int = 0) -> tuple[int, int]:
    """Return the factor and the summand for the indices of a stream. Each range of `WRAP` elements has its own."""
    digest = blake2b(f"{key}\0{run}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little") | 1, int.from_bytes(digest[4:], "little")


def _signed(value: int) -> int:
    """Return the int32 with the same bits, because torch multiplies int32 modulo 2^32."""
    value %= WRAP
    return value - WRAP if value >= WRAP // 2 else value


def _hash(keys: tuple[int, int], low: int, length: int, device: torch.device | str) -> Tensor:
    import torch

    x = torch.arange(length, dtype=torch.int32, device=device)
    scratch = torch.empty_like(x)
    x.mul_(_signed(keys[0])).add_(_signed(low * keys[0] + keys[1]))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x.bitwise_xor_(_shifted(x, shift, scratch)).mul_(_signed(factor))
    x.bitwise_xor_(_shifted(x, 16, scratch))
    return _shifted(x, 8, scratch).to(torch.float32).mul_(2.0**-24)


def _shifted(x: Tensor, bits: int, out: Tensor) -> Tensor:
    """Logical right shift of int32 into `out`. Allocating a new tensor each time would take a third of the run time."""
    import torch

    return torch.bitwise_right_shift(x, bits, out=out).bitwise_and_(2 ** (32 - bits) - 1)
