"""Compute the tensors of a stage on read, so that intermediate models of a recipe are never written to disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mergecore.api import ITEM_BYTES, TILE_ELEMENTS, Input, Job, Reader, TensorInfo, TileMerger, Work, torch_dtype
from mergecore.api.files import parts_of
from mergecore.models import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class ReadCost(NamedTuple):
    """The cost of reading a tensor.

    Attributes:
        once: bytes of files to read before the first element is available, to measure or compute the whole tensor.
        each: bytes of files to read on each pass over the tensor.
        memory: scratch memory in bytes to compute a piece, including data kept between pieces. 0 if it is in a file.
    """

    once: int = 0
    each: int = 0
    memory: int = 0


def read_cost(reader: Reader, name: str, elements: int | None = None) -> ReadCost:
    """Return the cost of reading a number of elements of a tensor (default: all)."""
    info = reader.tensors[name]
    if isinstance(reader, StageReader):
        once, each, memory = reader.cost(name)
    elif (parts := parts_of(reader, name)) is not None:
        once = each = memory = 0
        for part in parts:
            cost = read_cost(*part)
            once, each, memory = once + cost.once, each + cost.each, memory + cost.memory
    else:
        return ReadCost(0, (info.elements if elements is None else elements) * ITEM_BYTES[info.dtype])
    if elements is not None and info.elements:
        each = each * elements // info.elements
    return ReadCost(once, each, memory)


def inputs_of(job: Job, checkpoints: Sequence[Checkpoint]) -> list[tuple[Reader, str, int]]:
    """Return the readers, tensors, and numbers of elements that a job reads."""
    return [(checkpoints[i.model].readers[i.tensor], i.tensor, i.info.elements) for i in job.inputs]


def stage_readers(reader: Reader, name: str) -> Iterator[tuple[StageReader, str]]:
    """Yield the stage tensors that a tensor is read from, through all views."""
    if isinstance(reader, StageReader):
        yield reader, name
    else:
        for part, label, _ in parts_of(reader, name) or ():
            yield from stage_readers(part, label)


def release(job: Job, checkpoints: Sequence[Checkpoint]) -> None:
    """Free all data kept to compute a job's inputs. It is computed again if another job needs it."""
    for reader, name, _ in inputs_of(job, checkpoints):
        for maker, label in stage_readers(reader, name):
            maker.release(label)


@dataclass
class _Held:
    """A value that is computed once for a tensor, on first use."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None

    def get(self, make: Callable[[], Any]) -> Any:
        with self.turn:
            if self.value is None:
                self.value = make()
            return self.value


class StageReader:
    """A `mergecore.api.Reader` for a stage. Tensors are rounded to their dtypes as if a run had written them.

    If the method allows tiles, only the requested tiles are computed, and its measurements are kept until `release`.
    If the method needs the whole tensor, the whole tensor is computed and kept.

    Args:
        jobs: the jobs of the stage.
        checkpoints: its input models.
    """

    def __init__(self, jobs: Sequence[Job], checkpoints: Sequence[Checkpoint]) -> None:
        self.tensors: Mapping[str, TensorInfo] = {job.name: job.info for job in jobs}
        self._jobs, self._checkpoints = {job.name: job for job in jobs}, checkpoints
        self._costs: dict[str, ReadCost] = {}
        self._held: dict[str, _Held] = {}
        self._turn = threading.Lock()
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[type[StageReader], tuple[Any, ...]]:
        return StageReader, (list(self._jobs.values()), self._checkpoints)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        job = self._jobs[name]
        if not len(out):
            return
        if job.is_whole:
            out.copy_(self._hold(name, lambda: self._whole(job))[start : start + len(out)])
            return
        merger, end = self._merger(), start + len(out)
        ctx = self._hold(name, lambda: merger.context(job))
        for piece in job.pieces(TILE_ELEMENTS, start, end):
            made = merger.made(job, piece, ctx).reshape(-1)
            first, last = max(start, piece.start), min(end, piece.start + piece.elements)
            out[first - start : last - start] = made[first - piece.start : last - piece.start]

    def _whole(self, job: Job) -> Tensor:
        import torch

        merger = self._merger()
        ctx, (piece,) = merger.context(job), job.pieces(TILE_ELEMENTS)
        return torch.empty(piece.elements, dtype=torch_dtype(job.info.dtype)).copy_(
            merger.made(job, piece, ctx).reshape(-1)
        )

    def _hold(self, name: str, make: Callable[[], Any]) -> Any:
        with self._turn:
            held = self._held.setdefault(name, _Held())
        return held.get(make)

    def _merger(self) -> TileMerger:
        if not hasattr(self._of_thread, "merger"):
            work = Work([], self._read, _nowhere, _nobody, _nobody, 0, 1)
            self._of_thread.merger = TileMerger(work, TILE_ELEMENTS)
        merger: TileMerger = self._of_thread.merger
        return merger

    def _read(self, item: Input, start: int, out: Tensor | memoryview) -> None:
        self._checkpoints[item.model].read(item.tensor, start, out)

    def release(self, name: str) -> None:
        """Free the data kept to compute a tensor, including that for its inputs."""
        with self._turn:
            held = self._held.pop(name, None)
        if held is not None:
            release(self._jobs[name], self._checkpoints)

    def cost(self, name: str) -> ReadCost:
        """Return the cost of reading a whole tensor."""
        if name not in self._costs:
            job = self._jobs[name]
            once, each = job_cost(job, self._checkpoints)
            memory = job.memory(TILE_ELEMENTS)
            whole = job.is_whole
            self._costs[name] = (
                ReadCost(once + each, 0, memory + job.info.nbytes) if whole else ReadCost(once, each, memory)
            )
        return self._costs[name]

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers, tensors, and numbers of elements that a tensor is computed from."""
        return inputs_of(self._jobs[name], self._checkpoints)

    def job(self, name: str) -> tuple[Job, Sequence[Checkpoint]]:
        """Return the job that computes a tensor, and its input models."""
        return self._jobs[name], self._checkpoints

    def close(self) -> None:
        """Do nothing, because the files belong to the models."""


def job_cost(job: Job, checkpoints: Sequence[Checkpoint]) -> tuple[int, int]:
    """Return the bytes of files that a job reads before its method merges, and while it merges."""
    found = [read_cost(*item) for item in inputs_of(job, checkpoints)]
    each = sum(item.each for item in found)
    return sum(item.once for item in found) + (each if job.measures else 0), each


def _nowhere(_name: str, _start: int, _data: object) -> None:
    """Ignore writes, because the result is only read."""


def _nobody(_value: object) -> None:
    """Ignore progress."""
