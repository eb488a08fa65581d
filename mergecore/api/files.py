"""The interfaces for reading and writing checkpoint files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes per element of every readable dtype, by safetensors name."""

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""The name of each dtype in torch and in recipes, by safetensors name."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""The dtypes that can be merged. Whole numbers and booleans are copied from one model."""

FLOAT8 = ("F8_E4M3", "F8_E5M2")
"""The dtypes that need scales to be turned into values. `mergecore.models.quantized` applies the scales."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Dtype and shape of a tensor as it is read. The dtype is a safetensors name.

    If the values are computed from a different dtype in the file, `stored` is the dtype in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    stored: str = ""

    @property
    def kept(self) -> str:
        """Dtype of a result that is computed from this tensor."""
        return self.stored or self.dtype

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


@lru_cache(maxsize=10_000)
def shared_info(dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """Return one object for all tensors of a dtype and shape. A model can have 100,000 tensors of a few shapes."""
    return TensorInfo(dtype, shape)


def common_dtype(dtypes: set[str]) -> str:
    """Return the common float dtype: the only one given, or else F64 if it is among them, or else F32."""
    return next(iter(dtypes)) if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype for a safetensors dtype name."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


class Reader(Protocol):
    """One open checkpoint file. The entry-point name is the file suffix without the dot.

    The constructor takes the path and raises `ModelError` with the file name if the file cannot be read safely. Only
    executors that use other processes pickle a reader. When unpickled, it reopens the file by its absolute path.
    A subclass of `mergecore.api.BytesReader` saves the import of torch.
    """

    tensors: Mapping[str, TensorInfo]
    """Every tensor in the file, as listed in its header."""

    def __init__(self, path: Path) -> None: ...

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (flat, contiguous, on the CPU, in the stored dtype) with a tensor's elements, starting at `start`.

        Called from several threads at once.
        """

    def close(self) -> None:
        """Close the file."""


@runtime_checkable
class DerivedReader(Reader, Protocol):
    """A reader that computes its tensors from those of other readers.

    Cost estimates and downloads follow `parts` to the files. A reader of a file does not have it.
    """

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers, tensors, and numbers of elements that a tensor is computed from."""


def parts_of(reader: Reader, name: str) -> list[tuple[Reader, str, int]] | None:
    """Return `DerivedReader.parts`, or None for a reader of a file. `isinstance` would take 30 µs, once per tensor."""
    return reader.parts(name) if hasattr(reader, "parts") else None


class Writer(Protocol):
    """The weight files of one output folder. Their layout is fixed before the first byte is written.

    The folder can already contain data from a writer with the same arguments, which ran earlier or is running now in
    another process. The constructor must not touch that data. A writer that is also a `PlacedWriter` or a subclass of
    `mergecore.api.BytesWriter` saves time.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None: ...

    def write(self, name: str, start: int, data: Tensor) -> None:
        """Write `data` (flat, contiguous, on the CPU, in the declared dtype) to the tensor from element `start` on.

        Called from several threads at once, in any order.
        """

    def sync(self) -> None:
        """Return once all data written before the call is safe from a power loss. Other threads can keep writing."""

    def finish(self) -> None:
        """Write the files that must not exist until every tensor is written, such as an index."""

    def close(self) -> None:
        """Close the files, whether they are complete or not."""


@runtime_checkable
class PlacedWriter(Writer, Protocol):
    """A writer that knows where each tensor goes.

    Its files are hashed for mergecore.lock.json while they are written instead of afterward, so only `write` may
    change them once the writer exists.
    """

    places: Mapping[str, tuple[Path, int]]
    """The file of each tensor, and the byte offset of the tensor in it."""
