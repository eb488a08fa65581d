"""Plain memory for the elements of tensors, which torch and native code use without copying."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from mergecore.api.files import ITEM_BYTES, Reader, Writer, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


def new_memory(elements: int, dtype: str) -> memoryview:
    """Return writable memory for elements of a dtype. It starts at a page, so that vectors are aligned."""
    nbytes = elements * ITEM_BYTES[dtype]
    return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]


def address(memory: memoryview) -> int:
    """Return the address of writable memory that is not empty. It is valid as long as `memory` exists."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def as_tensor(memory: memoryview, dtype: str) -> Tensor:
    """Return the flat tensor, [elements], in writable memory."""
    import torch

    if not memory:
        return torch.empty(0, dtype=torch_dtype(dtype))
    return torch.frombuffer(memory, dtype=torch_dtype(dtype))


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a flat contiguous CPU tensor."""
    import torch

    return tensor.view(torch.uint8).numpy().data


def read_into(reader: Reader, name: str, start: int, out: Tensor | memoryview) -> None:
    """Fill a tensor or its memory with elements of a tensor of a reader. Only readers that need torch import it."""
    if not isinstance(out, memoryview):
        reader.read(name, start, out)
    elif isinstance(reader, BytesReader):
        reader.read_bytes(name, start, out)
    else:
        reader.read(name, start, as_tensor(out, reader.tensors[name].dtype))


def write_from(writer: Writer, name: str, start: int, data: Tensor | memoryview, dtype: str) -> None:
    """Write a tensor or its memory, which has elements of `dtype`. Only writers that need torch import it."""
    if not isinstance(data, memoryview):
        writer.write(name, start, data)
    elif isinstance(writer, BytesWriter):
        writer.write_bytes(name, start, data)
    else:
        writer.write(name, start, as_tensor(data, dtype))


class BytesReader:
    """Base class for a `Reader` that needs no torch. Implement `read_bytes` instead of `read`."""

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """Fill writable memory of bytes with a tensor's elements in the stored dtype, starting at element `start`.

        Called from several threads at once.
        """
        raise NotImplementedError

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `Reader.read`."""
        self.read_bytes(name, start, as_bytes(out))


class BytesWriter:
    """Base class for a `Writer` that needs no torch. Implement `write_bytes` instead of `write`."""

    def write_bytes(self, name: str, start: int, data: memoryview) -> None:
        """Write bytes, the elements in the declared dtype, to the tensor from element `start` on.

        Called from several threads at once, in any order.
        """
        raise NotImplementedError

    def write(self, name: str, start: int, data: Tensor) -> None:
        """See `Writer.write`."""
        self.write_bytes(name, start, as_bytes(data))
