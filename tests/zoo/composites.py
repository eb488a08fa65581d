"""Vision-language models: a text model, a vision tower, and the connector between them."""

from __future__ import annotations

import torch

from zoo import TEXT, VOCABULARY, Inputs, Tiny, tokens
from zoo.encoders import DUPLICATED, VIT, image

BOTH = {"text": DUPLICATED, "vision": DUPLICATED}
IMAGE_TOKEN = 7

LLAMA = {**TEXT, "model_type": "llama", "pad_token_id": 0}
LLAVA = {"image_token_index": IMAGE_TOKEN, "vision_feature_layer": -1, "text_config": LLAMA,
         "vision_config": {**VIT, "model_type": "clip_vision_model"}}  # fmt: skip
WHOLE = {"vision_feature_select_strategy": "full"}
SIGLIP = {**VIT, "model_type": "siglip_vision_model", "vision_use_head": False}
PIXTRAL = {**VIT, "image_size": 8, "model_type": "pixtral"}
MISTRAL = {**LLAMA, "model_type": "mistral"}
MISTRAL3 = {"image_token_index": IMAGE_TOKEN, "vision_feature_layer": -1, "text_config": MISTRAL,
            "vision_config": PIXTRAL, "tie_word_embeddings": False}  # fmt: skip
QWEN_TEXT = {**TEXT, "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
             "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}  # fmt: skip
QWEN_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 8, "vision_start_token_id": 10,
               "vision_end_token_id": 11}  # fmt: skip
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2}
QWEN2_VL = {**QWEN_TOKENS, "text_config": QWEN_TEXT,
            "vision_config": {**QWEN_VISION, "embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2}}  # fmt: skip
QWEN2_5_VL = {**QWEN_TOKENS, "text_config": QWEN_TEXT,
              "vision_config": {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24,
                                "window_size": 4, "fullatt_block_indexes": [1]}}  # fmt: skip
QWEN3_VISION = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24,
                "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}  # fmt: skip
QWEN3_VL = {**QWEN_TOKENS, "text_config": {**QWEN_TEXT, "head_dim": 8}, "vision_config": QWEN3_VISION}
QWEN3_VL_MOE = {**QWEN3_VL, "text_config": {**QWEN3_VL["text_config"], "num_hidden_layers": 3, "num_experts": 3,
                "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [1]}}  # fmt: skip
GEMMA3 = {"image_token_index": IMAGE_TOKEN, "boi_token_index": 8, "eoi_token_index": 10, "mm_tokens_per_image": 4,
          "text_config": {**TEXT, "head_dim": 8, "pad_token_id": 0,
                          "layer_types": ["sliding_attention", "full_attention"]},
          "vision_config": SIGLIP}  # fmt: skip
LLAMA4_TEXT = {**TEXT, "num_hidden_layers": 3, "head_dim": 8, "intermediate_size": 12, "intermediate_size_mlp": 24,
               "num_local_experts": 2, "moe_layers": [1, 2], "no_rope_layers": [1, 0, 1], "pad_token_id": 0,
               "attention_chunk_size": 8}  # fmt: skip
LLAMA4 = {"image_token_index": IMAGE_TOKEN, "boi_token_index": 8, "eoi_token_index": 10, "text_config": LLAMA4_TEXT,
          "vision_config": {**VIT, "intermediate_size": 64, "vision_output_dim": 16, "projector_input_dim": 16,
                            "projector_output_dim": 16, "pixel_shuffle_ratio": 0.5}}  # fmt: skip
PALIGEMMA = {"image_token_index": IMAGE_TOKEN, "projection_dim": 16, "hidden_size": 16, "vocab_size": VOCABULARY,
             "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8, "pad_token_id": 0},
             "vision_config": SIGLIP}  # fmt: skip


def seen(places: int) -> Inputs:
    """A text with an image at the token positions `places`."""
    ids = torch.tensor([[3, *[IMAGE_TOKEN] * places, 1, 5, 9]])
    return {"input_ids": ids, **image()}


def four() -> Inputs:
    return seen(4)


def one() -> Inputs:
    return seen(1)


def wide(places: int) -> Inputs:
    """An image of 2 by 4 patches."""
    pixels = torch.linspace(-1, 1, 96).reshape(1, 3, 4, 8)
    return {**seen(places), "pixel_values": pixels, "image_sizes": torch.tensor([[4, 8]])}


def two() -> Inputs:
    return wide(2)


def eight() -> Inputs:
    return wide(8)


def patches() -> Inputs:
    """Inputs as from Qwen's image processor: four patches, merged to one token."""
    ids = torch.tensor([[3, 10, IMAGE_TOKEN, 11, 5, 9]])
    pixels = torch.linspace(-1, 1, 4 * 24).reshape(4, 24)
    return {
        "input_ids": ids,
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
    }


MODELS = [
    Tiny("LlavaForConditionalGeneration", "LlavaConfig", LLAVA, four, BOTH),
    Tiny("LlavaForConditionalGeneration", "LlavaConfig",
         {**LLAVA, **WHOLE, "vision_config": SIGLIP, "multimodal_projector_bias": False}, four, BOTH, "siglip"),
    Tiny("LlavaForConditionalGeneration", "LlavaConfig",
         {**LLAVA, **WHOLE, "text_config": MISTRAL, "vision_config": PIXTRAL}, eight, BOTH, "pixtral"),
    Tiny("LlavaNextForConditionalGeneration", "LlavaNextConfig", LLAVA, tokens, BOTH),
    Tiny("Mistral3ForConditionalGeneration", "Mistral3Config", MISTRAL3, two, BOTH),
    Tiny("Qwen2VLForConditionalGeneration", "Qwen2VLConfig", QWEN2_VL, patches, BOTH),
    Tiny("Qwen2VLForConditionalGeneration", "Qwen2VLConfig", {**QWEN2_VL, "tie_word_embeddings": True}, patches, BOTH,
         "tied"),
    Tiny("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", QWEN2_5_VL, patches, BOTH),
    Tiny("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", QWEN3_VL, patches, BOTH),
    Tiny("Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeConfig", QWEN3_VL_MOE, patches,
         {"text": ((0, 1), (0, 3)), "vision": DUPLICATED}),
    Tiny("Gemma3ForConditionalGeneration", "Gemma3Config", GEMMA3, four, BOTH),
    Tiny("Llama4ForConditionalGeneration", "Llama4Config", LLAMA4, one,
         {"text": ((0, 2), (0, 3)), "vision": DUPLICATED}),
    Tiny("Llama4ForCausalLM", "Llama4TextConfig", LLAMA4_TEXT, tokens, {"default": ((0, 2), (0, 3))}),
    Tiny("PaliGemmaForConditionalGeneration", "PaliGemmaConfig", PALIGEMMA, four, BOTH),
]  # fmt: skip
