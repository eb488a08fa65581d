"""Language models merge into the text part of vision-language models. Alternative tensor names are supported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from zoo import FAULTS, Fault, Tiny
from zoo.composites import MODELS
from zoo.encoders import MODELS as ENCODERS

import mergecore

LANGUAGE = {
    "LlavaForConditionalGeneration": "LlamaForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
    "Qwen2VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "PaliGemmaForConditionalGeneration": "GemmaForCausalLM",
}
"""Class of a composite model → class of a language model that matches its text part."""
NOT_TEXT = {"model_type", "rope_parameters", "layer_types", "dtype"}


def tiny(name: str, label: str = "") -> Tiny:
    return next(model for model in (*MODELS, *ENCODERS) if (model.name, model.label) == (name, label))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def save(model: Tiny, folder: Path) -> Path:
    model.build().save_pretrained(folder)
    return folder


def language_model(like: Tiny, folder: Path) -> Path:
    """A language model with the sizes of a composite's text part and different weights."""
    config = getattr(transformers, like.config)(**like.options).text_config.to_dict()
    name = LANGUAGE[like.name]
    kind = getattr(transformers, name).config_class.__name__
    text = {key: value for key, value in config.items() if key not in NOT_TEXT}
    made = Tiny(name, kind, {**text, "tie_word_embeddings": "Gemma" in name})
    model = made.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(folder)
    return folder


def linear(*models: Path, **rest: Any) -> dict[str, Any]:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": entries, **rest}


