"""Merge a few tensors, or ranges of tensors, in the same way as a run, and time each."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import DerivedReader, Executor, Input, Job, Reader, TensorInfo, Tile, Work
from mergecore.discovery import Registry
from mergecore.models import Checkpoint, LayoutReader, Span
from mergecore.planning import Plan, StageReader, stage_readers
from mergecore.running import Listener, Options, OutputFolder, plan_digest, write_tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A range of the elements of a job's tensor: whole rows if its method needs rows or the whole tensor."""

    job: Job
    start: int
    elements: int

    @property
    def name(self) -> str:
        return self.job.name if self.elements == self.job.info.elements else f"{self.job.name}[{self.start}:]"

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.job.info.shape
        if self.elements == self.job.info.elements:
            return shape
        row = _row_elements(self.job)
        return (self.elements,) if row == 1 else (self.elements // row, *shape[1:])


def make_part(job: Job, start: int, elements: int) -> Part:
    """Return a part with at least this number of elements, as far as there are. It can start earlier than `start`."""
    row, total = _row_elements(job), job.info.elements
    size = min(total, -(-elements // row) * row)
    return Part(job, min(start, total - size) // row * row, size)


def _row_elements(job: Job) -> int:
    """Return the number of elements that cannot be separated: a row, or 1."""
    flat = job.method is None or job.method.tile is Tile.ELEMENTS or len(job.info.shape) < 2
    return 1 if flat else max(1, job.info.elements // job.info.shape[0])


@dataclass(frozen=True)
class Timing:
    """The seconds of one job in a trial: those on the clock, and those that its thread was computing."""

    part: Part
    wall: float
    cpu: float


@dataclass(frozen=True)
class Trial:
    """The timings of a trial, and the seconds to prepare the files and the lock file for its tensors."""

    timings: Sequence[Timing]
    prepared: float


def run_trial(
    plan: Plan, parts: Sequence[Part], registry: Registry, executor: Executor, out: Path, options: Options
) -> Trial:
    """Merge parts of a plan into a folder. Observers are not notified.

    Args:
        plan: the plan.
        parts: the parts, each only once.
        registry: the plugins.
        executor: the executor that will run the plan.
        out: path of an output folder, which is not published.
        options: options of the run.
    """
    silent = copy.copy(registry)
    silent.notify = _nothing  # type: ignore[method-assign]
    clock = _Clock(executor, {part.name: part for part in parts})
    sample = _sample(plan, parts)
    started = time.perf_counter()
    plan_digest(sample)  # a run needs it twice, to resume and for the lock file
    write_tensors(
        sample, OutputFolder(out), silent, clock, replace(options, allow_nonfinite=True), Listener(_nothing), True
    )
    return Trial(clock.timings, clock.started - started)


def _sample(plan: Plan, parts: Sequence[Part]) -> Plan:
    """Return a plan whose output tensors are parts of the tensors of another plan."""
    jobs, shown = [], [dict[str, Reader]() for _ in plan.checkpoints]
    for part in parts:
        job, readers = _cut(part, plan.checkpoints)
        jobs.append(job)
        for item, reader in zip(job.inputs, readers):
            shown[item.model][item.tensor] = reader
    checkpoints = tuple(_showing(item, readers) for item, readers in zip(plan.checkpoints, shown))
    return replace(plan, jobs=tuple(jobs), checkpoints=checkpoints, stages={}, kept={}, rows=None)


def _showing(checkpoint: Checkpoint, readers: dict[str, Reader]) -> Checkpoint:
    return replace(checkpoint, tensors={name: item.tensors[name] for name, item in readers.items()}, readers=readers)


def _cut(part: Part, checkpoints: Sequence[Checkpoint]) -> tuple[Job, list[Reader]]:
    """Return a job for a part, and a reader for each of its inputs."""
    inputs, readers = list[Input](), list[Reader]()
    for slot, item in enumerate(part.job.inputs):
        label = f"{part.name}.{slot}"
        inputs.append(replace(item, tensor=label, info=replace(item.info, shape=part.shape)))
        readers.append(_range(checkpoints[item.model].readers[item.tensor], item.tensor, part, label, inputs[-1].info))
    info = replace(part.job.info, shape=part.shape)
    return replace(part.job, name=part.name, info=info, inputs=tuple(inputs)), readers


def _range(reader: Reader, name: str, part: Part, label: str, info: TensorInfo) -> Reader:
    """Return a reader of the elements of a part. A stage measures only these, instead of the whole tensor."""
    start = part.start
    if any(maker.cost(stage).once for maker, stage in stage_readers(reader, name)):
        while isinstance(reader, DerivedReader) and len(sources := reader.parts(name)) == 1:
            reader, name, _ = sources[0]
        if isinstance(reader, StageReader):
            job, checkpoints = reader.job(name)
            cut, readers = _cut(make_part(job, start, part.elements), checkpoints)
            shown = [_showing(item, {}) for item in checkpoints]
            for item, one in zip(cut.inputs, readers):
                known = {**shown[item.model].readers, item.tensor: one}
                shown[item.model] = _showing(shown[item.model], known)
            reader, name, start = StageReader([cut], shown), cut.name, 0
    return LayoutReader({name: reader}, {label: info}, {label: [Span(name, start, info.elements)]})


class _Clock:
    """An executor that lets another one run the jobs and times them."""

    def __init__(self, executor: Executor, parts: dict[str, Part]) -> None:
        self.timings: list[Timing] = []
        self.started = 0.0
        self._executor, self._parts = executor, parts
        self._of_thread = threading.local()

    def run(self, work: Work) -> None:
        """See `mergecore.api.Executor.run`."""
        mine = self._of_thread

        def read(item: Input, start: int, out: Tensor | memoryview) -> None:
            if getattr(mine, "began", None) is None:
                cpu = time.thread_time()
                mine.ended = getattr(mine, "ended", cpu)
                mine.began = time.perf_counter() - (cpu - mine.ended)  # without the wait for memory
            work.read(item, start, out)

        def done(job: Job) -> None:
            work.done(job)
            cpu = time.thread_time()
            wall = time.perf_counter() - mine.began
            self.timings.append(Timing(self._parts[job.name], wall, cpu - mine.ended))
            mine.began, mine.ended = None, cpu

        self.started = time.perf_counter()
        self._executor.run(replace(work, read=read, done=done, elsewhere=None))


def _nothing(*_: Any, **__: Any) -> None:
    """Ignore an event."""
