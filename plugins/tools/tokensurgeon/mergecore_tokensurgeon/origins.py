"""Determine where each row of the output's tables comes from: a row of the model, zeros, or a new row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mergecore_tokensurgeon import meanings
from mergecore_tokensurgeon.meanings import Tokens
from mergecore_tokensurgeon.settings import Settings
from mergecore_tokensurgeon.sides import Side
from mergecore_tokensurgeon.tables import MADE, ZERO
from mergecore_tokensurgeon.undertrained import trained

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Origins:
    """The tokens of both sides, and the number of rows in the output.

    Attributes:
        model, donor: Both models.
        ours, theirs: Their tokens.
        size: Number of rows in the output.
        settings: The user's choices.
    """

    model: Side
    donor: Side
    ours: Tokens
    theirs: Tokens
    size: int
    settings: Settings

    @cached_property
    def same(self) -> Ints:
        """The model's row with the same meaning for each output row, or -1 if there is none."""
        return meanings.same(self.ours, self.theirs, self.size)

    @cached_property
    def _trained(self) -> tuple[Mask, Mask]:
        """Which of these pairs look trained in the model and in the donor. All, unless `magikarp` is set."""
        if not self.settings.magikarp:
            return (self.same >= 0, np.ones(self.size, bool))
        ours, theirs = (
            _looked_at(side, tokens) for side, tokens in zip((self.model, self.donor), (self.ours, self.theirs))
        )
        padded = np.zeros(self.size, bool)
        padded[: len(theirs)] = theirs[: self.size]
        return (self.same >= 0) & ours[self.same], padded

    @cached_property
    def shared(self) -> Ints:
        """Return `same` without rows that look untrained. These rows are kept, and new ones are built from them."""
        ours, theirs = self._trained
        tokens = np.isin(np.arange(self.size), list(self.theirs.meanings))
        return np.where((ours & theirs) | ~tokens, self.same, ZERO)

    def table(self, head: bool) -> Ints:
        """Return the model's row, `ZERO`, or `MADE` for each row of the head or the embedding."""
        source = self.shared.copy()
        ours, theirs = self._trained
        rows = self.donor.matrix(head).info.shape[0]
        for row, meaning in self.theirs.meanings.items():
            if source[row] >= 0 or not (ours[row] or theirs[row]):
                continue
            found = -1
            if self.settings.byte_match.covers(head):
                found = meanings.byte_row(self.ours, meaning)
            if found < 0 and self.settings.prefix_match.covers(head):
                found = meanings.prefix_row(self.ours, meaning)
            source[row] = found if found >= 0 else MADE if row < rows else ZERO
        return source

    def counts(self, source: Ints) -> Mapping[str, int]:
        """Count the rows that are kept, matched by byte or prefix, newly created, and zero."""
        rows = source[list(self.theirs.meanings)]
        kept = int((self.shared[list(self.theirs.meanings)] >= 0).sum())
        return {
            "kept": kept,
            "matched": int((rows >= 0).sum()) - kept,
            "made": int((rows == MADE).sum()),
            "zero": int((rows == ZERO).sum()),
        }


def _looked_at(side: Side, tokens: Tokens) -> Mask:
    embedding, head = side.matrix(False), side.matrix(True)
    found: Mask = trained(tokens, embedding.load(), None if head.name == embedding.name else head.load()).numpy()
    return found
