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


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter for one module of the tiny Llama, as PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{name}A.weight": torch.ones(2, HIDDEN), f"{name}B.weight": torch.ones(HIDDEN, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
