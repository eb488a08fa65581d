"""What this processor is quick at."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def screening_dtype() -> torch.dtype:
    """The dtype to multiply large matrices in where three digits are enough: bfloat16 where the processor has it."""
    import torch

    able = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else torch.float32
