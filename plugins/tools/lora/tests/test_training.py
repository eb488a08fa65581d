"""`base+adapter` computes what PEFT's model computes in training, where merging with PEFT can change more."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft_bases import BASES, IN_GPT2, NAMES, in_recipe, logits, renamed, shake
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import mergecore
from mergecore.errors import MergecoreError

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["q", "down"]},
    "square": {"target_modules": ["o"]},
    "every linear layer": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q", "o"], "use_rslora": True},
    "dora": {"target_modules": ["q", "o", "down"], "use_dora": True},
    "patterns": {"target_modules": ["q", "o"], "rank_pattern": {"o": 2}, "alpha_pattern": {"q": 3}},
    "some layers": {"target_modules": ["q"], "layers_to_transform": [1]},
    "all biases": {"target_modules": ["q"], "bias": "all"},
    "biases of the targets": {"target_modules": ["q"], "bias": "lora_only"},
    "biases of the factors": {"target_modules": ["q", "o"], "lora_bias": True},
    "embedding": {"target_modules": ["q", "embedding"]},
    "embedding and head": {"target_modules": ["embedding", "lm_head"]},
    "head": {"target_modules": ["lm_head"]},
    "tied embedding": {"target_modules": ["q", "embedding"], "ensure_weight_tying": True},
    "saved embedding": {"target_modules": ["q"], "modules_to_save": ["embedding"]},
    "saved head": {"target_modules": ["q"], "modules_to_save": ["lm_head"]},
    "saved embedding and head": {"target_modules": ["q"], "modules_to_save": ["embedding", "lm_head"]},
    "saved tied embedding": {"target_modules": ["q"], "modules_to_save": ["embedding"], "ensure_weight_tying": True},
    "saved norms": {"target_modules": ["q"], "modules_to_save": ["norm"]},
    "trained rows": {"target_modules": ["q"], "trainable_token_indices": [5, 9]},
    "trained rows of the embedding": {"target_modules": ["q"], "trainable_token_indices": {"embedding": [5, 9]}},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("what", OPTIONS)
def test_the_logits_are_those_of_training(what: str, base: str, tmp_path: Path) -> None:
    if base == "gpt2" and "ensure_weight_tying" in OPTIONS[what]:
        pytest.skip("PEFT warns that it ties only embeddings named embed_tokens; a recipe does what the flag says")
    name, config = BASES[base]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model_class(config()).save_pretrained(tmp_path / "base")
    names = IN_GPT2 if base.startswith("gpt2") else NAMES
    options = {key: renamed(value, names) for key, value in OPTIONS[what].items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wrapped = peft.get_peft_model(
                model_class.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=4, **options)
            )
        except (ValueError, AttributeError, KeyError, RuntimeError) as error:
            pytest.skip(f"PEFT cannot do this: {error}"[:100])
        shake(wrapped, 1)
        wanted = logits(wrapped)
        wrapped.save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(model_class.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    if (logits(again) - wanted).abs().max() > 1e-5:
        pytest.skip("PEFT does not load what it saved")
    assert (wanted - logits(model_class.from_pretrained(tmp_path / "base"))).abs().max() > 1e-4
    if what == "biases of the factors" and not base.startswith("gpt2"):
        with pytest.raises(MergecoreError, match=r"adds a bias \(lora_bias\), but .* has no '.*o_proj.bias'"):
            in_recipe(model_class, tmp_path)
        return
    assert (in_recipe(model_class, tmp_path) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("base", ["untied", "gpt2"])
def test_which_way_a_square_weight_lies_is_up_to_the_base(base: str, flag: bool, tmp_path: Path) -> None:
    name, config = BASES[base]
    model_class = getattr(transformers, name)
    model_class(config()).save_pretrained(tmp_path / "base")
    options = {"target_modules": renamed(["o"], IN_GPT2 if base == "gpt2" else NAMES)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model_class.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=4, **options))
    shake(wrapped, 1)
    wrapped.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fan_in_fan_out": flag}))
    assert (in_recipe(model_class, tmp_path) - logits(wrapped)).abs().max() < 1e-5


RESIZED: dict[str, dict[str, Any]] = {
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved because of the new size": {"target_modules": ["q_proj"]},
    "factors on both": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
}


@pytest.mark.parametrize("rows", [70, 128, 60])
@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("what", RESIZED)
def test_a_resized_vocabulary(what: str, base: str, rows: int, tmp_path: Path) -> None:
    name, config = BASES[base]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model_class(config()).save_pretrained(tmp_path / "base")
    model = model_class.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(rows)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, **RESIZED[what]))
        shake(wrapped, 1)
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    assert (in_recipe(model_class, tmp_path) - logits(wrapped)).abs().max() < 1e-5
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows


def test_a_resized_vocabulary_that_was_not_saved(tmp_path: Path) -> None:
    name, config = BASES["untied"]
    model_class = getattr(transformers, name)
    model_class(config()).save_pretrained(tmp_path / "base")
    model = model_class.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(70)
        options = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        peft.get_peft_model(model, options).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(MergecoreError, match=r"resizes only a part of the vocabulary.*save_embedding_layers=True"):
        in_recipe(model_class, tmp_path)


def write_tokenizer(folder: Path, *new: str) -> None:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"t{number}": number for number in range(3, 60)}}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>", eos_token="</s>"
    )
    if new:
        fast.add_special_tokens({"additional_special_tokens": list(new)})
        fast.chat_template = "{% for m in messages %}<|a|>{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


@pytest.fixture
def with_tokens(tmp_path: Path) -> torch.Tensor:
    """A base and an adapter with a tokenizer of its own, whose new tokens have trained rows. Return these rows."""
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(BASES["untied"][1]()).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    options = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    wrapped = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base"), options)
    shake(wrapped, 1)
    wrapped.save_pretrained(tmp_path / "adapter")
    write_tokenizer(tmp_path / "adapter", "<|a|>", "<|b|>")
    return load_file(tmp_path / "adapter" / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"]


@pytest.mark.parametrize("source", ["", "{0}/base+{0}/adapter", "{0}/adapter"])
def test_the_adapters_tokenizer_is_used(source: str, with_tokens: torch.Tensor, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "merge_method": "passthrough",
        "models": [{"model": f"{tmp_path}/base+{tmp_path}/adapter"}],
    }
    if source:
        recipe["tokenizer"] = {"source": source.format(tmp_path)}
    out = mergecore.run(recipe, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    number = tokenizer.convert_tokens_to_ids("<|b|>")
    assert number == 61 and tokenizer.chat_template
    assert torch.equal(load_file(out / "model.safetensors")["model.embed_tokens.weight"][number], with_tokens[number])


@pytest.mark.parametrize("source", ["{0}/base+{0}/adapter", "{0}/adapter", "union"])
def test_next_to_the_base_its_tokens_keep_their_rows(source: str, with_tokens: torch.Tensor, tmp_path: Path) -> None:
    """Only the adapter's model has these tokens, so their rows come from it alone."""
    models = [{"model": f"{tmp_path}/base+{tmp_path}/adapter", "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": f"{tmp_path}/base", "models": models}
    out = mergecore.run({**recipe, "tokenizer": {"source": source.format(tmp_path)}}, tmp_path / "out")
    number = transformers.AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("<|b|>")
    row = load_file(out / "model.safetensors")["model.embed_tokens.weight"][number]
    assert torch.allclose(row, with_tokens[61], atol=1e-6)
