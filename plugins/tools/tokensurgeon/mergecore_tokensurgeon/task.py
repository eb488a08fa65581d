"""The inputs and outputs of an approximation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergecore_tokensurgeon.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A table that needs new rows for tokens of the donor.

    Attributes:
        model, donor: The stored tables, each of shape (rows, width). The widths can differ.
        here, there: Rows of the shared tokens in the model's and the donor's table, in the donor's order.
        head: Whether the table is the head instead of the embedding.
        settings: The user's choices.
        pieces: Maps a donor row to the rows of the model's own tokens for the same text.
        configs: The config.json of the model and of the donor.
    """

    model: Tensor
    donor: Tensor
    here: Tensor
    there: Tensor
    head: bool
    settings: Settings
    pieces: Callable[[int], Sequence[int]]
    configs: tuple[Mapping[str, Any], Mapping[str, Any]]

    @cached_property
    def ours(self) -> Tensor:
        """The model's rows of the shared tokens, float32."""
        return self.model[self.here].float()

    @cached_property
    def theirs(self) -> Tensor:
        """The donor's rows of the shared tokens, float32."""
        return self.donor[self.there].float()

    @cached_property
    def mean(self) -> Tensor:
        """Mean of all rows of the model, computed in float64 and returned as float32."""
        return self.model.double().mean(0).float()

    def wanted(self, rows: Tensor) -> Tensor:
        """Return the donor's rows of some tokens, float32."""
        return self.donor[rows].float()

    def draw(self, rows: Tensor) -> Tensor:
        """Draw standard normal numbers for new rows, seeded by the seed, the table, and the batch's first row."""
        import torch

        key = hashlib.sha256(f"{self.settings.seed} {self.head} {int(rows[0])}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return torch.randn(len(rows), self.model.shape[1], generator=generator)


Rows = Callable[["Tensor"], "Tensor"]
"""Maps ascending donor rows to float32 rows of the model's width for the same tokens. Called from several threads."""

Approximation = Callable[[Task], Rows]
"""Prepares a table once. The returned function is then called with one batch of tokens at a time."""
