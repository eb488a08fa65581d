"""Tiny random checkpoints of every architecture, created with transformers and kept for the test session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

torch.set_num_threads(1)  # on such small models, threads only wait for each other

SIZES = {"vocab_size": 37, "hidden_size": 24, "intermediate_size": 29, "num_attention_heads": 3}
SHARED_KEYS = {"num_key_value_heads": 1}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
TIED = {"tie_word_embeddings": True}
PHI3 = {"pad_token_id": 0, "eos_token_id": 2}  # its defaults are outside this small vocabulary

FAMILIES: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "llama": ("llama", 4, {**SHARED_KEYS, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", 3, {**SHARED_KEYS, **TIED}),
    "mistral": ("mistral", 3, SHARED_KEYS),
    "mistral-tied": ("mistral", 2, {**SHARED_KEYS, **TIED}),
    "qwen2": ("qwen2", 4, {**SHARED_KEYS, **WINDOWS}),
    "qwen2-tied": ("qwen2", 2, {**SHARED_KEYS, **TIED}),
    "qwen3": ("qwen3", 3, {**SHARED_KEYS, **WINDOWS, "head_dim": 6, "attention_bias": True}),
    "qwen3-tied": ("qwen3", 2, {"num_key_value_heads": 3, "head_dim": 10, **TIED}),
    "gpt_neox": ("gpt_neox", 3, {}),
    "gpt_neox-tied": ("gpt_neox", 2, {"attention_bias": False, **TIED}),
    "phi": ("phi", 4, {}),
    "phi-tied": ("phi", 2, {**SHARED_KEYS, "qk_layernorm": True, **TIED}),
    "phi3": ("phi3", 2, {**SHARED_KEYS, **PHI3}),
    "phi3-tied": ("phi3", 3, {**PHI3, **TIED}),
}
"""Name → model type, number of layers, and other config values."""

SCALES = (0.0, 0.004, 0.02, 0.1)
"""Standard deviation of the delta of fine-tune `number`. The weights of the base vary by about 0.05."""


class Tiny:
    """Creates checkpoints in a folder, each only once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(
        self, family: str, number: int = 0, *, dtype: str = "float32", shard: str = "5GB", **sizes: int
    ) -> str:
        """Return the folder of a checkpoint.

        Args:
            family: a key of `FAMILIES`.
            number: 0 is the base. 1 to 3 are fine-tunes, with random deltas of scale `SCALES[number]`.
            dtype: dtype of the stored weights.
            shard: maximum size of a weight file.
            sizes: config values that differ from `SIZES`.
        """
        label = "-".join([family, str(number), dtype, shard, *(f"{key}={value}" for key, value in sizes.items())])
        folder = self._root / label
        if not folder.exists():
            model = _base(family, sizes)
            _add_noise(model, SCALES[number], seed=number)
            model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
        return str(folder)

    def all(self, family: str, **options: Any) -> list[str]:
        """Return the base and its fine-tunes."""
        return [self(family, number, **options) for number in range(len(SCALES))]


def layers(family: str) -> int:
    """Return the number of layers in a family's checkpoints."""
    return FAMILIES[family][1]


def _base(family: str, sizes: Mapping[str, int]) -> transformers.PreTrainedModel:
    kind, depth, extra = FAMILIES[family]
    values = {**SIZES, "num_hidden_layers": depth, "max_position_embeddings": 32, **extra, **sizes}
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **values))
    _add_noise(model, 0.05, seed=7)
    return model


@torch.no_grad()
def _add_noise(model: transformers.PreTrainedModel, scale: float, seed: int) -> None:
    """Change every parameter, including biases and norms. A tied head and its embedding are one parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
