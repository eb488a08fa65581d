"""Recompute some tensors from the parents with the recipe in the lock file, and compare them bit for bit."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mergecore.api import InputError, TensorInfo, Work
from mergecore.tooling import (
    Checkpoint,
    FileTensorIO,
    Lock,
    Registry,
    as_bytes,
    available_cores,
    changed_since,
    load_recipe,
    make_plan,
    memory_budget,
    prefetch,
)
from mergecore_verify.findings import Finding, few

if TYPE_CHECKING:
    from torch import Tensor


class Comparison:
    """A writer that compares data with the stored tensors instead of writing it. See `mergecore.api.Writer`."""

    def __init__(self, stored: Checkpoint) -> None:
        self.wrong: set[str] = set()
        self._stored = stored

    def write(self, name: str, start: int, data: Tensor) -> None:
        out = data.new_empty(data.shape)
        self._stored.read(name, start, out)
        if as_bytes(out) != as_bytes(data):
            self.wrong.add(name)

    def sync(self) -> None:
        """Do nothing."""

    finish = close = sync


def check_sample(checkpoint: Checkpoint, lock: Lock | None, registry: Registry, count: int) -> Finding:
    """Recompute `count` tensors of the plan in the lock file, chosen at random with a fixed seed.

    Raises:
        InputError: There is no lock file, or the parents are missing or changed.
    """
    if lock is None:
        raise InputError(f"{checkpoint.folder}: has no lock file, which --sample needs to recompute tensors")
    memory = memory_budget()
    plan = make_plan(load_recipe(lock.file), registry, memory)
    try:
        prefetch(plan, _ignore)
        comparison = Comparison(checkpoint)
        jobs = random.Random(0).sample(plan.jobs, min(count, len(plan.jobs)))
        wrong = {job.name for job in jobs if not _is_stored(checkpoint, job.name, job.info)}
        jobs = [job for job in jobs if job.name not in wrong]
        ends = FileTensorIO(plan.checkpoints, plan.jobs, lambda: comparison, allow_nonfinite=True)
        work = Work(jobs, ends.read, ends.write, _ignore, _ignore, memory, available_cores())
        registry.provide("executors", "threads")().run(work)
        return _judge(comparison.wrong | wrong, len(jobs) + len(wrong), changed_since(lock, plan, registry))
    finally:
        plan.close()


def _is_stored(checkpoint: Checkpoint, name: str, info: TensorInfo) -> bool:
    return checkpoint.tensors.get(name) == info


def _ignore(*_: object) -> None:
    pass


def _judge(wrong: set[str], count: int, changed: str) -> Finding:
    if wrong:
        return Finding(
            "sample", False, f"{few(wrong)} not reproduced by the recipe" + (f"; {changed}" if changed else "")
        )
    return Finding("sample", True, f"{count} tensors recomputed from the parents are bit-identical")
