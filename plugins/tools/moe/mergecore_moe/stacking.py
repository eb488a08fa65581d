"""Fused expert weights for families that store all experts in one tensor, computed as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergecore.api import Job, TensorInfo
from mergecore.tooling import Checkpoint, LayoutReader, Span, StageReader


def stacked(pieces: Mapping[str, Sequence[Job]], experts: int, checkpoints: Sequence[Checkpoint]) -> LayoutReader:
    """Return a reader of such weights.

    Args:
        pieces: The jobs for the matrices in each weight, in the order of the experts.
        experts: Number of experts.
        checkpoints: The models that the jobs read.

    Returns:
        A reader of tensors of shape (experts, rows, columns), in which the matrices of an expert are consecutive rows.
    """
    reader = StageReader([job for jobs in pieces.values() for job in jobs], checkpoints)
    tensors, spans = {}, {}
    for name, jobs in pieces.items():
        rows = sum(job.info.shape[0] for job in jobs) // experts
        tensors[name] = TensorInfo(jobs[0].info.dtype, (experts, rows, *jobs[0].info.shape[1:]))
        spans[name] = [Span(job.name, 0, job.info.elements) for job in jobs]
    return LayoutReader(dict.fromkeys(reader.tensors, reader), tensors, spans)
