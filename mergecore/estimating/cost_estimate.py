"""Estimate the cost of a run: bytes, memory, disk, and time, based on a trial of about a second on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mergecore.api import TILE_ELEMENTS, Executor
from mergecore.discovery import Registry
from mergecore.estimating.sampling import Stratum, allocate, stratify
from mergecore.estimating.trial_run import Trial, run_trial
from mergecore.planning import Plan, job_cost
from mergecore.running import Options

SECONDS = 0.7
"""How long the second trial should take."""

PILOT = 1 / 16
"""How long the first trial should take, as a fraction of the second. It only shows where the time goes."""

DISK_BYTES = 2**25
"""Bytes to write to measure the disk."""


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a run.

    Attributes:
        read: bytes of weights to read, counted once per pass. A method with a measuring pass reads its inputs at least
            twice. The same applies to the inputs of a stage for every pass over the stage.
        written: bytes of weights to write.
        memory: maximum bytes of tensors in memory, with the tiles of the threads executor.
        free: free bytes on the output's disk.
        seconds: time of the run, including its start, without downloads, evaluations, and the health check. None if
            weights are not downloaded yet, or nothing can be written next to the output folder.
    """

    read: int
    written: int
    memory: int
    free: int
    seconds: float | None


def estimate_cost(
    plan: Plan, registry: Registry, executor: Executor, folder: Path, options: Options, started: float
) -> CostEstimate:
    """Estimate the cost of a plan. Merge a sample into a temporary folder to measure the speed.

    Args:
        plan: the plan to estimate.
        registry: the plugins.
        executor: the executor that will run it.
        folder: the output folder. It or one of its parents must exist.
        options: options of the run.
        started: the value of `time.perf_counter` when this process started to work on the plan.
    """
    # A run has the same start as this process. Its modules were loaded before the clock could be read.
    start = max(time.process_time(), time.perf_counter() - started)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    reads = [sum(job_cost(job, plan.checkpoints)) for job in plan.jobs]
    largest = max((job.memory(TILE_ELEMENTS) for job in plan.jobs), default=0)
    seconds = None
    if not plan.download:
        with contextlib.suppress(OSError):  # the folder cannot be written
            seconds = start + _measure(plan, reads, registry, executor, there, options)
    return CostEstimate(
        read=sum(reads),
        written=plan.bytes_out,
        memory=min(options.memory, options.workers * largest),
        free=shutil.disk_usage(there).free,
        seconds=seconds,
    )


def _measure(
    plan: Plan, reads: Sequence[int], registry: Registry, executor: Executor, folder: Path, options: Options
) -> float:
    """Return the seconds to merge a plan, without the start of the process."""
    strata = stratify(plan.jobs, reads, options)
    if not strata:
        return 0.0
    trials, late = list[Trial](), 0.0
    with tempfile.TemporaryDirectory(prefix=".mergecore-plan-", dir=folder) as scratch:
        synced = _sync_rate(Path(scratch), min(DISK_BYTES, plan.bytes_out))
        for seconds in (SECONDS * PILOT, SECONDS):
            parts = allocate(strata, seconds * options.workers, pilot=not trials)
            trial = partial(run_trial, plan, parts, registry, executor, Path(scratch) / str(len(trials)), options)
            known, began = "torch" in sys.modules, time.perf_counter()
            trials.append(trial())
            if not known and "torch" in sys.modules:  # a run imports it too, but once
                imported = time.perf_counter()
                trials[-1] = trial()
                late = max(0.0, (imported - began) - (time.perf_counter() - imported))
            for stratum in strata:
                stratum.learn(trials[-1].timings)
    pilot, main = trials
    more = len(main.timings) - len(pilot.timings)
    each = max(0.0, main.prepared - pilot.prepared) / more if more > 0 else 0.0
    return late + pilot.prepared + each * len(plan.jobs) + _slowest(strata, plan.bytes_out, synced, options.workers)


def _slowest(strata: Sequence[Stratum], written: int, synced: float, workers: int) -> float:
    """Return the seconds of what a run waits for: its threads, the largest tensor, the cores, or the disk."""
    return max(
        sum(item.seconds / item.threads for item in strata),
        *(item.longest for item in strata),
        sum(item.cpu_seconds for item in strata) / workers,
        written / synced,
    )


def _sync_rate(folder: Path, size: int) -> float:
    """Return how many written bytes per second become safe from a power loss."""
    piece = os.urandom(min(size, 2**22))  # random, because some disks compress
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(0, size, len(piece) or 1):
            file.write(piece)
        file.flush()
        started = time.perf_counter()
        os.fsync(file.fileno())
        return max(size, 1) / (time.perf_counter() - started)
