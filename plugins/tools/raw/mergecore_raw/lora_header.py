"""Read the scale of a LoRA file from its header, where diffusers writes the LoRA config since 2025."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mergecore.api import ModelError
from mergecore.tooling import Checkpoint

KEY = "lora_adapter_metadata"
"""Entry of the header's metadata: a JSON object with PEFT's keys, prefixed if it is for several components."""

PLAIN = re.compile(r"[\w.\-]+")
"""The name of a module, or its end."""


def declared_scales(file: Checkpoint) -> Callable[[str, int], float]:
    """Return the scale of a module with factors of a rank: alpha / rank as the header states it, or 1.

    Raises:
        ModelError: the header's entry is invalid, or describes DoRA.
    """
    config = _config(file)

    def scale(module: str, rank: int) -> float:
        component, _, name = module.partition(".")
        start = f"{component}."
        own = {key.removeprefix(start): value for key, value in config.items() if key.startswith(start)}
        own, name = (own, name) if "lora_alpha" in own else (config, module)
        if "lora_alpha" not in own:
            return 1.0
        alpha = _alpha(own, name)
        if own.get("use_dora") or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise ModelError(f"{file.reference}: {KEY} in the header is not that of a LoRA; merge it with PEFT")
        return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)

    return scale


def _alpha(config: Mapping[str, Any], module: str) -> Any:
    """Return a module's alpha: that of the first name that it equals or ends with."""
    names = config.get("alpha_pattern") or {}
    return next((names[name] for name in names if f".{module}".endswith(f".{name}")), config["lora_alpha"])


def _config(file: Checkpoint) -> dict[str, Any]:
    """Return the LoRA config in the header, or an empty one."""
    if file.folder.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(str(file.folder), "pt") as opened:
        text = (opened.metadata() or {}).get(KEY, "{}")
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{file.reference}: {KEY} in the header is not a JSON object; download the file again")
    for key, value in config.items():
        if key.endswith("alpha_pattern") and value and not all(map(PLAIN.fullmatch, value)):
            raise ModelError(f"{file.reference}: {key} in the header has a pattern, but it may only name modules")
    return config
