"""Run one of the benchmark recipes with sd-mecha, in its own environment: `sd_mecha_merge.py RECIPE OUT`.

sd-mecha reads single files. A custom model format (its public extension point) lets it read sharded folders in place,
so that every tool reads the same bytes. It infers the model's keys from the files, so it needs no model config.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import sd_mecha
import torch
import yaml
from sd_mecha.extensions.builtin.merge_methods.linear import add_difference
from sd_mecha.extensions.model_formats import register_model_format
from sd_mecha.streaming import InSafetensorsDict, SafetensorsMapping


class Shards(SafetensorsMapping):
    """Mapping of all tensors in a sharded checkpoint."""

    def __init__(self, folder: Path, buffer_size: int) -> None:
        files = sorted(folder.glob("*.safetensors"))
        self.shards = [InSafetensorsDict(file, buffer_size // len(files)) for file in files]
        self.owner = {key: shard for shard in self.shards for key in shard}

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self.owner:
            raise sd_mecha.StateDictKeyError(key)
        return self.owner[key][key]

    def __contains__(self, key: object) -> bool:
        return key in self.owner

    def __iter__(self) -> Any:
        return iter(self.owner)

    def __len__(self) -> int:
        return len(self.owner)

    def keys(self) -> Any:
        return self.owner.keys()

    def values(self) -> Any:
        return (self[key] for key in self)

    def items(self) -> Any:
        return ((key, self[key]) for key in self)

    def metadata(self) -> Any:
        return (pair for shard in self.shards for pair in shard.metadata())

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


@register_model_format(identifier="sharded_folder")
class ShardedFolder:
    """Model format that makes sd-mecha accept a folder of safetensors files."""

    def matches(self, path: Path) -> bool:
        return any(path.glob("*.safetensors"))

    def get_read_dict(self, path: Path, buffer_size: int) -> Shards:
        return Shards(path, buffer_size)

    def get_write_dict(self, *_: Any) -> Any:
        raise NotImplementedError("the output is a single file")


def build(recipe: dict[str, Any]) -> Any:
    """Return the recipe as a sd-mecha graph, or raise SystemExit for an unsupported method."""
    models = [sd_mecha.model(entry["model"]) for entry in recipe["models"]]
    parameters = [entry.get("parameters", {}) for entry in recipe["models"]]
    base = sd_mecha.model(recipe["base_model"]) if "base_model" in recipe else None
    match recipe["merge_method"]:
        case "passthrough":
            return models[0]
        case "linear":
            merged, total = models[0], parameters[0]["weight"]
            for model, setting in zip(models[1:], parameters[1:], strict=True):
                total += setting["weight"]
                merged = sd_mecha.weighted_sum(merged, model, alpha=setting["weight"] / total)
            return merged
        case "slerp":
            return sd_mecha.slerp(models[0], models[1], alpha=recipe["parameters"]["t"])
        case "task_arithmetic":
            merged = base
            for model, setting in zip(models, parameters, strict=True):
                merged = add_difference(merged, sd_mecha.subtract(model, base), alpha=setting["weight"])
            return merged
        case "ties":
            deltas = [sd_mecha.subtract(model, base) for model in models]
            merged = sd_mecha.ties_sum(*deltas, k=parameters[0]["density"], vote_sgn=True)
            return add_difference(base, merged)
        case method:
            raise SystemExit(f"sd-mecha does not support {method}")


def main(recipe: Path, out: Path) -> None:
    """Merge with sd-mecha's defaults (float32 arithmetic, its threads and buffers) and bfloat16 output."""
    out.mkdir(parents=True, exist_ok=True)
    graph = build(yaml.safe_load(recipe.read_text()))
    sd_mecha.merge(graph, output_dtype=torch.bfloat16, output=(out / "model.safetensors").resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
