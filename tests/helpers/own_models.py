"""Checkpoints and definitions of a model class that no package describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A checkpoint with its own model class."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    values = {"architectures": ["OwnModel"], "num_hidden_layers": 2, "num_experts": 2, **config}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def define(folder: Path, **definition: Any) -> str:
    path = folder / "own.json"
    path.write_text(json.dumps({"classes": ["OwnModel"], **definition}))
    return str(path)


def mixture(seed: int, fused: bool) -> dict[str, torch.Tensor]:
    """Two layers of two experts, with gate, up, and down separate for each expert or fused for all experts."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {"embed.weight": torch.randn(5, 4, generator=draw)}
    for layer in range(2):
        gate, up = torch.randn(2, 2, 3, 4, generator=draw)
        down = torch.randn(2, 4, 3, generator=draw)
        query, key = torch.randn(4, 4, generator=draw), torch.randn(2, 4, generator=draw)
        start = f"layers.{layer}."
        if fused:
            tensors[start + "experts.gate_up"] = torch.cat([gate, up], dim=1)
            tensors[start + "experts.down"] = down
            tensors[start + "qk.weight"] = torch.cat([query, key])
            continue
        tensors |= {start + "q.weight": query, start + "k.weight": key}
        for expert in range(2):
            parts = {"gate": gate, "up": up, "down": down}
            tensors |= {f"{start}experts.{expert}.{name}": part[expert].clone() for name, part in parts.items()}
    return tensors


MIXTURE = {
    "layers": {"count": "num_hidden_layers", "prefix": "layers.{layer}."},
    "before": ["embed.weight"],
    "layer": [
        {
            "name": "experts.gate_up",
            "parts": ["experts.{expert}.gate", "experts.{expert}.up"],
            "each": {"expert": "num_experts"},
        },
        {"name": "experts.down", "parts": ["experts.{expert}.down"], "each": {"expert": "num_experts"}},
        {"name": "qk.weight", "parts": ["q.weight", "k.weight"]},
    ],
}
