"""What a plan will cost: bytes, memory, disk, and the time as a second's measurement of this machine tells it."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import ITEM_BYTES, Executor, Input, Job, Work
from mergecore.builtin import TILE_ELEMENTS, as_bytes, write_at
from mergecore.planning.plan import Plan
from mergecore.planning.stage_reader import job_cost, release

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 1.0
"""How long to measure."""

SAMPLE_BYTES = 2**26
"""The largest output tensor that is merged to measure; one that is larger takes as long for each of its bytes."""


@dataclass(frozen=True)
class Price:
    """What a run costs.

    Attributes:
        read: bytes of weights, counted once for each time that the method goes through them; a method that measures
            goes through them twice, or a little more, and so does each stage for every time that one goes through it.
        written: bytes of weights.
        memory: most bytes of tensors in flight, with the tiles of the threads executor.
        free: bytes that the output's disk has left.
        seconds: of merging, measured on a sample; None where there is too little to tell, or weights are not here yet.
    """

    read: int
    written: int
    memory: int
    free: int
    seconds: float | None


def price(plan: Plan, executor: Executor, folder: Path, memory: int, workers: int) -> Price:
    """Price a plan; merges for about a second to see how quick it goes, into a file that is gone at the end.

    Args:
        plan: what to do.
        executor: what will run it.
        folder: where the output's folder would be made; it or a folder above it exists.
        memory: bytes that may be in flight.
        workers: threads.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    largest = max((job.memory(TILE_ELEMENTS) for job in plan.jobs), default=0)
    return Price(
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
    """Jobs from all over the plan, as many at a time as keep the workers busy; the first warms them up."""
    jobs = [job for job in plan.jobs if 0 < job.info.nbytes <= SAMPLE_BYTES]
    step = next((step for step in range(len(jobs) * 5 // 8, 0, -1) if math.gcd(step, len(jobs)) == 1), 1)
    order = [jobs[index * step % len(jobs)] for index in range(len(jobs))]
    size = 2 * workers
    return (order[start : start + size] for start in range(0, len(order), size))


def _work(plan: Plan, jobs: list[Job], file: int, memory: int, workers: int) -> Work:
    """Jobs whose result goes into one file, each over the last."""

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
    """Nobody is told of a measurement."""
