"""Which rows look as if their tokens were hardly seen in training (Land & Bartolo 2024, https://arxiv.org/abs/2405.05417)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergecore_tokensurgeon.meanings import Tokens

if TYPE_CHECKING:
    from torch import Tensor

UNUSED_NAMES = ("unused_token", "reserved_special_token")
SHORT, ALIKE, LEAST_ALIKE = 0.01, 0.99, 0.5
"""Out are rows shorter than this quantile, or more like the unused than this quantile of used ones and this cosine."""


def trained(tokens: Tokens, embedding: Tensor, head: Tensor | None) -> Tensor:
    """Which rows look trained, as booleans (rows,).

    Args:
        tokens: the vocabulary.
        embedding: float (rows, width).
        head: the same of the head; None where the embedding is the head.
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
    """The value that a share of all is below, between two of them where need be."""
    import torch

    return float(torch.quantile(values, share))
