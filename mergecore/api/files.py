"""Checkpoint files: what a reader gives and a writer takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes an element of every dtype that can be read, by its safetensors name."""

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""The same dtypes by their names in torch and in recipes."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""The dtypes that are merged; all others are copied when the inputs agree."""

FLOAT8 = ("F8_E4M3", "F8_E5M2")
"""The dtypes that are values only together with their scales, which `mergecore.models.quantized` applies."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as it is read: dtype by safetensors name, and shape.

    Where that is not the dtype that the file stores, because the values were computed, `stored` names the latter.
    """

    dtype: str
    shape: tuple[int, ...]
    stored: str = ""

    @property
    def kept(self) -> str:
        """The dtype that a result made of this tensor has."""
        return self.stored or self.dtype

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


def common_dtype(dtypes: set[str]) -> str:
    """The float dtype that holds the values of all: the only one, else F64 if among them, else F32."""
    return next(iter(dtypes)) if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype name."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


class Reader(Protocol):
    """One open checkpoint file; entry-point name = the files' suffix without its dot.

    Made with the file's path; raises `ModelError` naming the file when it cannot be read safely. Pickled, which only
    executors that work in other processes do, it opens the file again by its absolute path.
    """

    tensors: Mapping[str, TensorInfo]
    """Every tensor of the file, from its header."""

    def __init__(self, path: Path) -> None: ...

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (flat, contiguous, CPU, of the stored dtype) with the tensor's elements from `start` on.

        Called from several threads at once.
        """

    def close(self) -> None:
        """Let go of the file."""


class Writer(Protocol):
    """The weight files of one output folder, laid out before the first byte is written.

    Made with the folder, which may hold what a writer with the same arguments left there, or is writing there now in
    another process: that must stay.

    It may have an attribute ``places``: the file and the byte in it where each tensor begins, by name. Such files are
    hashed for mergecore.lock.json while they are written, not afterwards; so nothing but `write` may change them once
    the writer is made.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None: ...

    def write(self, name: str, start: int, data: Tensor) -> None:
        """Put `data` (flat, contiguous, CPU, of the announced dtype) at the tensor's element `start`.

        Called from several threads at once, in any order.
        """

    def sync(self) -> None:
        """Return when all that was written before the call would outlive a power cut; writing may go on meanwhile."""

    def finish(self) -> None:
        """Add what must not be there before every tensor is, such as an index."""

    def close(self) -> None:
        """Let go of the files, finished or not."""
