"""Write the recipe of each measured method, in YAML that both mergecore and mergekit read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Method:
    """A method with the settings to measure. `weights` has one entry per model, without the base."""

    models: int
    takes_base: bool = True
    lists_base: bool = False  # slerp lists its base among the models
    per_model: list[dict[str, float]] = field(default_factory=list)
    shared: dict[str, float] = field(default_factory=dict)


# Settings for which all tools compute the same tensors. sd-mecha's TIES has no weights, so they are equal here.
METHODS = {
    "linear": Method(3, takes_base=False, per_model=[{"weight": 0.5}, {"weight": 0.3}, {"weight": 0.2}]),
    "slerp": Method(1, lists_base=True, shared={"t": 0.4}),
    "task_arithmetic": Method(2, per_model=[{"weight": 0.6}, {"weight": 0.4}]),
    "ties": Method(2, per_model=[{"weight": 0.5, "density": 0.5}, {"weight": 0.5, "density": 0.5}]),
    "passthrough": Method(1, takes_base=False),
    # The rest use common settings. sd-mecha only runs the five above.
    "nuslerp": Method(2, per_model=[{"weight": 0.6}, {"weight": 0.4}]),
    "multislerp": Method(2, per_model=[{"weight": 0.6}, {"weight": 0.4}]),
    "karcher": Method(3, takes_base=False),
    "dare_linear": Method(2, per_model=[{"weight": 0.6, "density": 0.5}, {"weight": 0.4, "density": 0.5}]),
    "dare_ties": Method(2, per_model=[{"weight": 0.6, "density": 0.5}, {"weight": 0.4, "density": 0.5}]),
    "della": Method(2, per_model=[{"weight": 0.6, "density": 0.5}, {"weight": 0.4, "density": 0.5}]),
    "breadcrumbs_ties": Method(2, per_model=[{"weight": 0.6, "density": 0.9}, {"weight": 0.4, "density": 0.9}]),
    "sce": Method(2, shared={"select_topk": 0.1}),
    "model_stock": Method(2),
    "arcee_fusion": Method(1),
    "ram": Method(2),
}


@dataclass(frozen=True)
class Merge:
    """A recipe on disk, with its inputs and expected output."""

    method: str
    recipe: Path
    inputs: list[Path]
    bytes_in: int
    bytes_out: int


def weight_bytes(folder: Path) -> int:
    """Return the total size of a checkpoint's safetensors files in bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def find_method(name: str) -> Method:
    """Return a method by name, or raise SystemExit with the known names."""
    if name not in METHODS:
        raise SystemExit(f"Unknown method {name!r}; choose from: {','.join(METHODS)}.")
    return METHODS[name]


def make_merge(name: str, checkpoints: list[Path], folder: Path) -> Merge:
    """Write FOLDER/NAME.yml for the first `checkpoints`, base first. Raise SystemExit for an unknown method."""
    method = find_method(name)
    used = checkpoints[: method.models + method.takes_base]
    listed = used if method.lists_base or not method.takes_base else used[1:]
    models: list[dict[str, Any]] = [{"model": str(path)} for path in listed]
    for model, parameters in zip(models, method.per_model, strict=False):
        model["parameters"] = parameters
    # Without out_dtype, mergekit writes arcee_fusion in float32, regardless of dtype.
    recipe: dict[str, Any] = {"merge_method": name, "models": models, "dtype": "bfloat16", "out_dtype": "bfloat16"}
    if method.takes_base:
        recipe["base_model"] = str(used[0])
    if method.shared:
        recipe["parameters"] = method.shared
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Merge(name, file, used, sum(map(weight_bytes, used)), weight_bytes(used[0]))
