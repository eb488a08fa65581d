"""What every executor needs to run jobs: threads, a memory budget, and a merger that works tile by tile."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mergecore.api.files import ITEM_BYTES, torch_dtype
from mergecore.api.jobs import Input, Job, Piece, Tiles, Work
from mergecore.api.memory import as_tensor, new_memory
from mergecore.api.methods import Context

if TYPE_CHECKING:
    from torch import Tensor

TILE_ELEMENTS = 2**18
"""Elements of a flat tile: small enough for the CPU cache, large enough to make the Python overhead negligible."""


def in_threads(tasks: Sequence[Callable[[], None]], errors: list[BaseException]) -> None:
    """Run each task in a separate thread and wait for all. Add their exceptions, and interrupts, to `errors`."""

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(task,), name=f"merge-{n}", daemon=True) for n, task in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # an interrupt, but files can be closed only when all threads have ended
                errors.append(error)


@dataclass
class TileMerger:
    """Runs jobs one after another in one thread, and reuses its buffers for reading."""

    work: Work
    tile: int
    errors: list[BaseException] = field(default_factory=list)
    """Errors of all threads. After the first one, nothing more is read."""
    buffers: dict[tuple[int, str], memoryview] = field(default_factory=dict)

    def make(self, job: Job) -> None:
        """Read, merge, and write every tile of a job."""
        pieces = job.pieces(self.tile)
        if pieces:
            ctx = self.context(job)
            for piece in pieces:
                self.write(job, piece, self.made(job, piece, ctx))

    def context(self, job: Job) -> Context:
        """Return the context for the tiles of a job, with measurements if the method uses them."""
        return job.context(Tiles(job, job.pieces(self.tile), self.read) if job.measures else ())

    def made(self, job: Job, piece: Piece, ctx: Context) -> Tensor:
        """Return a piece of the result before rounding to the output's dtype. It can share a buffer of this merger."""
        if job.method is not None:
            return merge_piece(job, piece, self.read(job, piece), ctx)
        return self.stored(job, 0, piece)

    def read(self, job: Job, piece: Piece) -> Sequence[Tensor]:
        """Return a piece of each input of a job in the dtype of the arithmetic."""
        dtype = torch_dtype(job.compute_dtype)
        tensors = [self.stored(job, slot, piece) for slot in range(len(job.inputs))]
        return [tensor.to(dtype, copy=True).view(piece.shape) for tensor in tensors]

    def stored(self, job: Job, slot: int, piece: Piece) -> Tensor:
        """Return a piece of an input as stored, in a buffer that is used again."""
        return self.tensor(self.raw(job, slot, piece), job.inputs[slot].info.dtype)

    def raw(self, job: Job, slot: int, piece: Piece) -> memoryview:
        """Return the memory of a piece of an input as stored, in a buffer that is used again."""
        if self.errors:
            raise self.errors[0]
        source: Input = job.inputs[slot]
        out = self.buffer(slot, source.info.dtype, piece.elements)
        self.work.read(source, piece.start, out)
        return out

    def write(self, job: Job, piece: Piece, merged: Tensor) -> None:
        """Round a piece of the result to the output's dtype, and write it."""
        out = self.buffer(-1, job.info.dtype, piece.elements)
        tensor = self.tensor(out, job.info.dtype).copy_(merged.reshape(-1))
        self.work.write(job.name, piece.start, tensor)
        self.work.advance(out.nbytes)

    def buffer(self, slot: int, dtype: str, elements: int) -> memoryview:
        """Return memory to read an input into, or for slot -1, the output."""
        nbytes = elements * ITEM_BYTES[dtype]
        buffer = self.buffers.get((slot, dtype))
        if buffer is None or buffer.nbytes < nbytes:
            buffer = new_memory(elements, dtype)
            if nbytes <= self.tile * ITEM_BYTES["F32"]:
                self.buffers[slot, dtype] = buffer
        return buffer[:nbytes]

    def tensor(self, memory: memoryview, dtype: str) -> Tensor:
        """Return the flat tensor in memory."""
        return as_tensor(memory, dtype)


def merge_piece(job: Job, piece: Piece, tensors: Sequence[Tensor], ctx: Context) -> Tensor:
    """Merge a piece of a job's inputs."""
    return job.merge(tensors, replace(ctx, offset=piece.start) if piece.start else ctx)


class Budget:
    """A memory budget shared by all threads. A job waits until its share is available."""

    def __init__(self, total: int) -> None:
        self._free = self._total = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, wanted: int) -> Iterator[None]:
        wanted = min(wanted, self._total)
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._free)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def keep_freed_pages() -> None:
    """Ask glibc to keep freed memory. Returning pages after every tile takes longer than the arithmetic."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 256 * 2**20)
