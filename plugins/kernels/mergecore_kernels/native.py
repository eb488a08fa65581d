"""The native library: find it, check that it fits, and call it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERSION = 6
"""Layout of the C interface in native/kernels.h."""

OPERATION = struct.Struct("<5B3x2f2Iq")
"""``struct Op`` in native/kernels.h."""

CODES = (
    "load", "fill", "add", "sub", "mul", "div", "fma", "muladd", "add_x", "rsub_x", "mul_x", "div_x", "rdiv_x", "neg",
    "abs", "sign", "sqrt", "relu", "minimum", "maximum", "clamp", "lt", "le", "gt", "ge", "eq", "ne", "lt_x", "le_x",
    "gt_x", "ge_x", "eq_x", "ne_x", "where", "hardshrink", "keep", "random",
    "widen", "narrow", "wide_add", "wide_sub", "wide_mul", "wide_add_x", "wide_mul_x",
    "wide_keep", "ne_x_of_wide",
)  # fmt: skip
"""The operations in the order of ``enum Code``."""

DTYPES = {"F32": 0, "BF16": 1, "F16": 2}
"""The stored dtypes that the library reads and writes."""

WIDE_DTYPE = 3
"""F64 in ``enum Dtype``."""

REGISTERS, WIDE_REGISTERS = 32, 8
"""Number of registers for float32 and float64 numbers."""


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("dtype", ctypes.c_int64))


class _Term(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int64), ("b", ctypes.c_int64))


class Native:
    """Runs programs of elementwise operations over stored tensors. See `mergecore.api.Kernels`.

    Raises:
        OSError: The library is missing or has another layout.
    """

    codes = frozenset(CODES)
    dtypes = frozenset(DTYPES)
    registers = REGISTERS
    wide_registers = WIDE_REGISTERS

    def __init__(self) -> None:
        path = next(Path(__file__).parent.glob("_kernels.*"), None)
        if path is None:
            raise OSError(f"{Path(__file__).parent}: has no compiled library; install mergecore-kernels again")
        self._library = ctypes.CDLL(str(path))
        if self._library.mergecore_version() != VERSION:
            raise OSError(f"{path}: is of another version; install mergecore-kernels again")
        self._library.mergecore_isa.restype = ctypes.c_char_p
        self._run = self._library.mergecore_run
        self._run.argtypes = [
            ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(_Buffer), _Buffer, ctypes.c_int64,
            ctypes.c_int64,
        ]  # fmt: skip
        self._sums = self._library.mergecore_sums
        self._sums.restype = None
        self._sums.argtypes = [
            ctypes.c_char_p, ctypes.c_int64, ctypes.POINTER(_Term), ctypes.c_int64, ctypes.POINTER(_Buffer),
            ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_double),
        ]  # fmt: skip
        self._looks = {
            ctypes.c_int32: self._library.mergecore_look,
            ctypes.c_int64: self._library.mergecore_look_wide,
        }
        for integer, look in self._looks.items():
            look.restype = ctypes.c_int64
            look.argtypes = [
                ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(_Buffer), ctypes.c_int64,
                ctypes.c_int64, ctypes.POINTER(integer), ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
                ctypes.POINTER(ctypes.c_int64),
            ]  # fmt: skip

        self._sha256 = self._library.mergecore_sha256
        self._sha256.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p]

    @property
    def isa(self) -> str:
        """Name of the instruction set in use."""
        return str(self._library.mergecore_isa().decode())

    def use(self, isa: str) -> bool:
        """Use an instruction set by name. Return whether this processor has it."""
        return bool(self._library.mergecore_use(isa.encode()))

    def encode(
        self, name: str, out: int, operands: Sequence[int], numbers: Sequence[float], keys: Sequence[int], last: int
    ) -> bytes:
        """See `mergecore.api.Kernels.encode`."""
        if "wide" in name and numbers:
            keys = struct.unpack("<2I", struct.pack("<q", last))
            (last,), numbers = struct.unpack("<q", struct.pack("<d", *numbers)), ()
        registers = [*operands, 0, 0, 0][:3]
        x, y = [*numbers, 0.0, 0.0][:2]
        first, second = [*keys, 0, 0][:2]
        return OPERATION.pack(CODES.index(name), out, *registers, x, y, first, second, last)

    def run(
        self,
        program: bytes,
        result: int,
        inputs: Sequence[tuple[int, str]],
        out: tuple[int, str],
        count: int,
        offset: int,
    ) -> bool:
        """See `mergecore.api.Kernels.run`. Python's lock is not held."""
        buffers = _buffers(inputs)
        to = _Buffer(out[0], WIDE_DTYPE if out[1] == "F64" else DTYPES[out[1]])
        length = len(program) // OPERATION.size
        return bool(self._run(program, length, result, buffers, to, count, offset))

    def sums(
        self,
        program: bytes,
        terms: Sequence[tuple[int, int]],
        inputs: Sequence[tuple[int, str]],
        count: int,
        offset: int,
        sums: Sequence[float],
    ) -> list[float]:
        """See `mergecore.api.Kernels.sums`."""
        pairs = (_Term * len(terms))(*(_Term(*term) for term in terms))
        out = (ctypes.c_double * len(sums))(*sums)
        length = len(program) // OPERATION.size
        self._sums(program, length, pairs, len(terms), _buffers(inputs), count, offset, out)
        return list(out)

    def look(
        self,
        program: bytes,
        result: int,
        inputs: Sequence[tuple[int, str]],
        count: int,
        offset: int,
        edges: Sequence[int],
        inner: int,
        picked: int,
        wide: bool = False,
    ) -> tuple[list[int], int]:
        """See `mergecore.api.Kernels.look`."""
        size, length = len(edges), len(program) // OPERATION.size
        integer = ctypes.c_int64 if wide else ctypes.c_int32
        above, at = (ctypes.c_int64 * size)(), (integer * size)(*edges)
        kept = self._looks[integer](
            program, length, result, _buffers(inputs), count, offset, at, size, inner, picked, above
        )
        return list(above), int(kept)

    def sha256(self, data: int, count: int, size: int) -> bytes | None:
        """See `mergecore.api.Kernels.sha256`. Python's lock is not held."""
        digests = ctypes.create_string_buffer(32 * count)
        return digests.raw if self._sha256(data, count, size, digests) else None


def _buffers(inputs: Sequence[tuple[int, str]]) -> Any:
    return (_Buffer * len(inputs))(*(_Buffer(address, DTYPES[dtype]) for address, dtype in inputs))
