"""Encoders for text, images, and audio, and sequence-to-sequence models."""

from __future__ import annotations

import torch

from zoo import TEXT, VOCABULARY, Inputs, Tiny, tokens

Spans = tuple[tuple[int, int], ...]
DUPLICATED: Spans = ((0, 1), (0, 2))
"""Layer ranges for a three-layer model from a two-layer model."""

LATER: Spans = ((0, 2), (1, 3))
"""The same, for models in which only the first layer does not have a weight."""

HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "MultipleChoice", "QuestionAnswering")

BERT = {**TEXT, "max_position_embeddings": 16, "pad_token_id": 0}
DISTILBERT = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "n_layers": 2, "n_heads": 2, "dim": 16,
              "hidden_dim": 24, "sinusoidal_pos_embds": False}  # fmt: skip
MODERNBERT = {**TEXT, "num_hidden_layers": 3, "local_attention": 4, "max_position_embeddings": 32, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True, "decoder_bias": False}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 2,
      "num_decoder_layers": 3}  # fmt: skip
WHISPER = {"vocab_size": VOCABULARY, "num_mel_bins": 4, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3,
           "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
           "max_source_positions": 6, "max_target_positions": 12, "pad_token_id": 0, "bos_token_id": 1,
           "eos_token_id": 2, "decoder_start_token_id": 3}  # fmt: skip
VIT = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 4,
       "patch_size": 2}  # fmt: skip
CLIP_TEXT = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
             "num_hidden_layers": 3, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 6}  # fmt: skip
CLIP = {"text_config": CLIP_TEXT, "vision_config": VIT, "projection_dim": 8}
SIGLIP = {"text_config": {**CLIP_TEXT, "max_position_embeddings": 8}, "vision_config": VIT}


def choices() -> Inputs:
    """A question with two answers."""
    return {"input_ids": torch.tensor([[[3, 1, 4, 1], [5, 9, 2, 6]]])}


def translation() -> Inputs:
    return {**tokens(), "decoder_input_ids": torch.tensor([[2, 7, 1]])}


def image() -> Inputs:
    return {"pixel_values": torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)}


def captioned() -> Inputs:
    return {**tokens(), **image()}


def sound() -> Inputs:
    return {
        "input_features": torch.linspace(-1, 1, 48).reshape(1, 4, 12),
        "decoder_input_ids": torch.tensor([[3, 7, 1]]),
    }


def family(name: str, heads: tuple[str, ...], options: dict[str, object], spans: Spans = DUPLICATED) -> list[Tiny]:
    """The base model and the models with task heads."""
    names = [f"{name}Model", *(f"{name}For{head}" for head in heads)]
    inputs = [choices if name.endswith("MultipleChoice") else tokens for name in names]
    return [Tiny(one, f"{name}Config", options, use, {"default": spans}) for one, use in zip(names, inputs)]


BOTH = {"encoder": DUPLICATED, "decoder": ((0, 1), (0, 3))}
MODELS = [
    *family("Bert", (*HEADS, "NextSentencePrediction", "PreTraining"), BERT),
    *family("DistilBert", HEADS, DISTILBERT),
    *family("Roberta", HEADS, BERT),
    *family("XLMRoberta", HEADS, BERT),
    *family("ModernBert", HEADS, MODERNBERT, LATER),
    Tiny("BertForMaskedLM", "BertConfig", {**BERT, "tie_word_embeddings": False}, label="untied"),
    Tiny("ModernBertForMaskedLM", "ModernBertConfig", {**MODERNBERT, **BIASES}, slices={"default": LATER},
         label="biases"),
    Tiny("T5ForConditionalGeneration", "T5Config", T5, translation, BOTH),
    Tiny("T5ForConditionalGeneration", "T5Config",
         {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, translation, BOTH, "gated"),
    Tiny("MT5ForConditionalGeneration", "MT5Config", T5, translation, BOTH),
    Tiny("T5Model", "T5Config", T5, translation, BOTH),
    Tiny("T5EncoderModel", "T5Config", T5),
    Tiny("WhisperForConditionalGeneration", "WhisperConfig", WHISPER, sound, BOTH),
    Tiny("ViTModel", "ViTConfig", VIT, image),
    Tiny("ViTModel", "ViTConfig", {**VIT, "qkv_bias": False}, image, label="bare"),
    Tiny("ViTForImageClassification", "ViTConfig", VIT, image),
    Tiny("CLIPModel", "CLIPConfig", CLIP, captioned, {"text": ((0, 1), (0, 3)), "vision": DUPLICATED}),
    Tiny("CLIPTextModel", "CLIPTextConfig", CLIP_TEXT),
    Tiny("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP_TEXT),
    Tiny("CLIPVisionModel", "CLIPVisionConfig", VIT, image),
    Tiny("CLIPVisionModelWithProjection", "CLIPVisionConfig", VIT, image),
    Tiny("SiglipModel", "SiglipConfig", SIGLIP, captioned, {"text": ((0, 1), (0, 3)), "vision": DUPLICATED}),
    Tiny("SiglipTextModel", "SiglipTextConfig", {**CLIP_TEXT, "max_position_embeddings": 8}),
    Tiny("SiglipVisionModel", "SiglipVisionConfig", VIT, image),
]  # fmt: skip
