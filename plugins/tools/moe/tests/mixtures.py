"""Tiny dense models with a tokenizer, mixture configs for them, and DeepSeek-MoE, which is not in transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from mergecore.cli.app import app

VOCABULARY, LAYERS, HIDDEN = 37, 3, 24
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 28, "num_attention_heads": 3,
    "num_key_value_heads": 1, "num_hidden_layers": LAYERS, "max_position_embeddings": 64,
}  # fmt: skip
SCALED = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
MULTIPLIERS = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2,
}  # fmt: skip
DENSE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {"sliding_window": 5}),  # ignored by Llama, but not by a mixture
    "llama-tied": ("llama", {"tie_word_embeddings": True, "rope_parameters": SCALED}),
    "llama-biased": ("llama", {"attention_bias": True}),
    "llama-silent": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "mistral-wide": ("mistral", {"sliding_window": None, "head_dim": 10}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 6, "attention_bias": True}),
    "qwen3-windows": ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}),
    "ernie": ("ernie4_5", {"head_dim": 10}),
    "ernie-silent": ("ernie4_5", {}),
    "olmo2": ("olmo2", {"attention_bias": True, "pad_token_id": 0}),
    "granite": ("granite", {"attention_bias": True, "tie_word_embeddings": True, **MULTIPLIERS}),
    "granite-silent": ("granite", {}),
    "gemma": ("gemma", {"head_dim": 8}),
}
"""Model type and config keys other than `SIZES`, by name. Those named silent have no other keys."""

PROMPTS = (["w1 w2 w3", "w4 w5"], ["w6"], ["w7 w8 w7 w8"])


def dense(folder: Path, name: str, seed: int, **sizes: int) -> Path:
    """Write a tiny dense model with random weights, biases, and norms, and a tokenizer with the words w0, w1, ..."""
    kind, extra = DENSE[name]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **extra, **sizes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    if name.endswith("-silent"):
        kept = {**SIZES, "model_type": kind, "architectures": [type(model).__name__], "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(kept), "utf-8")
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY + 1)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def config(base: Path, experts: Sequence[Path], **more: Any) -> dict[str, Any]:
    """Return a config with prompts for each expert."""
    listed = [{"source_model": str(model), "positive_prompts": PROMPTS[n]} for n, model in enumerate(experts)]
    return {"base_model": str(base), "experts": listed, **more}


def mix(folder: Path, value: Any, *options: str) -> Path:
    """Run `mergecore moe` on a config as on the command line, but raise errors."""
    path, out = folder / "moe.yml", folder / "out"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False), "utf-8")
    app(args=["moe", str(path), str(out), "--quiet", "--workers", "1", *options], standalone_mode=False)
    return out


@cache
def deepseek() -> Any:
    """DeepSeek-MoE as in its paper (https://arxiv.org/abs/2401.06066, equations 9 to 11), in plain loops."""

    class Deepseek(transformers.LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for layer in self.model.layers:
                layer.mlp = DeepseekExperts(config)

    return Deepseek


class DeepseekExperts(torch.nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        one = transformers.LlamaConfig(**{**SIZES, "hidden_act": config.hidden_act})
        mlp = transformers.models.llama.modeling_llama.LlamaMLP
        self.gate = torch.nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        self.experts = torch.nn.ModuleList(mlp(one) for _ in range(config.n_routed_experts))
        if config.n_shared_experts:
            self.shared_experts = mlp(one)
        self.active = config.num_experts_per_tok

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        chances, chosen = self.gate(tokens).softmax(-1).topk(self.active)
        chances = chances / chances.sum(-1, keepdim=True)  # norm_topk_prob
        every = torch.stack([expert(tokens) for expert in self.experts], dim=-2)
        routed = every.gather(-2, chosen[..., None].expand(*chosen.shape, every.shape[-1]))
        result = (routed * chances[..., None]).sum(-2)
        return result + self.shared_experts(tokens) if hasattr(self, "shared_experts") else result


def loaded(folder: Path) -> Any:
    """Load the model in a folder with transformers, checking that no key is unused or missing."""
    settings = transformers.PretrainedConfig.get_config_dict(folder)[0]
    if settings["model_type"] == "deepseek":
        settings = {key: value for key, value in settings.items() if key not in ("auto_map", "model_type")}
        return _strict(deepseek(), folder, config=transformers.LlamaConfig(**settings))
    return _strict(transformers.AutoModelForCausalLM, folder)


def _strict(kind: Any, folder: Path, **more: Any) -> Any:
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **more)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def logits(model: Any, tokens: int = 16) -> torch.Tensor:
    """Return the logits for a text that is longer than the attention windows above."""
    with torch.inference_mode():
        return model(torch.arange(tokens)[None] * 7 % VOCABULARY).logits
