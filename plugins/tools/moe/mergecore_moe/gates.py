"""Router weights: one row per expert in each layer, which measures how similar a token is to the expert's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mergecore.api import torch_dtype
from mergecore.api.random import uniform
from mergecore.tooling import Checkpoint
from mergecore_moe.hidden import EMBEDDING, LayerByLayer
from mergecore_moe.noise import gaussian
from mergecore_moe.prompts import Prompts

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-8
"""The smallest norm that a vector is divided by."""

ALIKE = 5.0
"""Ratio of a router's largest to smallest singular value above which its rows have almost the same direction."""


def drawn(mode: str, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Return random rows: normal numbers, or uniform ones in (-1, 1) / sqrt(hidden size).

    Args:
        mode: ``random``, or else ``uniform`` or ``uniform_random``.
        shape: Layers, experts, hidden size.
        seed: Seed of the numbers.

    Returns:
        A float32 tensor of that shape.
    """
    layers, experts, hidden = shape
    first, second = (uniform(f"{seed}\0routers\0{part}", 0, layers * experts * hidden) for part in range(2))
    flat = gaussian(first, second) if mode == "random" else (2.0 * first - 1.0) / hidden**0.5
    return flat.view(shape)


def embedded(base: Checkpoint, prompts: Sequence[Prompts], layers: int) -> Tensor:
    """Return rows from the embeddings: the direction of the sum over all tokens of all prompts, in every layer.

    Returns:
        A float32 tensor of shape (layers, experts, hidden size).
    """
    import torch

    info = base.tensors[EMBEDDING]
    rows: dict[int, Tensor] = {}

    def row(token: int) -> Tensor:
        if token not in rows:
            stored = torch.empty(info.shape[1], dtype=torch_dtype(info.dtype))
            base.read(EMBEDDING, token * info.shape[1], stored)
            rows[token] = stored.float()
        return rows[token]

    def direction(texts: Sequence[Sequence[int]]) -> Tensor:
        return _unit(torch.stack([row(token) for text in texts for token in text]).sum(0))

    gates = _contrasted(direction, prompts)
    return gates.expand(layers, *gates.shape)


def seen(model: LayerByLayer, prompts: Sequence[Prompts], average: bool) -> Tensor:
    """Return rows from the hidden states entering each layer, at the last tokens of the prompts or averaged over them.

    Returns:
        A float32 tensor of shape (layers, experts, hidden size).
    """
    every = {tuple(text) for item in prompts for text in (*item.positive, *item.negative)}
    texts = sorted(every, key=lambda text: (len(text), text))  # texts of equal length share a batch without padding
    places = {text: place for place, text in enumerate(texts)}
    states = model.states(texts, average)

    def mean(given: Sequence[Sequence[int]]) -> Tensor:
        return states[:, [places[tuple(text)] for text in given]].mean(1)

    return _contrasted(mean, prompts).transpose(0, 1)


def _contrasted(vector: Callable[[Sequence[Sequence[int]]], Tensor], prompts: Sequence[Prompts]) -> Tensor:
    """Return, per expert, the direction of the positive prompts' vector minus that of the negative prompts."""
    import torch

    return torch.stack(
        [_unit(vector(item.positive) - vector(item.negative) if item.negative else vector(item.positive))
         for item in prompts]
    )  # fmt: skip


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(FLOOR)


def alike(gates: Tensor) -> list[int]:
    """Return the layers whose router can hardly tell its experts apart (see `ALIKE`)."""
    import torch

    if gates.shape[1] > gates.shape[2]:
        return []
    values = torch.linalg.svdvals(gates.double())
    return [layer for layer, row in enumerate(values.tolist()) if row[0] > ALIKE * row[-1]]
