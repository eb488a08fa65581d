"""Pipeline for one device: while a tile is merged, the next one is read and the previous one is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mergecore.api import Context, Job, Piece, Work, merge_piece, torch_dtype
from mergecore_cuda.copies import Copies
from mergecore_cuda.supply import Supply

SLOTS = 2
"""Tiles in flight."""

RUN = 2**22
"""Elements that a thread reads or writes at a time."""

SHARE = 0.8
"""Fraction of a device's free memory available to tiles. The rest allows for allocator fragmentation."""


@dataclass
class _Slot:
    """The buffers of one tile in flight and its pending operations."""

    buffers: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)
    reading: Sequence[Future[None]] = ()
    uploaded: Callable[[], None] = lambda: None
    writing: Sequence[Future[None]] = ()


class _Making:
    """A job in progress: its context on the device and the number of runs left to write."""

    def __init__(self, job: Job, ctx: Future[Context], pieces: Sequence[Piece]) -> None:
        self.job = job
        self._measured = ctx
        self._ctx: Context | None = None
        self._left = sum(len(range(0, piece.elements, RUN)) for piece in pieces)
        self._turn = threading.Lock()

    def context(self, copies: Copies) -> Context:
        """Wait for the measurement and return the context on the device."""
        if self._ctx is None:
            ctx = self._measured.result()
            self._ctx = replace(ctx, measured=copies.brought(ctx.measured))
        return self._ctx

    def written(self) -> bool:
        """Count one written run and return whether it was the last."""
        with self._turn:
            self._left -= 1
            return self._left == 0


@dataclass
class _Step:
    """A tile in the pipeline."""

    making: _Making
    piece: Piece
    slot: _Slot
    inputs: Sequence[Tensor] = ()


class Feeder:
    """Process jobs on one device.

    Args:
        work: the work of the run.
        supply: source of the jobs.
        pool: thread pool for reading and writing.
        copies: copies to and from the device.
        room: host memory for the buffers, in bytes.
        tile: maximum tile size, in elements.
    """

    def __init__(self, work: Work, supply: Supply, pool: Executor, copies: Copies, room: int, tile: int) -> None:
        self._work, self._supply, self._pool, self._copies = work, supply, pool, copies
        self._room, self._tile = room, tile
        free = copies.room()
        self._free = room if free is None else int(free * SHARE)
        self._slots = [_Slot() for _ in range(SLOTS)]

    def run(self) -> None:
        """Process jobs until there are none left or one fails."""
        if self._copies.device.type == "cuda":
            torch.cuda.set_device(self._copies.device)
        try:
            steps = self._steps()
            step = next(steps, None)
            while step is not None:
                following = next(steps, None)
                self._merge(step)
                step = following
            for slot in self._slots:
                _finish(slot.writing)
        finally:  # a buffer must not be freed while a thread uses it
            wait([future for slot in self._slots for future in (*slot.reading, *slot.writing)])

    def _steps(self) -> Iterator[_Step]:
        """Yield the tiles of all jobs in order, with their reads already started."""
        number = 0
        while (taken := self._supply.take()) is not None:
            job, ctx = taken
            pieces = self._pieces(job)
            if not pieces:
                self._supply.make_here(job)
                self._work.done(job)
                continue
            making = _Making(job, ctx, pieces)
            for piece in pieces:
                self._supply.check()
                step = _Step(making, piece, self._slots[number % SLOTS])
                self._read(step)
                yield step
                number += 1

    def _pieces(self, job: Job) -> list[Piece]:
        """Return the tiles to merge on the device, or none for copies, empty tensors, and jobs that do not fit."""
        if job.method is None:
            return []
        stored, computing = job.stored_item_bytes, job.computing_item_bytes
        host = max(self._room - job.scratch_bytes, 0) // (SLOTS * stored)
        room = min(host, self._free // (SLOTS * (stored + computing)))
        pieces = job.pieces(min(self._tile, room))
        return pieces if all(piece.elements <= room for piece in pieces) else []

    def _read(self, step: _Step) -> None:
        slot, job, piece = step.slot, step.making.job, step.piece
        slot.uploaded()
        step.inputs = [
            self._buffer(slot, index, item.info.dtype, piece.elements) for index, item in enumerate(job.inputs)
        ]
        slot.reading = [
            self._pool.submit(self._work.read, item, piece.start + start, buffer[start : start + RUN])
            for item, buffer in zip(job.inputs, step.inputs)
            for start in range(0, piece.elements, RUN)
        ]

    def _merge(self, step: _Step) -> None:
        """Upload, merge, and download a tile, and schedule the write."""
        slot, job, piece = step.slot, step.making.job, step.piece
        _finish(slot.reading)
        stored, slot.uploaded = self._copies.upload(step.inputs)
        dtype = torch_dtype(job.compute_dtype)
        tensors = [tensor.to(dtype, copy=True).view(piece.shape) for tensor in stored]
        ctx = step.making.context(self._copies)
        merged = merge_piece(job, piece, tensors, ctx).reshape(-1).to(torch_dtype(job.info.dtype))
        _finish(slot.writing)
        out = self._buffer(slot, -1, job.info.dtype, piece.elements)
        downloaded = self._copies.download(merged, out)
        slot.writing = [
            self._pool.submit(self._write, step, downloaded, start, out[start : start + RUN])
            for start in range(0, piece.elements, RUN)
        ]

    def _write(self, step: _Step, downloaded: Callable[[], None], start: int, data: Tensor) -> None:
        downloaded()
        job = step.making.job
        self._work.write(job.name, step.piece.start + start, data)
        self._work.advance(data.numel() * data.element_size())
        if step.making.written():
            self._work.done(job)

    def _buffer(self, slot: _Slot, index: int, dtype: str, elements: int) -> Tensor:
        key = index, torch_dtype(dtype)
        if key not in slot.buffers or slot.buffers[key].numel() < elements:
            slot.buffers[key] = self._copies.buffer(elements, key[1])
        return slot.buffers[key][:elements]


def _finish(futures: Sequence[Future[None]]) -> None:
    """Wait for all futures and raise the first error."""
    for future in futures:
        future.result()
