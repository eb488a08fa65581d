"""What an approximation is given and what it gives."""

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
    """One table that is to get rows for tokens of the donor.

    Attributes:
        model, donor: the tables as stored: (rows, width) each, widths may differ.
        here, there: the rows of the shared tokens in the model's and in the donor's table, in the donor's order.
        head: whether it is the head, else the embedding.
        settings: what the user chose.
        pieces: a donor's row → the rows of the model's own tokens for the same text.
        configs: config.json of the model and of the donor.
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
        """The shared tokens' rows of the model, float32."""
        return self.model[self.here].float()

    @cached_property
    def theirs(self) -> Tensor:
        """The shared tokens' rows of the donor, float32."""
        return self.donor[self.there].float()

    @cached_property
    def mean(self) -> Tensor:
        """Of all rows of the model, float32; made once, in float64."""
        return self.model.double().mean(0).float()

    def wanted(self, rows: Tensor) -> Tensor:
        """The donor's rows of some tokens, float32."""
        return self.donor[rows].float()

    def draw(self, rows: Tensor) -> Tensor:
        """Standard normal numbers for a batch of new rows, decided by the seed, the table and the batch's first row."""
        import torch

        key = hashlib.sha256(f"{self.settings.seed} {self.head} {int(rows[0])}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return torch.randn(len(rows), self.model.shape[1], generator=generator)


Rows = Callable[["Tensor"], "Tensor"]
"""Donor's rows, ascending → float32 rows of the model's width for the same tokens; called from several threads."""

Approximation = Callable[[Task], Rows]
"""Does what is done once a table; what it returns is called with a batch of tokens at a time, always the same ones."""