def text_name(name: str, names: Mapping[str, Any]) -> str:
    """Return the name in a composite model for a weight of a language model."""
    candidates = ("language_model." + name, name, "model.language_model." + name.removeprefix("model."))
    return next(candidate for candidate in candidates if candidate in names)


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_merges_into_the_text_part(name: str, tmp_path: Path) -> None:
    composite = tiny(name)
    base, other = save(composite, tmp_path / "base"), language_model(composite, tmp_path / "other")
    mergecore.run(linear(base, other), tmp_path / "out")
    before, told = weights(base), weights(other)
    merged = weights(tmp_path / "out")
    text = {text_name(key, before): value for key, value in told.items()}
    seen = 0
    for key, value in merged.items():
        old = key if key in before else key.replace("vision_tower.vision_model.", "vision_tower.")
        if key in text:
            mean = (before[old].double() + text[key].double()) / 2
            np.testing.assert_allclose(value, mean, rtol=2e-7, atol=1e-8)
            seen += 1
        else:
            assert torch.equal(value, before[old]), key
    assert seen == len(told) and len(merged) == len(before)
    composite.load(tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_classes_that_a_release_of_transformers_breaks_run_there_too(fault: Fault) -> None:
    """All other tests work around these bugs. This test is an expected failure until transformers fixes them."""
    model = tiny(fault.name)
    assert model.outputs(model.build())
    options = getattr(transformers, model.config)(**model.options)
    try:
        getattr(transformers, model.name)(options).eval()(**model.inputs(), return_dict=True)
    except fault.error as error:
        pytest.xfail(f"{fault}: {error}")


LEGACY = {
    "LlavaForConditionalGeneration": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_model.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "Gemma3ForConditionalGeneration": {"vision_tower.": "vision_tower.vision_model."},
    "Qwen2VLForConditionalGeneration": {"visual.": "model.visual.", "model.": "model.language_model."},
    "Qwen3VLForConditionalGeneration": {"model.visual.": "visual.", "model.language_model.": "model."},
    "Llama4ForConditionalGeneration": {"language_model.model.": "model.language_model.", "language_model.": ""},
    "CLIPTextModel": {"": "text_model."},
    "SiglipVisionModel": {"": "vision_model."},
    "BertModel": {"": "bert."},
    "BertForMaskedLM": {"bert.": ""},
    "RobertaForSequenceClassification": {"roberta.": ""},
    "DistilBertModel": {"": "distilbert."},
    "ModernBertForMaskedLM": {"model.": ""},
    "ViTModel": {"": "vit."},
    "WhisperForConditionalGeneration": {"model.": ""},
}
"""Alternative name prefixes in published checkpoints of these classes: canonical → alternative."""


@pytest.mark.parametrize("name", LEGACY)
def test_other_prefixes_are_understood(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    base = save(model, tmp_path / "base")
    other = relabelled(base, tmp_path / "other", lambda key: renamed(key, LEGACY[name]))
    assert weights(base).keys() != weights(other).keys()
    mergecore.run(linear(base, other), tmp_path / "both")
    mergecore.run({"merge_method": "passthrough", "models": [{"model": str(other)}]}, tmp_path / "alone")
    first, second = weights(tmp_path / "both"), weights(tmp_path / "alone")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    expected = model.outputs(model.build())
    assert all(map(torch.equal, model.outputs(model.load(tmp_path / "alone")), expected))


def renamed(key: str, prefixes: Mapping[str, str]) -> str:
    start = next((start for start in prefixes if key.startswith(start)), None)
    return key if start is None else prefixes[start] + key.removeprefix(start)


def relabelled(folder: Path, target: Path, name: Any) -> Path:
    """Copy a checkpoint and rename its tensors."""
    target.mkdir()
    save_file({name(key): value for key, value in weights(folder).items()}, target / "model.safetensors")
    (target / "config.json").write_text((folder / "config.json").read_text("utf-8"), "utf-8")
    return target


@pytest.mark.parametrize("name", ["BertForPreTraining", "RobertaModel", "DistilBertForMaskedLM"])
def test_gamma_and_beta_are_weight_and_bias(name: str, tmp_path: Path) -> None:
    base = save(tiny(name), tmp_path / "base")

    def old(key: str) -> str:
        return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    other = relabelled(base, tmp_path / "other", old)
    assert any("gamma" in key for key in weights(other))
    mergecore.run(linear(other, base), tmp_path / "out")
    merged, expected = weights(tmp_path / "out"), weights(base)
    assert merged.keys() == expected.keys() and all(torch.equal(merged[key], expected[key]) for key in merged)


def test_a_bare_encoder_merges_into_one_with_a_head(tmp_path: Path) -> None:
    """The head, which the encoder does not have, is copied unchanged. The rest is merged."""
    full = save(tiny("BertForSequenceClassification"), tmp_path / "full")
    bare = save(tiny("BertModel"), tmp_path / "bare")
    one, two = weights(full), {f"bert.{key}": value for key, value in weights(bare).items()}
    mergecore.run(linear(full, bare, parameters={"normalize": False}), tmp_path / "out")
    merged = weights(tmp_path / "out")
    assert merged.keys() == one.keys()
    for key, value in merged.items():
        mean = (one[key].double() + two[key].double()) / 2 if key in two else one[key].double()
        np.testing.assert_allclose(value, mean, rtol=2e-7, atol=1e-8)


def test_slicing_the_text_part_cuts_the_nested_config(tmp_path: Path) -> None:
    base = save(tiny("Llama4ForConditionalGeneration"), tmp_path / "base")
    pieces = [{"sources": [{"model": str(base), "layer_range": span}]} for span in ([0, 1], [2, 3], [2, 3])]
    whole = {"models": [{"model": str(base)}]}
    modules = {"text": {"slices": pieces}, "vision": whole, "projector": whole}
    config = mergecore.plan({"merge_method": "passthrough", "modules": modules}).config
    assert config["text_config"]["num_hidden_layers"] == 3 and config["vision_config"]["num_hidden_layers"] == 2
    assert config["text_config"]["moe_layers"] == [1, 2]
    assert config["text_config"]["no_rope_layers"] == [1, 1, 1]
    assert config["text_config"]["layer_types"] == ["chunked_attention"] * 3


def test_counts_that_a_composite_leaves_to_defaults_are_those_of_its_layers(tmp_path: Path) -> None:
    """Published LLaVA configs do not contain the number of layers of the text part."""
    model = tiny("LlavaForConditionalGeneration")
    base = save(model, tmp_path / "base")
    config = json.loads((base / "config.json").read_text("utf-8"))
    for part in ("text_config", "vision_config"):
        del config[part]["num_hidden_layers"]
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    mergecore.run({"merge_method": "passthrough", "models": [{"model": str(base)}]}, tmp_path / "out")
    loaded = model.load(tmp_path / "out").config
    assert loaded.text_config.num_hidden_layers == loaded.vision_config.num_hidden_layers == 2


def test_a_stored_copy_of_a_tied_head_leaves_the_config_as_it_is(tmp_path: Path) -> None:
    """Published BERT weights contain the head that is tied to the embedding, but not the head's bias."""
    model = tiny("BertForMaskedLM")
    base = save(model, tmp_path / "base")
    tensors = weights(base)
    head = tensors["bert.embeddings.word_embeddings.weight"].clone()
    save_file({**tensors, "cls.predictions.decoder.weight": head}, base / "model.safetensors")
    mergecore.run({"merge_method": "passthrough", "models": [{"model": str(base)}]}, tmp_path / "out")
    made = model.load(tmp_path / "out")
    assert made.config.tie_word_embeddings
    assert all(map(torch.equal, model.outputs(made), model.outputs(model.build())))
