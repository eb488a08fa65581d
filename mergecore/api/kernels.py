"""The interface of native code that computes merges without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Kernels(Protocol):
    """Native code that runs programs of elementwise operations over stored tensors."""

    isa: str
    """Name of the instruction set in use."""
    codes: frozenset[str]
    """The operations that it knows."""
    dtypes: frozenset[str]
    """The stored dtypes that it reads and writes."""
    registers: int
    """The number of tensors that a program can hold at a time."""
    wide_registers: int
    """The same for float64. Operations on these tensors have names that start with ``wide_``."""

    def encode(
        self, name: str, out: int, operands: Sequence[int], numbers: Sequence[float], keys: Sequence[int], last: int
    ) -> bytes:
        """Return an operation as part of a program.

        Args:
            name: one of `codes`.
            out: register of the result, which is none of the operands.
            operands: registers of the operands.
            numbers: up to two numbers, rounded to float32 unless the operation works on float64.
            keys: the number of the input for ``load``, or the two keys for ``random``.
            last: the last flat index to keep among equals, for ``keep``.
        """

    def run(
        self,
        program: bytes,
        result: int,
        inputs: Sequence[tuple[int, str]],
        out: tuple[int, str],
        count: int,
        offset: int,
    ) -> bool:
        """Run a program in float32, with one rounding at the end. Return whether all numbers written are finite.

        Args:
            program: the encoded operations.
            result: the register to write.
            inputs: address and dtype of each input.
            out: address and dtype of the output. F64 writes a wide register as it is.
            count: number of elements.
            offset: flat index of the first element in its tensor.
        """

    def sums(
        self,
        program: bytes,
        terms: Sequence[tuple[int, int]],
        inputs: Sequence[tuple[int, str]],
        count: int,
        offset: int,
        sums: Sequence[float],
    ) -> list[float]:
        """Run a program, and add sums of products to running sums: in blocks, with the order of mergecore-numerics.

        Args:
            program: see `run`.
            terms: the two registers to multiply, or a register and -1 to sum magnitudes.
            inputs: see `run`.
            count: see `run`.
            offset: see `run`. A multiple of `BLOCK`.
            sums: the running sum of each term.
        """

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
        """Run a program, count the magnitudes of its result above edges, and pick those between two of them.

        Args:
            program: see `run`.
            result: the register of the numbers.
            inputs: see `run`.
            count: see `run`.
            offset: see `run`.
            edges: up to 8 increasing integers, compared with the bits of the magnitudes in float32.
            inner: index of the edge above which to pick, up to and including the next edge. -1: pick nothing.
            picked: address of room for `count` integers, unless nothing is picked.
            wide: whether the register is a wide one. Edges and magnitudes are then the bits of float64 numbers.

        Returns:
            The count above each edge, and the number of picked magnitudes.
        """

    def sha256(self, data: int, count: int, size: int) -> bytes | None:
        """Return the SHA-256 of neighboring blocks, one after another, or None if `hashlib` is as fast here.

        Args:
            data: address of the first block.
            count: number of blocks.
            size: bytes of each block, a multiple of 64.
        """
