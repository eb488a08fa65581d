"""Decoder-only language models with experts, state spaces, convolutions, or a mix of layer types."""

from __future__ import annotations

from typing import Any

from zoo import TEXT, VOCABULARY, Tiny
from zoo.decoders import FEW, HEAD, NARROW, SEQUENCE, heads

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
THREE = {"num_hidden_layers": 3}
FIRST_TWICE: Any = {"default": ((0, 1), (0, 3))}
LAST_TWICE: Any = {"default": ((0, 3), (2, 3))}
ALL_TWICE: Any = {"default": ((0, 2), (0, 2))}
QWEN: dict[str, Any] = {**TEXT, **EXPERTS, "num_experts": 4}
LATENT: dict[str, Any] = {
    **FEW, **EXPERTS, **THREE, "n_routed_experts": 4, "num_key_value_heads": 2, "first_k_dense_replace": 1,
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip
GLM: dict[str, Any] = {
    **FEW, **EXPERTS, **THREE, **NARROW, "n_routed_experts": 4, "first_k_dense_replace": 1,
}  # fmt: skip
GRANITE: dict[str, Any] = {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}
HYBRID: dict[str, Any] = {
    **GRANITE, "shared_intermediate_size": 8, "layer_types": ["mamba", "attention"], "mamba_n_heads": 2,
    "mamba_d_state": 4, "mamba_d_head": 16,
}  # fmt: skip
JAMBA: dict[str, Any] = {
    **FEW, "num_hidden_layers": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
    "mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False,
}  # fmt: skip

MODELS = [
    Tiny("MixtralForCausalLM", "MixtralConfig", {**TEXT, "num_local_experts": 4}),
    *heads("Mixtral", "MixtralConfig", {**TEXT, "num_local_experts": 4}),
    Tiny("Qwen2MoeForCausalLM", "Qwen2MoeConfig",
         {**QWEN, **THREE, "shared_expert_intermediate_size": 8, "mlp_only_layers": [0]}, slices=FIRST_TWICE),
    Tiny("Qwen2MoeForCausalLM", "Qwen2MoeConfig",
         {**QWEN, "shared_expert_intermediate_size": 8, "decoder_sparse_step": 2, "qkv_bias": False},
         slices=ALL_TWICE, label="step"),
    *heads("Qwen2Moe", "Qwen2MoeConfig", {**QWEN, "shared_expert_intermediate_size": 8}),
    Tiny("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**QWEN, **NARROW}),
    Tiny("Qwen3MoeForCausalLM", "Qwen3MoeConfig",
         {**QWEN, **THREE, **NARROW, "mlp_only_layers": [0], "attention_bias": True}, slices=FIRST_TWICE,
         label="mixed"),
    *heads("Qwen3Moe", "Qwen3MoeConfig", {**QWEN, **NARROW}),
    Tiny("PhimoeForCausalLM", "PhimoeConfig",
         {**TEXT, "num_local_experts": 4, "attention_bias": True, "lm_head_bias": True}),
    Tiny("PhimoeForCausalLM", "PhimoeConfig", {**TEXT, "num_local_experts": 4, "tie_word_embeddings": True},
         label="no-biases"),
    *heads("Phimoe", "PhimoeConfig", {**TEXT, "num_local_experts": 4}, SEQUENCE),
    Tiny("GraniteMoeForCausalLM", "GraniteMoeConfig", {**GRANITE, "attention_bias": True}),
    Tiny("GraniteMoeSharedForCausalLM", "GraniteMoeSharedConfig", {**GRANITE, "shared_intermediate_size": 8}),
    Tiny("GraniteMoeSharedForCausalLM", "GraniteMoeSharedConfig", GRANITE, label="none"),
    Tiny("GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", HYBRID),
    Tiny("GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig",
         {**HYBRID, "num_local_experts": 0, "attention_bias": True, "mamba_proj_bias": True, "mamba_conv_bias": False},
         label="dense"),
    Tiny("OlmoeForCausalLM", "OlmoeConfig", {**FEW, "num_experts": 4, "num_experts_per_tok": 2}),
    Tiny("FlexOlmoForCausalLM", "FlexOlmoConfig", {**FEW, "num_experts": 4, "num_experts_per_tok": 2}),
    Tiny("Glm4MoeForCausalLM", "Glm4MoeConfig", GLM, slices=LAST_TWICE),
    Tiny("Glm4MoeForCausalLM", "Glm4MoeConfig",
         {**GLM, "attention_bias": True, "use_qk_norm": True}, slices=FIRST_TWICE, label="norms"),
    Tiny("DeepseekV2ForCausalLM", "DeepseekV2Config", LATENT, slices=LAST_TWICE),
    Tiny("DeepseekV2ForCausalLM", "DeepseekV2Config",
         {**LATENT, "q_lora_rank": None, "attention_bias": True, "mlp_bias": True},
         slices=FIRST_TWICE, label="lite"),
    *heads("DeepseekV2", "DeepseekV2Config", LATENT, SEQUENCE),
    Tiny("DeepseekV3ForCausalLM", "DeepseekV3Config", LATENT, slices=LAST_TWICE),
    Tiny("DeepseekV3ForCausalLM", "DeepseekV3Config", {**LATENT, "q_lora_rank": None, "attention_bias": True},
         slices=FIRST_TWICE, label="lite"),
    *heads("DeepseekV3", "DeepseekV3Config", LATENT),
    Tiny("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeConfig",
         {**TEXT, **THREE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 8, "moe_num_shared_experts": 1},
         slices=LAST_TWICE),
    Tiny("GptOssForCausalLM", "GptOssConfig",
         {**FEW, **NARROW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    *heads("GptOss", "GptOssConfig", {**FEW, **NARROW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Tiny("MambaForCausalLM", "MambaConfig",
         {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "time_step_rank": 2}),
    Tiny("MambaForCausalLM", "MambaConfig",
         {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "time_step_rank": 2,
          "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False}, label="biases"),
    Tiny("JambaForCausalLM", "JambaConfig", JAMBA, slices={"default": ((0, 2), (0, 4))}),
    Tiny("JambaForCausalLM", "JambaConfig",
         {**JAMBA, "num_experts": 1, "mamba_proj_bias": True, "mamba_conv_bias": False, "tie_word_embeddings": True},
         slices={"default": ((0, 2), (0, 4))}, label="dense"),
    Tiny("JambaForSequenceClassification", "JambaConfig", {**JAMBA, **HEAD},
         slices={"default": ((0, 2), (0, 4))}),
    Tiny("Lfm2ForCausalLM", "Lfm2Config", {**TEXT, **THREE, "layer_types": ["conv", "full_attention", "conv"]}),
    Tiny("Lfm2ForCausalLM", "Lfm2Config",
         {**TEXT, **THREE, "layer_types": ["conv", "full_attention", "conv"], "conv_bias": True,
          "tie_word_embeddings": False}, label="biases"),
    Tiny("Lfm2MoeForCausalLM", "Lfm2MoeConfig",
         {**FEW, **EXPERTS, **THREE, "num_experts": 4, "num_dense_layers": 1,
          "layer_types": ["conv", "full_attention", "conv"]}, slices=LAST_TWICE),
    Tiny("AfmoeForCausalLM", "AfmoeConfig",
         {**TEXT, **EXPERTS, **THREE, **NARROW, "num_experts": 4, "num_dense_layers": 1, "num_shared_experts": 1,
          "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, slices=LAST_TWICE),
]  # fmt: skip
