"""Shapes of published models: their config.json and the name and shape of every tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model. If `experts` is above 0, it is a Mixtral."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    experts: int = 0
    rope_theta: float = 10000.0
    positions: int = 4096

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor in model order, as `{name: shape}`."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in self._layer().items()}
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocab, self.hidden)}

    def _layer(self) -> dict[str, tuple[int, ...]]:
        kv = self.kv_heads * (self.hidden // self.heads)
        up, down = (self.intermediate, self.hidden), (self.hidden, self.intermediate)
        weights: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "post_attention_layernorm": (self.hidden,),
        }
        if not self.experts:
            return weights | {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
        weights["block_sparse_moe.gate"] = (self.experts, self.hidden)
        for expert in range(self.experts):
            weights |= {f"block_sparse_moe.experts.{expert}.{w}": s for w, s in (("w1", up), ("w2", down), ("w3", up))}
        return weights

    def config(self) -> dict[str, Any]:
        """Return the model's config.json as transformers reads it."""
        config: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.architecture.removesuffix("ForCausalLM").lower(),
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.positions,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }
        return config | ({"num_local_experts": self.experts, "num_experts_per_tok": 2} if self.experts else {})


_LLAMA, _MISTRAL, _MIXTRAL = "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"

# tiny is for start-up times. llama-0.25b and llama-4b are not published models, but Llamas in sizes that show scaling.
SHAPES = {
    "tiny": Shape(_LLAMA, 2, 64, 128, 4, 2, 256),
    "llama-0.25b": Shape(_LLAMA, 16, 1024, 2816, 16, 4, 32000),
    "tinyllama-1.1b": Shape(_LLAMA, 22, 2048, 5632, 32, 4, 32000, positions=2048),
    "llama-4b": Shape(_LLAMA, 38, 3072, 8192, 24, 8, 32000),
    "mistral-7b": Shape(_MISTRAL, 32, 4096, 14336, 32, 8, 32000, positions=32768),
    "llama-3-70b": Shape(_LLAMA, 80, 8192, 28672, 64, 8, 128256, rope_theta=500000.0, positions=8192),
    "mixtral-8x7b": Shape(_MIXTRAL, 32, 4096, 14336, 32, 8, 32000, experts=8, rope_theta=1e6, positions=32768),
}


def find_shape(name: str, layers: int | None = None) -> Shape:
    """Return a shape by name, cut to `layers` layers if given, or raise SystemExit with the known names."""
    if name not in SHAPES:
        raise SystemExit(f"Unknown shape {name!r}; choose from: {', '.join(SHAPES)}.")
    return replace(SHAPES[name], layers=layers) if layers else SHAPES[name]
