"""Weights that have what is so named of all experts, for families that store them so: made as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergecore.api import Job, TensorInfo
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.layout_reader import Span, Views
from mergecore.planning.stage_reader import MadeReader


def stacked(pieces: Mapping[str, Sequence[Job]], experts: int, checkpoints: Sequence[Checkpoint]) -> Views:
    """A reader of such weights.

    Args:
        pieces: by the weight's name, what makes the matrices in it, those of the first expert first.
        experts: how many there are.
        checkpoints: the models that the pieces are made of.

    Returns:
        Reads tensors of shape (experts, rows, columns), where the rows of one expert's matrices follow each other.
    """
    reader = MadeReader([job for jobs in pieces.values() for job in jobs], checkpoints)
    tensors, spans = {}, {}
    for name, jobs in pieces.items():
        rows = sum(job.info.shape[0] for job in jobs) // experts
        tensors[name] = TensorInfo(jobs[0].info.dtype, (experts, rows, *jobs[0].info.shape[1:]))
        spans[name] = [Span(job.name, 0, job.info.elements) for job in jobs]
    return Views(dict.fromkeys(reader.tensors, reader), tensors, spans)
