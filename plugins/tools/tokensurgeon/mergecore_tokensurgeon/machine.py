"""The capabilities of this processor."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def screening_dtype() -> torch.dtype:
    """Return the dtype for large matrix products with three-digit precision: bfloat16 if the processor supports it."""
    import torch

    able = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else torch.float32
