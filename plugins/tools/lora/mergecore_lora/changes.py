"""The changes that an adapter makes to a tensor: a low-rank sum (LoRA or DoRA), new values, or new rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from mergecore.api import Change, Reader, torch_dtype

BLOCK = 2**16
"""Approximate number of elements of a low-rank product to compute at a time. The block boundaries do not depend on the
requested piece, so that the bits never depend on the pieces."""

ReadUnchanged = Callable[[int, Tensor], None]


class Stored(NamedTuple):
    """A tensor in an adapter's file."""

    reader: Reader
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.reader.tensors[self.name].shape

    def load(self) -> Tensor:
        """Return the whole tensor in float32."""
        info = self.reader.tensors[self.name]
        return self.part(0, info.elements).view(info.shape)

    def part(self, start: int, count: int) -> Tensor:
        """Return a flat range of elements in float32."""
        out = torch.empty(count, dtype=torch_dtype(self.reader.tensors[self.name].dtype))
        self.reader.read(self.name, start, out)
        return out.to(torch.float32)


class LowRankFactors(Protocol):
    """The two factors of a change: left[e] @ right[e] for each of the matrices e of a tensor."""

    @property
    def rows(self) -> int:
        """Number of rows of each matrix."""

    @property
    def columns(self) -> int:
        """Number of columns of each matrix."""

    @property
    def transposed(self) -> bool:
        """Whether the tensor is stored as (in, out)."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Return left (matrices, rows, rank) and right (matrices, rank, columns)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The two factors of a change, scale · left[e] @ right[e] for each matrix e of the tensor.

    Attributes:
        a, b: The factors as PEFT stores them: A (rank, in) and B (out, rank), or the ranks of all experts combined.
        matrices, rows, columns: Number and size of the matrices that make up the tensor.
        transposed: Whether the tensor is stored as (in, out).
        scale: Factor of the product.
    """

    a: Stored
    b: Stored
    matrices: int
    rows: int
    columns: int
    transposed: bool
    scale: float

    def load(self) -> tuple[Tensor, Tensor]:
        """Return left (matrices, rows, rank), which includes the scale, and right (matrices, rank, columns)."""
        a, b = self.a.load().flatten(1), self.b.load().flatten(1)
        # PEFT orders the ranks of experts differently in the two factors: by expert in A, by rank in B.
        a = a.view(self.matrices, -1, a.shape[1])
        b = b.view(b.shape[0], -1, self.matrices).permute(2, 0, 1)
        left, right = (a.mT, b.mT) if self.transposed else (b, a)
        return (left * self.scale).contiguous(), right.contiguous()


_held = threading.local()
"""The factors that each thread used last, because the pieces of a tensor are read consecutively."""

HELD = 4
"""Number of changes whose factors a thread keeps: as many as one model is likely to have."""

Loaded = TypeVar("Loaded")


def held(change: object, load: Callable[[], Loaded]) -> Loaded:
    """Return what a change loads, from the last time if this thread used the change recently."""
    items = getattr(_held, "items", [])
    found = [item for item in items if item[0] is change]
    if not found:
        found = [(change, load())]
        _held.items = (found + items)[:HELD]
    loaded: Loaded = found[0][1]
    return loaded


class RowBlock(NamedTuple):
    """Rows `first` to `last` of a matrix: the part of them that is requested, and its place in the requested piece."""

    matrix: int
    first: int
    last: int
    block: slice
    piece: slice


def row_blocks(start: int, length: int, rows: int, columns: int) -> Iterator[RowBlock]:
    """Yield the blocks of rows that a piece of a tensor of matrices touches."""
    step = _step(columns)
    position, end = start, start + length
    while position < end:
        matrix, inside = divmod(position // columns, rows)
        first = inside - inside % step
        last = min(first + step, rows)
        begin = (matrix * rows + first) * columns
        until = min((matrix * rows + last) * columns, end)
        yield RowBlock(
            matrix, first, last, slice(position - begin, until - begin), slice(position - start, until - start)
        )
        position = until


@dataclass(frozen=True, eq=False)
class LowRank:
    """Add scale · B @ A. With `magnitude`, then rescale each output's row to that norm (DoRA, arXiv 2402.09353)."""

    factors: LowRankFactors
    magnitude: Stored | None = None

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        left, right, ratio = held(self, lambda: self._loaded(read))
        columns = self.factors.columns
        for part in row_blocks(start, len(values), self.factors.rows, columns):
            piece = values[part.piece]
            product = left[part.matrix, part.first : part.last].clone() @ right[part.matrix]
            piece += product.view(-1)[part.block]
            if ratio is not None:
                by_output = ratio[None] if self.factors.transposed else ratio[part.first : part.last, None]
                piece *= by_output.expand(part.last - part.first, columns).reshape(-1)[part.block]

    def _loaded(self, read: ReadUnchanged) -> tuple[Tensor, Tensor, Tensor | None]:
        left, right = self.factors.load()
        return left, right, self._ratio(left[0], right[0], read) if self.magnitude is not None else None

    def _ratio(self, left: Tensor, right: Tensor, read: ReadUnchanged) -> Tensor:
        """Return the factor of each output: its magnitude divided by its norm after the sum."""
        assert self.magnitude is not None
        rows, columns = self.factors.rows, self.factors.columns
        squares = torch.zeros(columns if self.factors.transposed else rows, dtype=torch.float64)
        for first, last in _blocks(rows, columns):
            block = torch.empty((last - first) * columns)
            read(first * columns, block)
            summed = (block.view(-1, columns) + left[first:last].clone() @ right).double().square()
            if self.factors.transposed:
                squares += summed.sum(0)
            else:
                squares[first:last] = summed.sum(1)
        return (self.magnitude.load().view(-1).double() / squares.sqrt()).float()


def _step(columns: int) -> int:
    """Return the number of rows in a block."""
    return max(1, BLOCK // columns)


def _blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = _step(columns)
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


@dataclass(frozen=True, eq=False)
class Plus:
    """Add a scaled stored tensor, the bias of a low-rank change."""

    tensor: Stored
    scale: float

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        values += self.scale * self.tensor.part(start, len(values))


@dataclass(frozen=True, eq=False)
class Same:
    """Keep the model's tensor."""

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""


@dataclass(frozen=True, eq=False)
class Instead:
    """Replace the model's tensor with a stored one."""

    tensor: Stored

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        values.copy_(self.tensor.part(start, len(values)))


@dataclass(frozen=True, eq=False)
class Rows:
    """Replace some rows of the model's tensor with stored ones, for individually trained tokens."""

    tensor: Stored
    numbers: tuple[int, ...]

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        width = self.tensor.shape[1]
        end = start + len(values)
        for place, number in enumerate(self.numbers):
            first, last = max(number * width, start), min((number + 1) * width, end)
            if first < last:
                part = self.tensor.part(place * width + first - number * width, last - first)
                values[first - start : last - start] = part


@dataclass(frozen=True, eq=False)
class Then:
    """Apply one change after another."""

    first: Change
    second: Change

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""

        def read_first(start: int, out: Tensor) -> None:
            read(start, out)
            self.first.apply(start, out, read)

        self.first.apply(start, values, read)
        self.second.apply(start, values, read_first)
