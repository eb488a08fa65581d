"""The operations of a program as a graph, and the tensors that they are recorded for."""

from __future__ import annotations

from dataclasses import dataclass, field


class Untraceable(Exception):
    """A method does something that cannot be recorded. The message says what."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of `mergecore.api.Kernels`, and the operations whose results it works on."""

    name: str
    operands: tuple[Node, ...] = ()
    numbers: tuple[float, ...] = ()
    keys: tuple[int, ...] = ()
    last: int = 0

    @property
    def wide(self) -> bool:
        """Whether its numbers are float64."""
        return self.name.startswith("wide")


@dataclass(eq=False, repr=False)
class Value:
    """A tensor whose elements are not known: the operation that computes it, and whether it is a mask.

    A comparison gives a mask, which few operations take. Its numbers are 1 and 0.
    """

    node: Node
    mask: bool = field(default=False)
