"""Read an adapter's `adapter_config.json`: its type, and the scale and rank of each module."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, lies_within, read_json

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""PEFT's file names. If both weight files exist, PEFT uses the first."""

CONFIG_LIMIT = 10_000_000
"""Maximum size of an adapter's config in bytes."""

APPLIED = {"r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "coft", "eps", "use_cayley_neumann",
           "num_cayley_neumann_terms", "use_rslora", "use_dora", "ensure_weight_tying",
           "target_parameters", "init_lora_weights", "trainable_token_indices", "peft_type"}  # fmt: skip
"""Keys that this module reads."""

NEUTRAL = {
    "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "block_share", "corda_config", "d_initial",
    "decompose_both", "decompose_factor", "eva_config", "exclude_modules", "fan_in_fan_out", "feedforward_modules",
    "inference_mode", "init_ia3_weights", "init_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "module_dropout",
    "modules_to_save", "oft_block_size", "peft_version", "projection_prng_key", "qalora_group_size", "rank_dropout",
    "rank_dropout_scale", "revision", "runtime_config", "save_projection", "target_modules", "task_type",
    "use_effective_conv2d", "velora_config", "vera_dropout",
}  # fmt: skip
"""Keys that affect only training, or that the tensors show anyway."""

REFUSED = {
    "alora_invocation_tokens": "acts only on some tokens (aLoRA), so it cannot be merged into the weights",
    "layer_replication": "repeats layers; use slices in a recipe instead",
    "kasa_config": "also changes the base's weights (KaSA); merge it with PEFT",
    "monteclora_config": "has random weights (MonteCLoRA); merge it with PEFT",
    "use_bdlora": "has block-diagonal factors (BD-LoRA); merge it with PEFT",
    "use_qalora": "belongs to a quantized base (QALoRA); merge it with PEFT",
}

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Prefixes of `init_lora_weights` for initializations that change the base's weights."""


KINDS = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "IA3": "IA3", "OFT": "OFT"}
"""The types of adapters that can be added to a model."""


@dataclass(frozen=True)
class Rotation:
    """How OFT makes orthogonal matrices out of its parameters.

    Attributes:
        terms: Number of terms of the Neumann series in Cayley's formula, or 0 for the formula itself. PEFT computes 4
            where 3 are set.
        eps: Bound of the constrained form (COFT), or None.
    """

    terms: int
    eps: float | None


@dataclass(frozen=True)
class Settings:
    """The settings that give meaning to an adapter's weights.

    Attributes:
        path: Path of the config, for errors.
        kind: A key of `KINDS`.
        rank, alpha: Defaults for modules that match no pattern.
        ranks, alphas: Values by pattern: a module's name or its suffix, or a regular expression.
        rank_stabilized: Whether the scale is alpha / sqrt(rank) instead of alpha / rank.
        magnitudes: Whether it is DoRA.
        parameters: Suffixes of the names of parameters that are direct targets.
        tokens: Individually trained rows, of every embedding or by the suffix of its name.
        tied: Whether a head that is tied to the embedding also gets its changes, other than trained rows.
        rotation: How OFT makes its rotations.
    """

    path: Path
    kind: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    magnitudes: bool
    parameters: tuple[str, ...]
    tokens: list[int] | Mapping[str, list[int]] | None
    tied: bool
    rotation: Rotation

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of B @ A for a module with factors of this rank."""
        alpha = first_match(self.alphas, module, self.path, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return int(first_match(self.ranks, module, self.path, self.rank))

    @property
    def summary(self) -> str:
        """Short description."""
        if self.kind in ("IA3", "OFT"):
            return KINDS[self.kind]
        kind = ("rs" if self.rank_stabilized else "") + ("DoRA" if self.magnitudes else KINDS[self.kind])
        spread = sorted({self.rank, *self.ranks.values()})
        rank = f"{spread[0]} to {spread[-1]}" if len(spread) > 1 else str(self.rank)
        alphas = sorted({self.alpha, *self.alphas.values()})
        alpha = f"{alphas[0]:g} to {alphas[-1]:g}" if len(alphas) > 1 else f"{self.alpha:g}"
        return f"{kind}, rank {rank}" + ("" if self.kind == "VERA" else f", alpha {alpha}")


def first_match(patterns: Mapping[str, Any], module: str, path: Path, default: Any) -> Any:
    """Return the value of the first pattern that matches a module's name, following PEFT's rules.

    Patterns are untrusted input, so those that could take very long are rejected.
    """
    for pattern, value in patterns.items():
        if re.fullmatch(r"[\w.\-]+", pattern):
            if module == pattern or module.endswith(f".{pattern}"):
                return value
            continue
        if len(pattern) > 500 or re.search(r"[)][*+?{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3:
            raise ModelError(f"{path}: the pattern {pattern!r} is too complex; list the module names instead")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise ModelError(f"{path}: {pattern!r} is not a valid regular expression: {error}") from None
    return default


def stated(folder: Path, key: str) -> str | bool | None:
    """Return a text or switch in an adapter's config, such as the name of its base model."""
    value = _read(folder / CONFIG).get(key)
    return value if isinstance(value, (str, bool)) else None


