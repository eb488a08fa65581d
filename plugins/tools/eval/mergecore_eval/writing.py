"""Text generation with greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergecore.api import Subject


def written(subject: Subject, ids: Sequence[int], tokens: int) -> list[int]:
    """Return at most `tokens` ids generated after `ids`, including the stop token if it was reached."""
    import torch

    tokenizer = subject.tokenizer
    begin = torch.tensor([list(ids)], device=subject.model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode():
        out: Any = subject.model.generate(
            input_ids=begin,
            attention_mask=torch.ones_like(begin),
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
    return [int(token) for token in out[0, len(ids) :]]
