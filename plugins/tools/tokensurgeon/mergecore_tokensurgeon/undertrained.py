"""Find rows that look undertrained (Land & Bartolo 2024, https://arxiv.org/abs/2405.05417)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.meanings import Tokens

if TYPE_CHECKING:
    from torch import Tensor

UNUSED_NAMES = ("unused_token", "reserved_special_token")
SHORT, ALIKE, LEAST_ALIKE = 0.01, 0.99, 0.5
"""Untrained rows have a norm below the first quantile, or a cosine to unused rows above the second and the third."""


def trained(tokens: Tokens, embedding: Tensor, head: Tensor | None) -> Tensor:
    """Return which rows look trained, as booleans of shape (rows,).

    Args:
        tokens: The vocabulary.
        embedding: The embedding, float (rows, width).
        head: The head, of the same shape. None if it is tied.
    """
    import torch

    used = torch.zeros(len(embedding), dtype=torch.bool)
    names = [number for token, number in tokens.numbers.items() if not any(name in token for name in UNUSED_NAMES)]
    used[[number for number in names if number < len(used)]] = True
    result = used.clone()
    if head is not None:
        lengths = embedding.float().norm(dim=1)
        result &= lengths >= _quantile(lengths, SHORT)
    for table in (embedding, head):
        if table is not None and not used.all():
            likeness = torch.cosine_similarity(table.float(), table[~used].float().mean(0, keepdim=True))
            result &= likeness <= max(LEAST_ALIKE, _quantile(likeness[used], ALIKE))
    return result


def _quantile(values: Tensor, share: float) -> float:
    """Return the quantile of values, interpolating if necessary."""
    import torch

    return float(torch.quantile(values, share))