def _read(path: Path) -> dict[str, Any]:
    folder = path.parent
    if not lies_within(folder, path):
        raise ModelError(f"{path}: is a link that points outside the adapter's folder; replace it with the file")
    return read_json(path, CONFIG_LIMIT)


def read_settings(folder: Path) -> Settings:
    """Read the settings of the adapter in a folder.

    Raises:
        ModelError: The file cannot be read, or the adapter's type cannot be merged into a model's weights.
    """
    path = folder / CONFIG
    config = _read(path)
    _check_kind(path, config)
    return Settings(
        path=path,
        kind=config["peft_type"],
        rank=8 if config["peft_type"] in ("IA3", "OFT") else _number(path, config, "r", 8, int),
        alpha=_number(path, config, "lora_alpha" if config["peft_type"] == "LORA" else "alpha", 8, float),
        ranks=_pattern(path, config, "rank_pattern", int),
        alphas=_pattern(path, config, "alpha_pattern", float),
        rank_stabilized=_switch(path, config, "use_rslora"),
        magnitudes=_switch(path, config, "use_dora"),
        parameters=_names(path, config, "target_parameters"),
        tokens=_tokens(path, config),
        tied=_switch(path, config, "ensure_weight_tying"),
        rotation=_rotation(path, config),
    )


def _rotation(path: Path, config: Mapping[str, Any]) -> Rotation:
    terms = _number(path, config, "num_cayley_neumann_terms", 5, int)
    eps = _number(path, config, "eps", 6e-5, float)
    series = config.get("use_cayley_neumann", True)
    return Rotation(terms if series else 0, eps if _switch(path, config, "coft") else None)


def _check_kind(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind not in KINDS:
        names = ", ".join(KINDS.values())
        raise ModelError(f"{path}: peft_type is {kind!r}, but only {names} can be added to a model; merge it with PEFT")
    for key, why in REFUSED.items():
        if config.get(key):
            raise ModelError(f"{path}: {key} is set: the adapter {why}")
    for key, value in config.items():
        if value and key not in APPLIED | NEUTRAL | REFUSED.keys():
            raise ModelError(f"{path}: {key} is set, which mergecore-lora does not support; merge it with PEFT first")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise ModelError(
            f"{path}: init_lora_weights is {start!r}, so training did not start from the base's weights; save the"
            " adapter again with PEFT's path_initial_model_for_weight_conversion"
        )


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return kind is float or (isinstance(value, int) and value > 0)


def _number(path: Path, config: Mapping[str, Any], key: str, default: float, kind: type) -> Any:
    value = config.get(key, default)
    if not _is_number(value, kind):
        raise ModelError(f"{path}: {key} must be a {'number' if kind is float else 'positive integer'}")
    return kind(value)


def _pattern(path: Path, config: Mapping[str, Any], key: str, kind: type) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict) or not all(_is_number(number, kind) for number in value.values()):
        raise ModelError(f"{path}: {key} must map modules to numbers")
    return {name: kind(number) for name, number in value.items()}


def _switch(path: Path, config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ModelError(f"{path}: {key} must be true or false")
    return value


def _names(path: Path, config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ModelError(f"{path}: {key} must be a list of names")
    return tuple(value)


def _tokens(path: Path, config: Mapping[str, Any]) -> Any:
    value = config.get("trainable_token_indices") or None
    lists = [value] if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    right = all(isinstance(one, list) and all(type(row) is int and row >= 0 for row in one) for one in lists)
    if value is not None and (not lists or not right):
        raise ModelError(f"{path}: trainable_token_indices must be a list of row numbers, or map embeddings to lists")
    return value
