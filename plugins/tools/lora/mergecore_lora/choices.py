"""The user's choices for how an extracted adapter stores each kind of tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mergecore_lora.decomposing import Wanted
from mergecore_lora.pairs import Entry, Kind
from mergecore_lora.programs import Program


@dataclass(frozen=True)
class Choices:
    """How to store each kind of tensor.

    Attributes:
        wanted: Required accuracy of low-rank factors.
        keep: ``save`` or ``drop`` norms, biases, and other tensors without a low-rank form.
        embeddings, heads: ``lora``, ``save``, or ``drop``.
        experts: ``lora``, ``save``, or ``drop``, for experts stored as one tensor.
        added: ``refuse``, ``drop``, or ``save`` rows that only the fine-tune has. ``save`` stores the whole tensor.
        dtype: Dtype of the factors.
        own_ranks: Whether every tensor keeps its own rank. Otherwise, zeros fill up all to the largest.
        program: The program for which to drop what it cannot read.
    """

    wanted: Wanted
    keep: str = "save"
    embeddings: str = "lora"
    heads: str = "lora"
    experts: str = "save"
    added: str = "refuse"
    dtype: torch.dtype = torch.float32
    own_ranks: bool = False
    program: Program = Program.peft

    def of(self, entry: Entry) -> str:
        """Return ``lora``, ``save``, or ``drop``."""
        how = self._chosen(entry)
        table = entry.kind in (Kind.EMBEDDING, Kind.HEAD)
        return how if self.program.reads(how, table=table, experts=entry.matrices) else "drop"

    def _chosen(self, entry: Entry) -> str:
        if entry.kind is Kind.LINEAR or entry.grown:
            return "save" if entry.grown else "lora"
        if entry.kind is Kind.EXPERTS and self.experts == "lora":
            return "lora" if entry.matrices else self.keep
        own = {Kind.EMBEDDING: self.embeddings, Kind.HEAD: self.heads, Kind.EXPERTS: self.experts}
        return own.get(entry.kind, self.keep)
