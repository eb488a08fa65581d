"""Tiny Llama checkpoints with random weights, written without transformers."""

from __future__ import annotations

import json
from pathlib import Path

LAYERS, HIDDEN, VOCABULARY = 2, 8, 12


def write_model(folder: Path, seed: int, *, dtype: str = "float32", **config) -> Path:
    """A tiny Llama checkpoint with random weights, written without transformers."""
    import torch
    from safetensors.torch import save_file

    generator, rows = torch.Generator().manual_seed(seed), config.get("vocab_size", VOCABULARY)
    shapes = {"model.embed_tokens.weight": (rows, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(config.get("num_hidden_layers", LAYERS)):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (2 * HIDDEN, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, 2 * HIDDEN)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (rows, HIDDEN)
    tensors = {n: torch.randn(s, generator=generator).to(getattr(torch, dtype)) for n, s in shapes.items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    return folder
