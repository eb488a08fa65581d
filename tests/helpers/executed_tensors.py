"""Run a recipe with an executor and keep the resulting tensors in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mergecore
from mergecore.api import Executor, Work, torch_dtype


def made_by(executor: Executor, workers: int, made: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a recipe as written by an executor."""
    plan = mergecore.plan(made)
    result = {name: torch.empty(info.elements, dtype=torch_dtype(info.dtype)) for name, info in plan.tensors.items()}

    def write(name: str, start: int, data: Tensor) -> None:
        result[name][start : start + data.numel()] = data

    def read(item: Any, start: int, out: Tensor) -> None:
        plan.checkpoints[item.model].read(item.tensor, start, out)

    executor.run(Work(plan.jobs, read, write, lambda _: None, lambda _: None, memory=2**26, workers=workers))
    plan.close()
    return result
