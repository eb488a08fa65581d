"""Decoder-only language models without experts."""

from __future__ import annotations

from typing import Any

from zoo import SIZES, TEXT, VOCABULARY, Tiny

HEAD = {"num_labels": 3, "pad_token_id": 0}
"""Config values for classification heads."""
BIASES = {"attention_bias": True, "mlp_bias": True}
TIED = {"tie_word_embeddings": True}
FEW: dict[str, Any] = {**TEXT, "pad_token_id": 0}
"""For configs whose default padding token is outside the tiny vocabulary."""
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": VOCABULARY}
NARROW = {"head_dim": 8}
MIXED = {"num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
"""Layers of two types with the same weights. The default slices keep the types in order."""


def heads(family: str, config: str, options: dict[str, Any], *kinds: str) -> list[Tiny]:
    """The classification models of a family, for sequences and tokens unless `kinds` lists other classes."""
    kinds = kinds or ("ForSequenceClassification", "ForTokenClassification")
    return [Tiny(family + kind, config, {**options, **HEAD}) for kind in kinds]


SEQUENCE = "ForSequenceClassification"

MODELS = [
    Tiny("LlamaForCausalLM", "LlamaConfig", TEXT),
    Tiny("LlamaForCausalLM", "LlamaConfig", {**TEXT, **BIASES, **TIED}, label="biases"),
    *heads("Llama", "LlamaConfig", TEXT),
    Tiny("CwmForCausalLM", "CwmConfig", {**TEXT, **MIXED, **NARROW}),
    Tiny("HeliumForCausalLM", "HeliumConfig", {**FEW, **NARROW, **TIED}),
    Tiny("ArceeForCausalLM", "ArceeConfig", TEXT),
    Tiny("ArceeForCausalLM", "ArceeConfig", {**TEXT, **BIASES, **TIED}, label="biases"),
    *heads("Arcee", "ArceeConfig", TEXT),
    Tiny("MistralForCausalLM", "MistralConfig", {**TEXT, **NARROW}),
    *heads("Mistral", "MistralConfig", TEXT),
    Tiny("MinistralForCausalLM", "MinistralConfig", {**TEXT, **MIXED, **NARROW}),
    Tiny("Ministral3ForCausalLM", "Ministral3Config", {**TEXT, **NARROW}),
    Tiny("Qwen2ForCausalLM", "Qwen2Config", {**TEXT, **MIXED, "use_sliding_window": True}),
    Tiny("Qwen2ForCausalLM", "Qwen2Config", {**TEXT, **TIED}, label="tied"),
    *heads("Qwen2", "Qwen2Config", TEXT),
    Tiny("Qwen3ForCausalLM", "Qwen3Config", {**TEXT, **NARROW, **TIED}),
    Tiny("Qwen3ForCausalLM", "Qwen3Config",
         {**TEXT, **NARROW, **MIXED, "attention_bias": True, "use_sliding_window": True}, label="biases"),
    *heads("Qwen3", "Qwen3Config", {**TEXT, **NARROW}),
    Tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    Tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", {**TEXT, **TIED, "attention_bias": False}, label="no-biases"),
    *heads("GPTNeoX", "GPTNeoXConfig", TEXT),
    Tiny("PhiForCausalLM", "PhiConfig", TEXT),
    Tiny("PhiForCausalLM", "PhiConfig", {**TEXT, "qk_layernorm": True}, label="norms"),
    *heads("Phi", "PhiConfig", TEXT),
    Tiny("Phi3ForCausalLM", "Phi3Config", FEW),
    *heads("Phi3", "Phi3Config", TEXT),
    Tiny("GemmaForCausalLM", "GemmaConfig", {**TEXT, **NARROW}),
    Tiny("GemmaForCausalLM", "GemmaConfig", {**TEXT, **NARROW, "attention_bias": True}, label="biases"),
    *heads("Gemma", "GemmaConfig", {**TEXT, **NARROW}),
    Tiny("Gemma2ForCausalLM", "Gemma2Config", {**TEXT, **NARROW, "attention_bias": True}),
    *heads("Gemma2", "Gemma2Config", {**TEXT, **NARROW}),
    Tiny("Gemma3ForCausalLM", "Gemma3TextConfig", {**TEXT, **MIXED, **NARROW, "attention_bias": True}),
    *heads("Gemma3Text", "Gemma3TextConfig", {**TEXT, **NARROW}, SEQUENCE),
    Tiny("GPT2LMHeadModel", "GPT2Config", GPT),
    *heads("GPT2", "GPT2Config", GPT),
    Tiny("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT),
    Tiny("GPTBigCodeForCausalLM", "GPTBigCodeConfig", {**GPT, "multi_query": False}, label="heads"),
    *heads("GPTBigCode", "GPTBigCodeConfig", GPT),
    Tiny("GPTNeoForCausalLM", "GPTNeoConfig",
         {**SIZES, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
          "vocab_size": VOCABULARY}),
    *heads("GPTNeo", "GPTNeoConfig",
           {**SIZES, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
            "vocab_size": VOCABULARY}),
    Tiny("Starcoder2ForCausalLM", "Starcoder2Config", TEXT),
    Tiny("Starcoder2ForCausalLM", "Starcoder2Config",
         {**TEXT, "use_bias": False, "tie_word_embeddings": False}, label="no-biases"),
    *heads("Starcoder2", "Starcoder2Config", TEXT),
    Tiny("StableLmForCausalLM", "StableLmConfig", TEXT),
    Tiny("StableLmForCausalLM", "StableLmConfig",
         {**TEXT, "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}, label="norms"),
    *heads("StableLm", "StableLmConfig", TEXT),
    Tiny("FalconForCausalLM", "FalconConfig", TEXT),
    Tiny("FalconForCausalLM", "FalconConfig",
         {**TEXT, "parallel_attn": False, "bias": True, "alibi": True, "tie_word_embeddings": False}, label="rw"),
    Tiny("FalconForCausalLM", "FalconConfig", {**TEXT, "new_decoder_architecture": True, "num_kv_heads": 1},
         label="new"),
    Tiny("FalconForCausalLM", "FalconConfig",
         {**TEXT, "new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1}, label="one-norm"),
    *heads("Falcon", "FalconConfig", TEXT),
    Tiny("BloomForCausalLM", "BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY}),
    *heads("Bloom", "BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY}),
    Tiny("OPTForCausalLM", "OPTConfig", {**TEXT, "ffn_dim": 24}),
    Tiny("OPTForCausalLM", "OPTConfig",
         {**TEXT, "ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}, label="projected"),
    Tiny("OPTForCausalLM", "OPTConfig",
         {**TEXT, "ffn_dim": 24, "enable_bias": False, "layer_norm_elementwise_affine": False}, label="galactica"),
    *heads("OPT", "OPTConfig", {**TEXT, "ffn_dim": 24}, SEQUENCE),
    Tiny("MptForCausalLM", "MptConfig", {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": VOCABULARY}),
    *heads("Mpt", "MptConfig", {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": VOCABULARY}),
    Tiny("CohereForCausalLM", "CohereConfig", TEXT),
    Tiny("CohereForCausalLM", "CohereConfig", {**TEXT, "use_qk_norm": True, "attention_bias": True}, label="norms"),
    Tiny("Cohere2ForCausalLM", "Cohere2Config", {**TEXT, **MIXED, **NARROW, "attention_bias": True}),
    Tiny("GraniteForCausalLM", "GraniteConfig", {**TEXT, **TIED}),
    Tiny("GraniteForCausalLM", "GraniteConfig", {**TEXT, **BIASES}, label="biases"),
    Tiny("OlmoForCausalLM", "OlmoConfig", FEW),
    Tiny("OlmoForCausalLM", "OlmoConfig", {**FEW, "attention_bias": True}, label="biases"),
    *heads("Olmo", "OlmoConfig", TEXT, SEQUENCE),
    Tiny("Olmo2ForCausalLM", "Olmo2Config", {**FEW, "attention_bias": True}),
    *heads("Olmo2", "Olmo2Config", TEXT, SEQUENCE),
    Tiny("Olmo3ForCausalLM", "Olmo3Config", {**FEW, **MIXED, "attention_bias": True}),
    *heads("Olmo3", "Olmo3Config", TEXT, SEQUENCE),
    Tiny("GlmForCausalLM", "GlmConfig", {**FEW, **NARROW}),
    *heads("Glm", "GlmConfig", {**TEXT, **NARROW}),
    Tiny("Glm4ForCausalLM", "Glm4Config", {**FEW, **NARROW}),
    *heads("Glm4", "Glm4Config", {**TEXT, **NARROW}),
    Tiny("Exaone4ForCausalLM", "Exaone4Config", {**TEXT, **MIXED}),
    *heads("Exaone4", "Exaone4Config", {**TEXT, **MIXED}),
    Tiny("ApertusForCausalLM", "ApertusConfig", {**FEW, "attention_bias": True}),
    *heads("Apertus", "ApertusConfig", TEXT, "ForTokenClassification"),
    Tiny("SmolLM3ForCausalLM", "SmolLM3Config", {**FEW, **BIASES, "no_rope_layers": [1, 0]}),
    *heads("SmolLM3", "SmolLM3Config", TEXT),
    Tiny("Ernie4_5ForCausalLM", "Ernie4_5Config", {**TEXT, **NARROW}),
    Tiny("Ernie4_5ForCausalLM", "Ernie4_5Config", {**TEXT, **NARROW, "use_bias": True}, label="biases"),
]  # fmt: skip
