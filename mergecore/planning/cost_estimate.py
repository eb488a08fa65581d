"""Estimate the cost of a plan: bytes, memory, disk, and time, based on a one-second measurement on this machine."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import ITEM_BYTES, TILE_ELEMENTS, Executor, Input, Job, Work
from mergecore.builtin import as_bytes, write_at
from mergecore.planning.plan import Plan
from mergecore.planning.stage_reader import job_cost, release

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 1.0
"""How long to measure, in seconds."""

SAMPLE_BYTES = 2**26
"""Size of the largest output tensor to measure. Larger tensors take the same time per byte."""


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a run.

    Attributes:
        read: bytes of weights to read, counted once per pass. A method with a measuring pass reads its inputs at least
            twice. The same applies to the inputs of a stage for every pass over the stage.
        written: bytes of weights to write.
        memory: maximum bytes of tensors in memory, with the tiles of the threads executor.
        free: free bytes on the output's disk.
        seconds: merge time, measured on a sample. None if there is too little to measure, or weights are not
            downloaded yet.
    """

    read: int
    written: int
    memory: int
    free: int
    seconds: float | None


def estimate_cost(plan: Plan, executor: Executor, folder: Path, memory: int, workers: int) -> CostEstimate:
    """Estimate the cost of a plan. Merge into a temporary file for about a second to measure the speed.

    Args:
        plan: the plan to estimate.
        executor: the executor that will run it.
        folder: the output folder. It or one of its parents must exist.
        memory: memory budget in bytes.
        workers: number of threads.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    largest = max((job.memory(TILE_ELEMENTS) for job in plan.jobs), default=0)
    return CostEstimate(
        read=sum(_read(plan, job) for job in plan.jobs),
        written=plan.bytes_out,
        memory=min(memory, workers * largest),
        free=shutil.disk_usage(there).free,
        seconds=None if plan.download else _seconds(plan, executor, there, memory, workers),
    )


def _read(plan: Plan, job: Job) -> int:
    return sum(job_cost(job, plan.checkpoints))


def _effort(plan: Plan, jobs: Iterable[Job]) -> int:
    return sum(_read(plan, job) + job.info.nbytes for job in jobs)


def _seconds(plan: Plan, executor: Executor, folder: Path, memory: int, workers: int) -> float | None:
    done, elapsed = 0, 0.0
    with tempfile.TemporaryFile(dir=folder) as file:
        for batch in _batches(plan, workers):
            started = time.perf_counter()
            executor.run(_work(plan, batch, file.fileno(), memory, workers))
            elapsed += time.perf_counter() - started
            done += _effort(plan, batch)
            if elapsed > SECONDS:
                break
    return elapsed * _effort(plan, plan.jobs) / done if done else None


def _batches(plan: Plan, workers: int) -> Iterator[list[Job]]:
    """Yield batches of jobs from all over the plan, each large enough to keep the workers busy."""
    jobs = [job for job in plan.jobs if 0 < job.info.nbytes <= SAMPLE_BYTES]
    step = next((step for step in range(len(jobs) * 5 // 8, 0, -1) if math.gcd(step, len(jobs)) == 1), 1)
    order = [jobs[index * step % len(jobs)] for index in range(len(jobs))]
    size = 2 * workers
    return (order[start : start + size] for start in range(0, len(order), size))


def _work(plan: Plan, jobs: list[Job], file: int, memory: int, workers: int) -> Work:
    """Return work whose output goes to one file, where each batch overwrites the one before."""

    def read(item: Input, start: int, out: Tensor) -> None:
        plan.checkpoints[item.model].read(item.tensor, start, out)

    def write(name: str, start: int, data: Tensor) -> None:
        write_at(file, as_bytes(data), places[name] + start * ITEM_BYTES[tensors[name].dtype])

    def done(job: Job) -> None:
        release(job, plan.checkpoints)

    tensors, ends = plan.tensors, [0]
    for job in jobs:
        ends.append(ends[-1] + job.info.nbytes)
    places = dict(zip((job.name for job in jobs), ends))
    return Work(jobs, read, write, _nothing, done, memory, workers)


def _nothing(_value: object) -> None:
    """Ignore progress during a measurement."""
