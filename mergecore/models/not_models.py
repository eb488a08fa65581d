"""Say what a folder is that is not a model, and where the model is."""

from __future__ import annotations

import re
from collections.abc import Collection, Set
from pathlib import Path

from mergecore.errors import ModelError
from mergecore.models.hub_errors import endpoint

ADAPTER = "adapter_config.json"
AN_ADAPTER = "is an adapter, not a model; add it to its base model as BASE+ADAPTER"

LORA = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer)(\.|$)")
"""Part of the names of the tensors of a model that was saved with its adapters."""

WRAPPER = "base_model.model."
"""What PEFT puts before the names of a model's tensors."""


def why_no_model(reference: str, names: Set[str], folder: Path | None) -> str:
    """Return what a folder without a config.json is.

    Args:
        reference: the folder as written in the recipe.
        names: names of everything in it.
        folder: the folder, or None if it is on the Hub.
    """
    if ADAPTER in names:
        return AN_ADAPTER.replace("ADAPTER", reference)
    if folder is None:
        return f"has no config.json at {endpoint()}, so it cannot be merged"
    inside = {name for name in names for file in ("config.json", ADAPTER) if (folder / name / file).is_file()}
    if inside:
        last = max(inside, key=lambda name: [int(number) for number in re.findall(r"\d+", name)] or [-1])
        kind = "a model" if (folder / last / "config.json").is_file() else "an adapter"
        found = f"is not a model, but a folder with {len(inside)} of them"
        return f"{found}; for {kind} in it, write {Path(reference) / last}"
    if any(name.endswith((".safetensors", ".bin", ".pt", ".ckpt")) for name in names):
        return "has weights but no config.json; copy that of its base model, or merge weight files with mergecore raw"
    return "has no config.json, so it is not a model"


def check_unwrapped(folder: Path, names: Collection[str]) -> None:
    """Raise ModelError if the tensors are those of a model inside a PEFT model."""
    if name := next(filter(LORA.search, names), None):
        cure = "load it with PEFT, and save the result of merge_and_unload()"
        raise ModelError(f"{folder}: was saved with an adapter that is not merged (it has {name!r}); {cure}")
    if name := next((name for name in names if name.startswith(WRAPPER)), None):
        cure = f"save the model inside it (get_base_model()), or remove {WRAPPER!r} from the names"
        raise ModelError(f"{folder}: was saved from a PEFT model (it has {name!r}); {cure}")
