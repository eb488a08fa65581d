"""Small bases for PEFT adapters, and their logits with an adapter in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, GPT2Config, LlamaConfig, LlavaConfig

import mergecore

TOKENS = torch.tensor([[1, 5, 9, 3, 7, 5]])
SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = CLIPVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 1}


def llava() -> LlavaConfig:
    text = LlamaConfig(**SIZES)
    return LlavaConfig(vision_config=VISION, text_config=text, image_token_index=60, tie_word_embeddings=False)


BASES: dict[str, tuple[str, Any]] = {
    "tied": ("LlamaForCausalLM", lambda: LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "untied": ("LlamaForCausalLM", lambda: LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "gpt2": ("GPT2LMHeadModel", lambda: GPT2Config(**GPT2)),
    "gpt2 untied": ("GPT2LMHeadModel", lambda: GPT2Config(**GPT2, tie_word_embeddings=False)),
    "llava": ("LlavaForConditionalGeneration", llava),
}
NAMES = {"q": "q_proj", "o": "o_proj", "down": "down_proj", "embedding": "embed_tokens", "norm": "input_layernorm"}
IN_GPT2 = {"q": "c_attn", "o": "attn.c_proj", "down": "mlp.c_proj", "embedding": "wte", "norm": "ln_1"}


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {names.get(key, key): item for key, item in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def shake(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def in_recipe(model_class: Any, folder: Path) -> torch.Tensor:
    models = [{"model": f"{folder}/base+{folder}/adapter"}]
    mergecore.run({"merge_method": "passthrough", "models": models}, folder / "out")
    model, info = model_class.from_pretrained(folder / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return logits(model)
