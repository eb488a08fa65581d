"""Try a method on small tensors, and say what the kernels would run, or why torch computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import DeltaMethod, Input, Job, Kernels, Method, Piece, TensorInfo, Tiles
from mergecore.discovery.parameters import NO_VALUE, Parameter, declared
from mergecore.tracing import Untraceable, trace

if TYPE_CHECKING:
    from torch import Tensor

SHAPE = (8, 8)
"""Shape of the tensors."""


def recorded_operations(method: type[Method], kernels: Kernels) -> tuple[str, ...]:
    """Return the operations that the kernels run for a tile of a method, with its usual parameters.

    Raises:
        Untraceable: torch computes the method. The message says why.
    """
    low, high = method.models
    count = max(low, 2) if high is None else max(low, min(high, 2))
    subtracts = issubclass(method, DeltaMethod)
    values = {item.attribute: _usual(item, count) for item in declared(method).values()}
    try:
        made = method(**values)
    except Exception as error:
        raise Untraceable(f"cannot be tried with its usual parameters ({error})") from None
    info = TensorInfo("F32", SHAPE)
    inputs = tuple(Input(number, "weight", info) for number in range(count + subtracts))
    job = Job("weight", info, inputs, made, has_base=subtracts)
    try:
        ctx = job.context(Tiles(job, job.pieces(info.elements), _read) if job.measures else ())
    except Exception as error:
        raise Untraceable(f"cannot be tried with its usual parameters ({error})") from None
    return trace(job, ctx, kernels).operations


def _usual(item: Parameter, count: int) -> Any:
    value = item.default
    if value is NO_VALUE:
        kind = item.schema.get("type")
        value = {"number": 0.5, "integer": 1, "boolean": True}.get(str(kind), "")
        if item.schema.get("format") == "path":
            value = Path(str(value))
    return (value,) * count if item.per_model else value


def _read(job: Job, piece: Piece) -> Sequence[Tensor]:
    """Return tiles that differ a little from the first one, as models differ from their base."""
    import torch

    generator = torch.Generator().manual_seed(0)
    base, *changes = (torch.randn(piece.shape, generator=generator) for _ in job.inputs)
    return [base, *(base + change / 8 for change in changes)]
