"""Log-likelihoods of tokens under a model, in batches of sequences of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BATCH = 4
"""Number of sequences in one forward pass: enough to use the CPU's caches, and few enough to fit in memory."""


@torch.inference_mode()
def log_likelihoods(model: Any, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the n - 1 log-probabilities of each sequence of n token ids, without the first, as float32 on the CPU.

    Sequences of the same length are batched. None is padded, so no result depends on the rest of the batch.
    """
    found: dict[int, Tensor] = {}
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    start = 0
    while start < len(order):
        length = len(sequences[order[start]])
        stop = start + 1
        while stop < len(order) and stop - start < BATCH and len(sequences[order[stop]]) == length:
            stop += 1
        batch = torch.tensor([list(sequences[index]) for index in order[start:stop]], device=model.device)
        for index, row in zip(order[start:stop], _of_batch(model, batch), strict=True):
            found[index] = row
        start = stop
    return [found[index] for index in range(len(sequences))]


def _of_batch(model: Any, batch: Tensor) -> Tensor:
    if batch.shape[1] < 2:
        return torch.zeros(batch.shape[0], 0)
    logits = model(batch, use_cache=False).logits[:, :-1].float()
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
    return -flat.view(batch.shape[0], -1).cpu()


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text without special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def start_ids(tokenizer: Any) -> list[int]:
    """Return the ids before the first token of a text: the BOS token, or else the EOS token, if there is one."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if first is None else [first]
