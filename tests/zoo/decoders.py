"""Decoder-only language models."""

from __future__ import annotations

from zoo import TEXT, Tiny

MODELS = [
    Tiny("LlamaForCausalLM", "LlamaConfig", TEXT),
    Tiny("LlamaForCausalLM", "LlamaConfig", {**TEXT, "attention_bias": True, "mlp_bias": True}, label="biases"),
]
