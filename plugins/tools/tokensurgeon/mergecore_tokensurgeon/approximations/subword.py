"""Rows built from the model's own tokens for the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergecore_tokensurgeon.settings import Pieces
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor


def subword(task: Task) -> Rows:
    """Combine the rows of the pieces into which the model's tokenizer splits the text.

    An embedding must predict what comes next, so the last piece counts most (weights 1..m, or only the last one). A
    head must predict the start of the token, so the first piece counts most. A text without pieces gets the mean row.
    """
    import torch

    def make(rows: Tensor) -> Tensor:
        return torch.stack([one(task.pieces(row)) for row in rows.tolist()])

    def one(pieces: Sequence[int]) -> Tensor:
        if not pieces:
            return task.mean
        found = task.model[list(pieces)].float()
        how = task.settings.pieces
        if how is Pieces.first_last:
            return found[0 if task.head else -1]
        if how is Pieces.sum:
            return found.sum(0)
        weights = torch.ones(len(pieces)) if how is Pieces.mean else torch.arange(1.0, len(pieces) + 1)
        weights = weights.flip(0) if task.head else weights
        return weights / weights.sum() @ found

    return make
