"""Tiny models of any class of transformers, from the class's default config with all sizes reduced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model", "out_hidden_size", "encoder_hidden_size"), 32),
    **dict.fromkeys(("projection_dim", "projector_hidden_size", "block_dim"), 32),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "ffn_hidden_size", "block_ff_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "num_hidden_blocks", "depth", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "kv_channels", "num_experts_per_tok"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "patch_size", "mm_tokens_per_image"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "temporal_patch_size"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_mel_bins", "num_position_embeddings"), 16),
    **dict.fromkeys(("linear_num_key_heads", "spatial_merge_size", "num_codebooks", "max_window_layers"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "window_size", "sliding_window", "image_size"), 8),
    **{"linear_num_value_heads": 4, "vocab_size": 104, "max_position_embeddings": 64, "num_kv_shared_layers": 0},
    **{"vision_feature_layer": -1, "deepstack_visual_indexes": [0], "fullatt_block_indexes": [1], "conv_L_cache": 3},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "image_token_id": 60, "image_token_index": 60},
    **{"video_token_id": 61, "audio_token_id": 62, "vision_start_token_id": 63, "vision_end_token_id": 64},
}
"""Values of config keys, in every part of a config."""


def shrunk_config(model_class: Any, layers: int = 2) -> Any:
    """The default config of a class with these sizes. Many classes cannot be reduced so, and raise any exception."""
    return model_class.config_class.from_dict(_shrunk(model_class.config_class().to_dict(), layers))


def _shrunk(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("rope_parameters", "rope_scaling") and isinstance(value, dict) and "mrope_section" in value:
            result[key] = {**value, "mrope_section": [1, 1, 2]}
        elif isinstance(value, dict) and ("config" in key or "model_type" in value):
            result[key] = _shrunk(value, layers)
        elif key in ("layer_types", "mlp_layer_types") and isinstance(value, list):
            result[key] = value[:layers]
        elif key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") and isinstance(value, int):
            result[key] = layers
        else:
            result[key] = SIZES[key] if key in SIZES and value is not None else value
    return result


def write_with_text(name: str, base: Path, text: Path) -> tuple[Any, Any]:
    """Write a model of a class, and a language model with the config of its text part, with other random weights.

    Return the class and the language model.
    """
    model_class = getattr(transformers, name)
    config = shrunk_config(model_class)
    torch.manual_seed(1)
    model_class(config).save_pretrained(base)
    part = config.get_text_config()
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(type(part).from_dict(part.to_dict()))
    model.save_pretrained(text)
    return model_class, model.eval()


def causal_classes() -> list[str]:
    """Every class of transformers for text generation that is a model on its own."""
    return [name for name in dir(transformers) if name.endswith(("ForCausalLM", "LMHeadModel"))]


def classes_with_text() -> Iterator[str]:
    """Every class of transformers that contains a language model next to other parts."""
    for name in dir(transformers):
        if name.endswith(("ForConditionalGeneration", "ForCausalLM")):
            config_class = getattr(getattr(transformers, name), "config_class", None)
            if "text_config" in (getattr(config_class, "sub_configs", None) or {}):
                yield name
