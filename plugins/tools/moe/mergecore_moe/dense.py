"""The properties of a dense model that families check: type, sizes, biases, and attention windows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mergecore.api import ModelError
from mergecore.tooling import Checkpoint, get_key

COMMON = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**COMMON, "max_position_embeddings": 2048},
    "mistral": {**COMMON, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {**COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
              "max_window_layers": 28},
    "qwen3": {**COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
              "max_window_layers": 28, "head_dim": 128},
    "ernie4_5": {**COMMON, "max_position_embeddings": 131072, "num_key_value_heads": 2, "head_dim": 128,
                 "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "olmo2": {**COMMON, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 1,
              "eos_token_id": 50279},
    "granite": {**COMMON, "max_position_embeddings": 2048},
}  # fmt: skip
"""Defaults in transformers for keys missing from config.json. Those of a mixture's class are different."""

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Keys that every config must have."""


@dataclass(frozen=True)
class Dense:
    """A dense model.

    Attributes:
        reference: Reference as given in the mixture's config.
        kind: Its ``model_type``.
        config: Its config.json with the defaults of its class filled in.
        biases: Names of the biases within a layer.
        windows: Attention window of each layer in tokens. None: unlimited.
    """

    reference: str
    kind: str
    config: Mapping[str, Any]
    biases: Collection[str]
    windows: tuple[int | None, ...]

    @property
    def window(self) -> int | None:
        """Attention window of the layers that have one."""
        return next((window for window in self.windows if window), None)

    @property
    def head_size(self) -> int:
        stated = self.config.get("head_dim")
        return int(stated or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def listed_biases(self) -> str:
        return ", ".join(sorted(self.biases))


def dense(checkpoint: Checkpoint) -> Dense:
    """Return the dense model in a checkpoint whose tensors have the names from its definition.

    Raises:
        ModelError: The model type is supported, but its config.json has no sizes.
    """
    kind = str(checkpoint.config.get("model_type"))
    config = _completed(kind, checkpoint.config)
    if kind in DEFAULTS:
        check_sizes(checkpoint, config)
    found = (re.fullmatch(r"model\.layers\.\d+\.(.+\.bias)", name) for name in checkpoint.tensors)
    biases = frozenset(match[1] for match in found if match)
    windows = _windows(kind, config) if kind in DEFAULTS else ()
    return Dense(checkpoint.reference, kind, config, biases, windows)


def check_sizes(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a config is missing a size that every mixture needs."""
    for key in SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise ModelError(f"{checkpoint.folder / 'config.json'}: {key!r} must be a positive integer")


def _completed(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with defaults filled in, and without keys that apply only to its own class."""
    stated = {key: value for key, value in config.items() if key != "auto_map" and (key, value) != ("head_dim", None)}
    defaults = dict(DEFAULTS.get(kind, {}))
    if get_key(stated, "rope_parameters.rope_theta") is not None:
        defaults.pop("rope_theta", None)
    if "head_dim" in config:  # None: computed from the sizes
        defaults.pop("head_dim", None)
    complete = {**defaults, **stated}
    if complete.get("num_key_value_heads") is None:
        complete["num_key_value_heads"] = complete.get("num_attention_heads")
    return complete


def _windows(kind: str, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers, window = config["num_hidden_layers"], config.get("sliding_window")
    if kind == "mistral":
        return (window,) * layers
    if kind not in ("qwen2", "qwen3") or not config.get("use_sliding_window"):
        return (None,) * layers
    types = config.get("layer_types") or [
        "full_attention" if layer < config["max_window_layers"] else "sliding_attention" for layer in range(layers)
    ]
    return tuple(window if name == "sliding_attention" else None for name in types)
