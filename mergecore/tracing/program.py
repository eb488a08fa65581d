"""Turn what a method does into a program for the kernels: operations in order, and registers that are used again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergecore.api import Context, Job, Kernels, Tile
from mergecore.tracing.nodes import Node, Untraceable
from mergecore.tracing.recording import Offset, record

LARGEST = 2**32
"""Maximum number of elements of a tensor, because random numbers change their keys there."""


@dataclass(frozen=True)
class Program:
    """A job's arithmetic for the kernels.

    Attributes:
        code: the encoded operations.
        results: the registers of the results.
        wide: whether each result is in a register for float64.
        operations: the operations in words, with their numbers.
    """

    code: bytes
    results: tuple[int, ...]
    wide: tuple[bool, ...]
    operations: tuple[str, ...]


def trace(job: Job, ctx: Context, kernels: Kernels) -> Program:
    """Return the program for a job's tiles.

    Args:
        job: the job, which has a method.
        ctx: its context, with measurements.
        kernels: what runs the program.

    Raises:
        Untraceable: the method does something that cannot be recorded.
    """
    if reason := _never(job, kernels):
        raise Untraceable(reason)
    unknown: Any = Offset()

    def merged(tensors: Sequence[Any]) -> Sequence[Any]:
        method: Any = job.method
        if method is None:
            return [tensors[0]]
        own = replace(ctx, offset=unknown)
        made = method.merge(method.prepare(job.models(tensors), own), own)
        return [tensors[0] + made if job.has_base else made]

    return program_of(merged, len(job.inputs), kernels)


def program_of(
    function: Callable[[Sequence[Any]], Sequence[Any]], count: int, kernels: Kernels, wide: bool = False
) -> Program:
    """Return the program for a function of `count` tensors that returns tensors. `wide` allows float64.

    Raises:
        Untraceable: the function does something that cannot be recorded.
    """
    try:
        roots = record(function, count, wide)
    except (AttributeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise Untraceable(f"{type(error).__name__}: {error}") from None
    return _compiled(roots, kernels)


def _never(job: Job, kernels: Kernels) -> str:
    """Return why a job cannot have a program, for reasons other than its method's arithmetic."""
    if job.method is not None and job.method.tile is not Tile.ELEMENTS:
        return f"works on {job.method.tile.value}, not on single elements"
    dtypes = {job.info.dtype, *(item.info.dtype for item in job.inputs)}
    if other := dtypes - kernels.dtypes:
        return f"reads or writes {min(other)}"
    return "" if job.info.elements < LARGEST else f"has {job.info.elements} elements"


def _compiled(roots: Sequence[Node], kernels: Kernels) -> Program:
    """Encode the operations that the results depend on, each once."""
    order = _ordered(roots)
    uses: dict[Node, int] = dict.fromkeys(order, 0)
    for node in order:
        for operand in node.operands:
            uses[operand] += 1
    for root in roots:
        uses[root] += 1  # never freed
    places: dict[Node, int] = {}
    banks = {False: list(range(kernels.registers))[::-1], True: list(range(kernels.wide_registers))[::-1]}
    code = []
    for node in order:
        if node.name not in kernels.codes:
            raise Untraceable(f"uses {node.name}, which the installed kernels do not know")
        if not banks[node.wide]:
            most = kernels.wide_registers if node.wide else kernels.registers
            raise Untraceable(f"needs more than {most} tensors at a time")
        places[node] = banks[node.wide].pop()  # before the operands are freed, because a result is none of its operands
        registers = [places[operand] for operand in node.operands]
        code.append(kernels.encode(node.name, places[node], registers, node.numbers, node.keys, node.last))
        for operand in node.operands:
            uses[operand] -= 1
            if not uses[operand]:
                banks[operand.wide].append(places[operand])
    results, wide = (tuple(values) for values in zip(*((places[root], root.wide) for root in roots)))
    return Program(b"".join(code), results, wide, tuple(map(_words, order)))


def _words(node: Node) -> str:
    """Return an operation in words, such as ``fma 0.3``. The keys of random numbers mean nothing to people."""
    numbers = node.keys if node.name == "load" else node.numbers
    return " ".join([node.name, *(f"{number:g}" for number in numbers)])


def _ordered(roots: Sequence[Node]) -> list[Node]:
    """Return nodes and all that they depend on, operands first."""
    order: dict[Node, None] = {}
    waiting = [(root, False) for root in reversed(roots)]
    while waiting:
        node, ready = waiting.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
        else:
            waiting += [(node, True), *((operand, False) for operand in reversed(node.operands))]
    return list(order)
